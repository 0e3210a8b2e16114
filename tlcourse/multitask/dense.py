"""The losses of three tasks on every pixel: what is here, where is its centre, how near is it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_choice, check_dtype, shape_of, widened


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
        Of :class:`~tlcourse.models.DenseNetwork`, one for every task, in the order of ``tasks``:
        (N, K, H, W) for K classes, (N, 2, H, W) for the instances, (N, 1, H, W) for the depth.
    batch
        Of a :class:`~tlcourse.data.Scenes`: images, segmentation, instances, inverse depth.
    tasks
        ``"segmentation"``: cross-entropy, over all pixels. ``"instances"``: squared error of the
        offsets, over the pixels of the objects. ``"depth"``: squared error, over all pixels.

    Raises
    ------
    TypeError, ValueError
        If a task has another name, there is not one answer for each, or one has another shape.

    References
    ----------
    In the chapter: ``eq-task-losses``. Kendall, Gal and Cipolla (2018), section 4, take the L1
    error for both regressions; the squared one is that of the likelihood.
    """
    if isinstance(tasks, str):
        raise TypeError(f"tasks must be a list of names, got {tasks!r}: write [{tasks!r}].")
    for i, task in enumerate(tasks):
        check_choice(f"tasks[{i}]", task, ("segmentation", "instances", "depth"))
    if len(answers) != len(tasks):
        raise ValueError(
            f"answers must be one for each of the {len(tasks)} tasks ({', '.join(tasks)}), "
            f"got {len(answers)}."
        )
    if len(batch) != 4:
        raise ValueError(
            "batch must be images, segmentation, instances and inverse depth, as Scenes gives "
            f"them; got {len(batch)} tensors."
        )
    _, segmentation, instances, inverse_depth = batch
    for i, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        _check_answer(f"answers[{i}]", answer, task, segmentation)
    losses = []
    for task, answer in zip(tasks, map(widened, answers), strict=True):
        if task == "segmentation":
            losses.append(F.cross_entropy(answer, segmentation))
        elif task == "instances":
            defined = (segmentation > 0)[:, None]  # (N, 1, H, W)
            error = (answer - widened(instances)).pow(2) * defined
            losses.append(error.sum() / (2 * defined.sum()).clamp(min=1))  # 2 numbers a pixel
        else:
            losses.append(F.mse_loss(answer, widened(inverse_depth)))
    return losses


def _check_answer(name: str, answer: Tensor, task: str, segmentation: Tensor) -> None:
    """Raise unless an answer fits its task: another shape would be broadcast to a wrong loss."""
    check_dtype(name, answer)
    n, *sides = segmentation.shape
    channels = {"segmentation": "K", "instances": "2", "depth": "1"}[task]
    fits = answer.ndim == 4 and (answer.shape[0], *answer.shape[2:]) == (n, *sides)
    if not fits or channels not in ("K", str(answer.shape[1])):
        wanted = ", ".join(str(side) for side in (n, channels, *sides))
        raise ValueError(
            f"{name} must have shape ({wanted}) for {task!r}, got {shape_of(answer)}. The answers "
            "come in the order of tasks."
        )
