r"""Knowledge distillation: a student learns from the softened outputs of its teacher.

A classifier that is sure of its answer still ranks the wrong classes: this 7 looks rather like a 1
and not at all like an 8. Dividing the logits by a temperature brings that ranking to light, and
the student is trained to reproduce it beside the labels (Hinton, Vinyals and Dean, 2015).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import (
    at_least_float32,
    check_choice,
    check_finite,
    check_float_tensor,
    check_logits_shape,
    check_number,
    check_targets,
    check_temperature,
)


def soften(logits: Tensor, temperature: float) -> Tensor:
    r"""Return the class probabilities of a softmax at a temperature.

    .. math:: q_{i,T} = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

    where

    - :math:`z`, ``logits``, shape (N, K): N samples, K classes, in nats;
    - :math:`T`, ``temperature``: 1 is the usual softmax, :math:`T \to \infty` the uniform
      distribution, :math:`T \to 0` the indicator of the largest logit;
    - :math:`q_T`, the result, shape (N, K): every row sums to 1.

    Parameters
    ----------
    logits
        Shape (N, K), floating point.
    temperature
        Above 0, in units of the logits.

    Raises
    ------
    TypeError, ValueError
        If the logits are no (N, K) floating-point tensor or hold NaN, or the temperature is not
        a finite number above 0.

    References
    ----------
    Hinton, Vinyals and Dean (2015), equation 1. In the chapter: ``eq-soft-targets``.

    Examples
    --------
    >>> soften(torch.tensor([[4.0, 2.0, 0.0]]), temperature=2.0).round(decimals=3)
    tensor([[0.6650, 0.2450, 0.0900]])
    """
    check_temperature(temperature)
    check_logits_shape("logits", logits)
    check_float_tensor("logits", logits)
    return torch.softmax(logits / temperature, dim=1)  # (N, K)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor | None = None,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    divergence: str = "ce",
    reduction: str = "mean",
) -> Tensor:
    r"""Return the distillation loss: hard labels and the teacher's soft targets, mixed.

    .. math::

        \mathcal{L} = (1 - \alpha)\, \mathcal{L}_{ce}(y, q)
                      + \alpha\, T^2\, \mathcal{L}_{ce}(p_T, q_T)

    where

    - :math:`y`, ``targets``, shape (N,): the labels;
    - :math:`q` and :math:`q_T`, shape (N, K): the student's probabilities at temperature 1 and T;
    - :math:`p_T`, shape (N, K): the teacher's probabilities at temperature T;
    - :math:`T`, ``temperature``: the factor :math:`T^2` keeps the two gradients on one scale,
      since that of the soft term falls as :math:`1 / T^2`;
    - :math:`\alpha`, ``alpha``: the weight of the **soft** term. Libraries differ here: in some it
      weighs the hard one.

    No gradient reaches the teacher.

    Parameters
    ----------
    student_logits, teacher_logits
        Shape (N, K), one dtype. Row n of both must come from the same input. Half precision counts
        as float32, and is computed in it.
    targets
        Class indices, shape (N,), int64. ``None`` gives the soft term alone, with its
        :math:`T^2` and without :math:`\alpha`.
    temperature
        Above 0.
    alpha
        In [0, 1]. 0 is plain cross-entropy; 1 ignores the labels.
    divergence
        ``"ce"``, the cross-entropy above, or ``"kl"``, which subtracts the teacher's entropy: the
        gradient is the same, and 0 means that the student agrees with its teacher.
    reduction
        ``"mean"`` over the N samples, a scalar, or ``"none"``, shape (N,).

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or settings do not fit, or the logits hold NaN or infinite values. The
        message names the argument.

    References
    ----------
    Hinton, Vinyals and Dean (2015), section 2. In the chapter: ``eq-distillation-loss`` and
    ``eq-kl-entropy``.

    Examples
    --------
    >>> teacher_logits = torch.tensor([[8.0, 2.0, 0.0]])
    >>> student_logits = torch.tensor([[3.0, 2.0, 1.0]], requires_grad=True)
    >>> loss = distillation_loss(student_logits, teacher_logits, torch.tensor([0]))
    >>> loss.backward()
    >>> student_logits.grad.round(decimals=3)
    tensor([[-1.1740,  0.6090,  0.5660]])
    """
    check_temperature(temperature)
    check_number("alpha", alpha, low=0.0, high=1.0)
    check_choice("divergence", divergence, ("ce", "kl"))
    check_choice("reduction", reduction, ("mean", "none"))
    check_logits_shape("student_logits", student_logits)
    check_logits_shape("teacher_logits", teacher_logits)
    student_logits, teacher_logits = at_least_float32(
        "student_logits", student_logits, "teacher_logits", teacher_logits
    )
    if targets is not None:
        n_samples, n_classes = student_logits.shape
        check_targets("targets", targets, n_samples=n_samples, n_classes=n_classes)

    v = teacher_logits.detach()  # (N, K)
    p_T = torch.softmax(v / temperature, dim=1)  # (N, K)
    log_q_T = torch.log_softmax(student_logits / temperature, dim=1)  # (N, K)
    if divergence == "kl":
        log_q_T = log_q_T - torch.log_softmax(v / temperature, dim=1)  # CE(p, q) - H(p)
    if reduction == "mean":  # one dot product, which never stores the (N, K) products
        loss = torch.dot(p_T.flatten(), log_q_T.flatten()) * (-(temperature**2) / len(p_T))
    else:
        loss = (p_T * log_q_T).sum(1) * -(temperature**2)  # (N,)
    if targets is not None and alpha < 1:
        hard = F.cross_entropy(student_logits, targets, reduction=reduction)
        # (1 - alpha) hard + alpha T^2 soft; without the soft term where 0 times it may be 0 times
        # infinity.
        loss = torch.lerp(hard, loss, alpha) if alpha > 0 else hard

    # The soft term does not see a teacher's minus infinity; without it, neither network's is seen.
    unseen = [v] if targets is None or alpha > 0 else [v, student_logits]
    check_finite(loss, unseen=unseen, student_logits=student_logits, teacher_logits=v)
    return loss
