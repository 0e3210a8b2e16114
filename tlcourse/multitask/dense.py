"""The losses of three tasks on every pixel: what is here, where is its centre, how near is it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_choice


def dense_losses(
    answers: Sequence[Tensor], batch: Sequence[Tensor], tasks: Sequence[str]
) -> list[Tensor]:
    r"""Return the loss of every task on scenes, each a mean over pixels and dimensions.

    .. math::

        L_{seg} = -\frac{1}{P} \sum_p \log \mathrm{Softmax}_{c_p}(f_p), \qquad
        L_{inst} = \frac{1}{2 |O|} \sum_{p \in O} \| v_p - f_p \|^2, \qquad
        L_{depth} = \frac{1}{P} \sum_p (d_p - f_p)^2

    where p runs over all P pixels of the batch, O are those on objects; :math:`c, v, d` are the
    class, the way to the object's centre in pixels, and the inverse depth; f is each task's answer.

    Parameters
    ----------
    answers
        Of :class:`~tlcourse.models.DenseNetwork`, one for every task.
    batch
        Of a :class:`~tlcourse.data.Scenes`: images, segmentation, instances, inverse depth.
    tasks
        ``"segmentation"``: cross-entropy, over all pixels. ``"instances"``: squared error of the
        offsets, over the pixels of the objects. ``"depth"``: squared error, over all pixels.

    Raises
    ------
    ValueError
        If a task has another name, or there is not one answer for each.

    References
    ----------
    In the chapter: ``eq-task-losses``. Kendall, Gal and Cipolla (2018), section 4, take the L1
    error for both regressions; the squared one is that of the likelihood.
    """
    for i, task in enumerate(tasks):
        check_choice(f"tasks[{i}]", task, ("segmentation", "instances", "depth"))
    _, segmentation, instances, inverse_depth = batch
    losses = []
    for task, answer in zip(tasks, answers, strict=True):
        if task == "segmentation":
            losses.append(F.cross_entropy(answer, segmentation))
        elif task == "instances":
            defined = (segmentation > 0)[:, None]  # (N, 1, H, W)
            error = (answer - instances).pow(2) * defined
            losses.append(error.sum() / (2 * defined.sum()).clamp(min=1))  # 2 numbers a pixel
        else:
            losses.append(F.mse_loss(answer, inverse_depth))
    return losses
