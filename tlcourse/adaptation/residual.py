r"""What residual transfer networks add: a joint discrepancy of two layers, and a sure classifier.

The source's classifier is the target's plus a small correction, f_S = f_T + df(f_T); features and
predictions are aligned together, by the discrepancy of their products (Long et al., 2016).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_finite, check_logits_shape, check_number, readable, widened
from tlcourse.adaptation._parts import check_features, product
from tlcourse.adaptation.aligned import FEWEST, Aligned
from tlcourse.adaptation.mmd import TINY


def joint_mmd2(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], bandwidth: float | Tensor
) -> Tensor:
    r"""Return the discrepancy of the products of two layers, without a product being formed.

    For one sample, :math:`z = a \otimes b` holds each feature times each output, :math:`D K`
    numbers. A kernel needs their distances alone, and

    .. math::

        \|a \otimes b - a' \otimes b'\|^2 =
            \|a\|^2 \|b\|^2 + \|a'\|^2 \|b'\|^2 - 2 \langle a, a' \rangle \langle b, b' \rangle

    where

    - :math:`a`, shape (D,), and :math:`b`, shape (K,): the two layers' outputs for a sample;
    - :math:`a', b'`: those for another one.

    The result is the squared discrepancy over all pairs, the biased form, of
    :math:`\exp(-\|z - z'\|^2 / w)`. Memory grows with the batch alone. Distances that are small
    beside the lengths lose digits: in float32 they are right to about :math:`10^{-6}` of
    :math:`\|a\|^2 \|b\|^2`.

    Parameters
    ----------
    source, target
        Two layers' outputs each, (n, D) with (n, K), and (m, D) with (m, K).
    bandwidth
        :math:`w`, above 0, in squared units of the product.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not go together, there is NaN, or the bandwidth is not above 0.

    References
    ----------
    Long et al., Unsupervised Domain Adaptation with Residual Transfer Networks, 2016, section 4.1.
    In the chapter: ``eq-joint-mmd``, ``eq-fused``.

    Examples
    --------
    >>> import torch
    >>> a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [2.0]])
    >>> joint_mmd2((a, b), (a, b), 1.0).item()
    0.0
    """
    if not isinstance(bandwidth, Tensor) or readable(bandwidth):
        check_number("bandwidth", float(bandwidth), above=0)
    a_s, a_t = check_features(source_features=source[0], target_features=target[0], at_least=2)
    b_s, b_t = check_features(source_outputs=source[1], target_outputs=target[1], at_least=2)
    for name, a, b in (("source", a_s, b_s), ("target", a_t, b_t)):
        if len(a) != len(b):
            raise ValueError(
                f"The two layers of {name} must be of the same samples, got {len(a)} and {len(b)}."
            )

    def mean_kernel(*layers: Tensor) -> Tensor:
        return (-_squared_distances(*layers) / bandwidth).exp().mean()

    within = mean_kernel(a_s, b_s, a_s, b_s) + mean_kernel(a_t, b_t, a_t, b_t)
    loss = within - 2 * mean_kernel(a_s, b_s, a_t, b_t)
    sources = {"source_features": a_s, "source_outputs": b_s}
    layers = {**sources, "target_features": a_t, "target_outputs": b_t}
    check_finite(loss, unseen=list(layers.values()), **layers)
    return loss


def _squared_distances(a: Tensor, b: Tensor, a_: Tensor, b_: Tensor) -> Tensor:
    """Return the squared distances of two products, (n, m), from their layers alone."""
    first, second = (x.square().sum(1) * y.square().sum(1) for x, y in ((a, b), (a_, b_)))
    squares = first[:, None] + second - 2 * product(a, a_.T) * product(b, b_.T)
    return squares.clamp_min(0)


def entropy_loss(logits: Tensor) -> Tensor:
    r"""Return the mean entropy of the predictions, in nats.

    .. math:: H = -\frac{1}{N} \sum_{n=1}^{N} \sum_{k=1}^{K} p_{nk} \log p_{nk}, \qquad
              p = \mathrm{softmax}(\text{logits})

    Minimised on target samples without labels it moves the decision away from them. Alone it is
    least where all samples get one class.

    Parameters
    ----------
    logits
        Shape (N, K). Half precision is computed in float32.

    Returns
    -------
    Tensor
        A scalar, from 0 to log K.

    Raises
    ------
    TypeError, ValueError
        If the shape or type is another, or there is NaN.

    References
    ----------
    Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization, 2005; Long et al.
    (2016), equation 4. In the chapter: ``eq-entropy``.

    Examples
    --------
    >>> import torch
    >>> entropy_loss(torch.zeros(1, 4)).item()  # log 4
    1.386...
    """
    check_logits_shape("logits", logits)
    log_p = F.log_softmax(widened(logits), 1)
    loss = -(log_p.exp() * log_p).sum(1).mean()
    check_finite(loss, logits=logits)
    return loss


class RTN(Aligned):
    r"""Align features and predictions together, with a classifier of the source's own.

    .. math::

        f_S = f_T + \Delta f(f_T), \qquad
        \mathcal{L} = \mathcal{L}_{ce}(y, f_S(x)) + \lambda_H\, H(f_T(x'))
            + \lambda\, \mathrm{MMD}^2(\phi \otimes f_T)

    where

    - :math:`f_T`: backbone and head, the target's classifier; the model is it when it is asked;
    - :math:`\Delta f`: two layers of K units, the last with weights 0 at the start, so that both
      classifiers are one at first;
    - :math:`H`: the entropy of the target's predictions;
    - :math:`\lambda, \lambda_H`: ``weight`` and ``entropy_weight``.

    The predictions in the product are probabilities, so that no logit outgrows the features; the
    bandwidth is the median squared distance of the products within the batch.

    Parameters
    ----------
    backbone, n_classes, target, weight
        As of :class:`~tlcourse.adaptation.aligned.Aligned`.
    entropy_weight
        :math:`\lambda_H`, at least 0.

    References
    ----------
    Long et al. (2016), equation 8; both weights are 0.3 there. In the chapter:
    ``eq-rtn-residual``, ``eq-rtn``.

    Examples
    --------
    >>> from tlcourse.data import digits, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> source, target = glyphs(90, 1)[0], digits()[0]
    >>> model = RTN(SmallResNet(45).backbone, source.n_classes, target.images)
    >>> model.loss(source[:8]).shape
    torch.Size([])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        target: Tensor,
        *,
        weight: float = 0.3,
        entropy_weight: float = 0.3,
    ) -> None:
        super().__init__(backbone, n_classes, target, weight=weight)
        check_number("entropy_weight", entropy_weight, low=0)
        self.entropy_weight = entropy_weight
        last = nn.Linear(n_classes, n_classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(nn.Linear(n_classes, n_classes), nn.ReLU(), last)

    def source_logits(self, logits: Tensor) -> Tensor:
        """Return the source's logits, (N, K), of the target's."""
        return logits + self.residual(logits)

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the discrepancy of the products of features and predictions."""
        (a, z), (a_, z_) = source, target
        layers = (a, widened(z).softmax(1)), (a_, widened(z_).softmax(1))
        a, b = (torch.cat(pair).detach() for pair in zip(*layers, strict=True))
        bandwidth = _squared_distances(widened(a), b, widened(a), b)
        above = torch.triu_indices(len(a), len(a), 1, device=a.device)
        median = bandwidth[above[0], above[1]].median().clamp_min(TINY)
        return joint_mmd2(*layers, median)

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a source batch and as many target images, drawn by torch's generator.

        It is an objective for :func:`tlcourse.training.fit`.
        """
        x, y = batch
        source, target = self.outputs(x)
        loss = F.cross_entropy(widened(self.source_logits(source[1])), y)
        loss = loss + self.entropy_weight * entropy_loss(target[1])
        if len(x) < FEWEST:
            return loss
        return loss + self.weight * self.alignment(source, target)
