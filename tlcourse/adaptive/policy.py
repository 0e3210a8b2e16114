r"""Decisions that can be learnt: 0 or 1 on the way forward, a slope on the way back.

SpotTune asks for each sample and each layer: the tuned path or the frozen one? A hard choice has no
gradient. The Gumbel-softmax trick draws the choice at random and lets the gradient of a soft one
through in its place, so that the network that decides learns along with the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tlcourse._checks import (
    check_dtype,
    check_finite,
    check_float_tensor,
    check_int,
    check_number,
    check_temperature,
    readable,
    shape_of,
    sum_is_finite,
    wide_dtype,
    widened,
)
from tlcourse.models import Classifier


def gumbel_policy(
    logits: Tensor,
    *,
    temperature: float = 5.0,
    training: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return a 0/1 decision for each pair of logits: 1 is "tuned", 0 is "frozen".

    In training the decision is drawn, and its gradient is that of a soft decision:

    .. math::

        I = \Big[\arg\max_{j \in \{0, 1\}} (a_j + G_j) = 1\Big], \qquad
        \frac{\partial I}{\partial a} := \frac{\partial y_1}{\partial a}, \qquad
        y_j = \frac{\exp((a_j + G_j) / T)}{\exp((a_0 + G_0) / T) + \exp((a_1 + G_1) / T)}

    At evaluation there is no noise: :math:`I = [a_1 > a_0]`, and no gradient.

    where

    - :math:`a`, ``logits``, shape (..., 2): the policy's logits, :math:`a_1` of the tuned path;
    - :math:`G_j = -\log(-\log U_j)`, :math:`U_j` uniform on (0, 1): Gumbel noise, which makes the
      decisions a fair draw, :math:`P(I = 1) = e^{a_1} / (e^{a_0} + e^{a_1})`;
    - :math:`T`, ``temperature``, above 0. It changes the gradient and never the decision: a high
      one gives small slopes everywhere, a low one large slopes near a tie and none elsewhere.

    Parameters
    ----------
    logits
        Shape (..., 2), floating-point.
    temperature
        The paper takes 5.
    training
        Whether to draw. A module passes its own ``self.training``.
    generator
        Where the noise comes from; PyTorch's own if None.

    Returns
    -------
    Tensor
        Shape (...), of the logits' dtype; exactly 0 or 1.

    Raises
    ------
    TypeError, ValueError
        If the logits are of another shape or kind or, on a CPU, hold NaN, or the temperature is
        not above 0.

    References
    ----------
    Guo et al., SpotTune: Transfer Learning through Adaptive Fine-tuning, 2019, section 3.2; Jang,
    Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, 2017.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    >>> gumbel_policy(logits, training=False)
    tensor([1., 0.])
    """
    check_temperature(temperature)
    check_dtype("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] != 2:
        raise ValueError(
            f"logits must have shape (..., 2), for frozen and tuned; got {shape_of(logits)}."
        )
    if readable(logits) and not sum_is_finite(logits):
        check_float_tensor("logits", logits)
    if not training:
        return logits.argmax(-1).to(logits.dtype)
    noise = torch.empty_like(logits, dtype=wide_dtype(logits.dtype))
    noisy = logits - noise.exponential_(generator=generator).log()  # -log E is Gumbel noise
    hard = (noisy[..., 1] > noisy[..., 0]).to(noisy.dtype)
    soft = torch.softmax(noisy / temperature, dim=-1)[..., 1]
    return (hard + (soft - soft.detach())).to(logits.dtype)


def global_k_loss(
    decisions: Tensor, k: float, *, k_weight: float = 1.0, entropy_weight: float = 1.0
) -> Tensor:
    r"""Return the loss that makes all samples tune the same k blocks.

    .. math::

        \mathcal{L}_{global} = \lambda_1 \Big(\sum_{l=1}^{L} v_l - k\Big)^2
            - \lambda_2 \sum_{l=1}^{L} v_l \log v_l,
        \qquad v_l = \frac{1}{N} \sum_{n=1}^{N} I_l(x_n)

    where

    - :math:`I_l(x_n)`, ``decisions``, shape (N, L): 1 where sample n takes the tuned block l;
    - :math:`v_l`: the part of the samples that take it; the second term is least, 0, where each
      :math:`v_l` is 0 or 1, that is, where the policy is the same for all;
    - :math:`k`: how many blocks are to be tuned;
    - :math:`\lambda_1, \lambda_2`, ``k_weight`` and ``entropy_weight``.

    The paper takes the part of all target samples; here it is the batch's, so batches must not be
    small. The loss is added to the classifier's. The released code does not contain it.

    Parameters
    ----------
    decisions
        Of :func:`gumbel_policy`, in training.
    k
        In [0, L].
    k_weight, entropy_weight
        At least 0.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        If the decisions are no (N, L) of finite floating-point numbers, or a number is out of
        range.

    References
    ----------
    Guo et al., 2019, section 3.3, "global-k".

    Examples
    --------
    >>> same = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    >>> global_k_loss(same, 2), global_k_loss(same, 1)
    (tensor(0.), tensor(1.))
    """
    check_dtype("decisions", decisions)
    if decisions.ndim != 2 or decisions.numel() == 0:
        raise ValueError(
            f"decisions must have shape (N, L): N samples, L blocks; got {shape_of(decisions)}."
        )
    check_number("k", k, low=0, high=decisions.shape[1])
    check_number("k_weight", k_weight, low=0)
    check_number("entropy_weight", entropy_weight, low=0)
    v = widened(decisions).mean(0)  # (N, L) -> (L,)
    # A part of 0 is common, and there the logarithm's slope would be infinite.
    entropy = -torch.xlogy(v, v.clamp(min=1e-6)).sum()
    loss = k_weight * (v.sum() - k) ** 2 + entropy_weight * entropy
    check_finite(loss, decisions=decisions)
    return loss


def policy_network(backbone: nn.Module, n_decisions: int, *, start: float = 0.5) -> Classifier:
    r"""Put a fresh policy head on a backbone: two logits a decision, frozen and tuned.

    Its bias begins as :math:`(0, \log \frac{p}{1 - p})`, so that at first each decision is "tuned"
    with a probability of about :math:`p`, ``start``. A backbone that was trained on the source, and
    a start near 1, give a *warm* policy: it has seen such inputs, and begins with fine-tuning.

    Parameters
    ----------
    backbone
        x -> (N, D) features, with ``n_features``; taken as it is, not copied.
    n_decisions
        At least 1: layers, times the groups of each.
    start
        p, in (0, 1).

    Raises
    ------
    TypeError, ValueError
        If the backbone is none, or a number is out of range.

    Examples
    --------
    >>> from tlcourse.models import LSTMClassifier
    >>> narrow = LSTMClassifier(6, width=8, n_layers=2, pool=5)
    >>> agent = policy_network(narrow.backbone, 3, start=0.9)
    >>> agent(torch.zeros(4, 125, 6)).shape
    torch.Size([4, 6])
    """
    check_int("n_decisions", n_decisions, low=1)
    check_number("start", start, above=0)
    if start >= 1:
        raise ValueError(f"start must be in (0, 1), got {start:g}.")
    agent = Classifier(backbone, 2 * n_decisions)
    with torch.no_grad():
        agent.head.bias.view(n_decisions, 2)[:] = torch.tensor([0.0, math.log(start / (1 - start))])
    return agent
