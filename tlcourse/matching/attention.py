r"""Attention transfer: a student learns *where* its teacher is active, not how.

The activations of a layer, (C, H, W), are summed over the channels to one map, (H, W), which is
bright where the layer responds. Maps can be compared even where the channels cannot: the student
may have fewer of them, and in another order (Zagoruyko and Komodakis, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import (
    check_choice,
    check_finite,
    check_float_tensor,
    check_number,
    shape_of,
    widened,
)
from tlcourse.matching._parts import check_pairs

MODES = ("code", "paper")


def attention_map(activations: Tensor, p: float = 2) -> Tensor:
    r"""Return the activation-based attention map of each sample.

    .. math:: F(A)_{h,w} = \sum_{c=1}^{C} |A_{c,h,w}|^p

    where

    - :math:`A`, ``activations``, shape (N, C, H, W): the output of a convolutional layer;
    - :math:`p`: 1 sums absolute values; the larger it is, the more the strongest channel counts;
    - :math:`F(A)`, the result, shape (N, H, W), at least 0, not normalised.

    Activations in half precision are summed in float32.

    Parameters
    ----------
    activations
        Shape (N, C, H, W), floating point.
    p
        A finite number, at least 1.

    Raises
    ------
    TypeError, ValueError
        If the activations have another shape or type, are empty or hold NaN, or p is below 1.

    References
    ----------
    Zagoruyko and Komodakis (2017), section 3.1. In the chapter: ``eq-attention-map``.

    Examples
    --------
    >>> activations = torch.tensor([[[[1.0, 0.0]], [[-2.0, 3.0]]]])  # N = 1, C = 2, H = 1, W = 2
    >>> attention_map(activations)
    tensor([[[5., 9.]]])
    """
    check_number("p", p, low=1)
    check_float_tensor("activations", activations)
    _check_maps("activations", activations)
    return _map(activations, p)


def attention_transfer_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    p: float = 2,
    beta: float = 1e3,
    mode: str = "code",
) -> Tensor:
    r"""Return the attention transfer loss over pairs of layers, to be added to the task's loss.

    As the authors' code computes it, averaged over the samples and the positions,

    .. math::

        \mathcal{L}_{code} = \beta \sum_j \frac{1}{H_j W_j}
            \left\| \frac{Q_S^j}{\|Q_S^j\|_2} - \frac{Q_T^j}{\|Q_T^j\|_2} \right\|_2^2

    and as the paper writes it, averaged over the samples,

    .. math::

        \mathcal{L}_{paper} = \frac{\beta}{2} \sum_j
            \left\| \frac{Q_S^j}{\|Q_S^j\|_2} - \frac{Q_T^j}{\|Q_T^j\|_2} \right\|_2

    where

    - :math:`Q^j = \mathrm{vec}(F(A^j))`, shape (N, H_j W_j): the attention map of layer j, see
      `attention_map`;
    - :math:`\beta`, ``beta``, no unit. 1e3 is the value of the authors' runs and belongs to their
      code's form: there each map's distance is squared and divided by its number of positions, so
      that a map of 8 x 8 weighs 16 times one of 32 x 32. In ``mode="paper"`` all maps weigh the
      same, and a beta of about 1 pushes as hard: see ``eq-beta-match`` in the chapter.

    No gradient reaches the teacher. Of a pair of maps of different sizes, the larger is averaged
    down to the smaller.

    Parameters
    ----------
    student, teacher
        Activations (N, C, H, W), a layer of the student beside its layer of the teacher. The
        channels may differ.
    p
        The exponent of the maps, at least 1.
    beta
        The weight, at least 0.
    mode
        ``"code"`` or ``"paper"``.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        If the numbers of layers or samples differ, a shape, type or setting is wrong, or the
        activations hold NaN or infinite values. The message names the argument.

    References
    ----------
    Zagoruyko and Komodakis (2017), equation 2 and section 4.1; their PyTorch code, ``at_loss``. In
    the chapter: ``eq-at-paper`` and ``eq-at-code``.

    Examples
    --------
    >>> student = [torch.tensor([[[[3.0, 0.0]]]], requires_grad=True)]  # looks at the left
    >>> teacher = [torch.tensor([[[[0.0, 1.0]]]])]  # looks at the right
    >>> attention_transfer_loss(student, teacher, beta=1.0).item()  # 2 / (H W)
    1.0
    >>> attention_transfer_loss(student, teacher, beta=1.0, mode="paper").item()  # sqrt(2) / 2
    0.707...
    """
    check_number("p", p, low=1)
    check_number("beta", beta, low=0)
    check_choice("mode", mode, MODES)
    check_pairs(student, teacher)

    total = torch.zeros((), device=student[0].device)
    for j, (A_S, A_T) in enumerate(zip(student, teacher, strict=True)):
        _check_maps(f"student[{j}]", A_S)
        _check_maps(f"teacher[{j}]", A_T)
        with torch.no_grad():
            F_T = _map(_scaled(A_T, p), p)  # (N, H_T, W_T)
        F_S = _map(_scaled(A_S, p), p)  # (N, H_S, W_S)
        F_S, F_T = _to_one_size(F_S, F_T)  # (N, H, W)
        difference = _normalized(F_S) - _normalized(F_T)  # (N, H W)
        if mode == "paper":
            total = total + torch.linalg.vector_norm(difference, dim=1).mean() / 2
        else:
            total = total + difference.square().mean()
    loss = beta * total
    check_finite(loss, student=student, teacher=teacher)
    return loss


def _map(activations: Tensor, p: float) -> Tensor:
    """Return sum_c |A_c|^p, (N, C, H, W) -> (N, H, W), without a check."""
    A = widened(activations)
    return A.square().sum(1) if p == 2 else A.abs().pow(p).sum(1)


def _scaled(activations: Tensor, p: float) -> Tensor:
    """Return A such that its powers neither vanish nor overflow: high ones soon would.

    A constant factor per sample changes no normalised map.
    """
    if p <= 2:
        return activations
    A = widened(activations)
    largest = A.detach().abs().amax((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return A / largest.clamp(min=torch.finfo(A.dtype).tiny)


def _normalized(maps: Tensor) -> Tensor:
    """Return Q / ||Q||_2 of each map, (N, H, W) -> (N, H W); 0 for a map of zeros.

    F.normalize divides by at least 1e-12, which squares of activations of 1e-7 come below: the loss
    would see their scale. So the largest value is brought to [1/2, 1) first, by a power of 2, which
    changes no digit.
    """
    Q = maps.flatten(1)  # (N, H W)
    _, exponent = torch.frexp(Q.detach().amax(1, keepdim=True))  # (N, 1)
    one = torch.ones_like(exponent, dtype=Q.dtype)  # ldexp of all of Q takes several times as long
    return F.normalize(Q * torch.ldexp(one, -exponent.clamp(min=-126)))  # 2^136 is infinite


def _to_one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average two maps down to the smaller height and width of both."""
    if a.shape == b.shape:
        return a, b
    size = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
    pooled = [F.adaptive_avg_pool2d(maps[:, None], size)[:, 0] for maps in (a, b)]
    return pooled[0], pooled[1]


def _check_maps(name: str, value: Tensor) -> None:
    if value.ndim != 4 or value.numel() == 0:
        raise ValueError(
            f"{name} must have shape (N, C, H, W), none of them 0; got {shape_of(value)}. "
            "Capture a convolutional layer."
        )
