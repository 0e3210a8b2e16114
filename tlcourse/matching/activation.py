"""Matching activations: the student's outputs, or those of a layer within, equal the teacher's.

On the logits it is the oldest form of distillation (Ba and Caruana, 2014); on a layer within, the
"hints" of FitNets (Romero et al., 2015), which the attention transfer paper calls full-activation
transfer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tlcourse._checks import check_finite, check_same_shape, widened
from tlcourse.matching._parts import check_pairs


def activation_matching_loss(
    student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
) -> Tensor:
    r"""Return the squared distance of two networks' activations, averaged over the samples.

    .. math:: \mathcal{L}_{act} = \sum_j \| a_S^j - a_T^j \|_2^2

    where :math:`a^j` are all units of layer j in one sample: (K,) logits, or (C, H, W) maps. The
    sum runs over units, so a large layer weighs more than a small one; divide by their number to
    weigh it per unit.

    No gradient reaches the teacher. Activations in half precision are matched in float32.

    Parameters
    ----------
    student, teacher
        One activation (N, ...) of each, such as the logits, or sequences of them, matched one to
        one. A pair must have one shape: where the student has fewer channels, pass its activations
        through a 1 x 1 convolution that is trained with it.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        If the numbers of layers, the shapes or the dtypes differ, or values are NaN or infinite.

    References
    ----------
    Ba and Caruana (2014), equation 1; Romero et al. (2015), equation 3; Srinivas and Fleuret
    (2018), section 3. In the chapter: ``eq-activation-matching``.

    Examples
    --------
    >>> student = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> activation_matching_loss(student, teacher).item()
    4.0
    """
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        student, teacher = [student], [teacher]
    check_pairs(student, teacher)  # type: ignore[arg-type]
    total = torch.zeros((), device=student[0].device)
    for j, (a_S, a_T) in enumerate(zip(student, teacher, strict=True)):
        a_S, a_T = widened(a_S), widened(a_T)
        if a_S.shape != a_T.shape and a_S.ndim == a_T.ndim == 4:
            raise ValueError(
                f"student[{j}] and teacher[{j}] must have the same shape, got {tuple(a_S.shape)} "
                f"and {tuple(a_T.shape)}. Pass the student's through a 1 x 1 convolution with "
                f"{a_T.shape[1]} outputs, or match attention maps, which need no channels."
            )
        check_same_shape(f"student[{j}]", a_S, f"teacher[{j}]", a_T)
        total = total + (a_S - a_T.detach()).square().sum() / len(a_S)
    check_finite(total, student=student, teacher=teacher)
    return total
