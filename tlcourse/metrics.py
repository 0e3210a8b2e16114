"""What is measured: accuracy, error rate, the confusion matrix, and a mean with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlcourse._checks import check_float_tensor, check_logits_shape, check_number, check_targets
from tlcourse._modes import evaluating
from tlcourse.training import loader
from tlcourse.training.batches import check_batch


def predict(model: nn.Module, dataset: Dataset[Any], *, batch_size: int = 512) -> Tensor:
    """Return the model's outputs for every sample, in the dataset's order.

    Parameters
    ----------
    model
        Run in evaluation mode and without gradients, on the device it is on; afterwards every
        module is back in the mode it was in.
    dataset
        A dataset whose samples begin with the images: (N, C, H, W) in all.
    batch_size
        At least 1; it changes time and memory only.

    Returns
    -------
    Tensor
        (N, K), on the CPU.

    Raises
    ------
    TypeError, ValueError
        If the dataset has no length or is empty, its samples are no tuples that begin with a
        tensor, the model gives no tensor, or the batch size is out of range.

    Notes
    -----
    Of several processes each one evaluates the whole dataset, and all get the same.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> predict(nn.Linear(2, 3), TensorDataset(torch.rand(5, 2))).shape
    torch.Size([5, 3])
    """
    outputs, _ = _run(model, dataset, batch_size)
    return outputs


def accuracy(model: nn.Module, dataset: Dataset[Any], *, batch_size: int = 512) -> float:
    r"""Return the part of the samples whose largest logit is that of their label.

    .. math:: \frac{1}{N} \sum_{n=1}^N [\arg\max_k z_{nk} = y_n]

    where z are the logits, (N, K), and y the labels, (N,).

    Parameters
    ----------
    model, batch_size
        See `predict`.
    dataset
        Samples are (image, label).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        If there are no labels, one is no class of the model, or a logit is NaN or infinite.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> dataset = TensorDataset(torch.eye(3), torch.tensor([0, 1, 1]))
    >>> round(accuracy(nn.Identity(), dataset), 3)
    0.667
    """
    logits, labels = _logits_and_labels(model, dataset, batch_size)
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def error_rate(model: nn.Module, dataset: Dataset[Any], *, batch_size: int = 512) -> float:
    """Return 1 - accuracy, in [0, 1]; see `accuracy`.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> dataset = TensorDataset(torch.eye(3), torch.tensor([0, 1, 1]))
    >>> round(error_rate(nn.Identity(), dataset), 3)
    0.333
    """
    logits, labels = _logits_and_labels(model, dataset, batch_size)
    return int((logits.argmax(1) != labels).sum()) / len(labels)


def confusion(model: nn.Module, dataset: Dataset[Any], *, batch_size: int = 512) -> Tensor:
    """Count the samples of every class (rows) by the class they were taken for (columns).

    Parameters
    ----------
    model, dataset, batch_size
        See `accuracy`.

    Returns
    -------
    Tensor
        (K, K) int64, which sums to N; the diagonal holds what is right.

    Raises
    ------
    TypeError, ValueError
        As `accuracy` does.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> confusion(nn.Identity(), TensorDataset(torch.eye(3), torch.tensor([0, 1, 1])))
    tensor([[1, 0, 0],
            [0, 1, 1],
            [0, 0, 0]])
    """
    logits, labels = _logits_and_labels(model, dataset, batch_size)
    k = logits.shape[1]
    pairs = labels * k + logits.argmax(1)  # (N,), row * K + column
    return torch.bincount(pairs, minlength=k * k).view(k, k)


@dataclass(frozen=True)
class Interval:
    """A mean of n values, and the interval that holds the true mean at the given confidence.

    Attributes
    ----------
    mean, low, high
        In the unit of the values. With a single value, low and high are NaN: nothing is known of
        the spread.
    n
        The number of values.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def margin(self) -> float:
        """Half the interval's width: mean ± margin."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Return the mean of a few runs with Student's confidence interval.

    .. math:: \bar x \pm t_{n-1,\,(1+c)/2} \, \frac{s}{\sqrt n}

    where

    - :math:`\bar x`, s: the values' mean and standard deviation (with n - 1);
    - n: the number of values, for instance one for every seed;
    - c: the confidence, in (0, 1);
    - t: the quantile of Student's distribution with n - 1 degrees of freedom.

    It assumes that the values are independent and about normal.

    Parameters
    ----------
    values
        At least one finite number. Of one, the interval is NaN.
    confidence
        c.

    Raises
    ------
    TypeError, ValueError
        If there is no value, one is not finite, or the confidence is not in (0, 1).

    Examples
    --------
    >>> found = interval([0.91, 0.93, 0.92])
    >>> round(found.mean, 3), round(found.margin, 4), found.n
    (0.92, 0.0248, 3)

    References
    ----------
    Student, The Probable Error of a Mean, Biometrika 6, 1908.
    """
    numbers = [v.item() if hasattr(v, "item") else v for v in values]
    n = len(numbers)
    if n == 0:
        raise ValueError("values is empty: an interval needs at least 1 value, better 3.")
    for i, number in enumerate(numbers):
        check_number(f"values[{i}]", number)
    check_number("confidence", confidence, above=0)
    if confidence >= 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence:g}.")
    mean = math.fsum(numbers) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)

    from scipy.special import stdtrit  # Student's quantile; scipy.stats takes seconds to import

    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1))
    margin = float(stdtrit(n - 1, (1 + confidence) / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - margin, mean + margin, n)


def _logits_and_labels(
    model: nn.Module, dataset: Dataset[Any], batch_size: int
) -> tuple[Tensor, Tensor]:
    logits, labels = _run(model, dataset, batch_size)
    if labels is None:
        raise ValueError("The dataset has no labels: its samples must be (image, label).")
    check_logits_shape("The model's output", logits)
    check_float_tensor("The model's output", logits)
    classes = getattr(dataset, "classes", None)  # a set that names its classes
    if classes is not None and len(classes) != logits.shape[1]:
        raise ValueError(
            f"The model tells {logits.shape[1]} classes apart, the dataset has {len(classes)}: "
            f"{', '.join(map(str, list(classes)[:10]))}. A label then means another class to each. "
            "Read the photographs of a test with image_folder(..., classes=train.classes)."
        )
    check_targets("labels", labels, n_samples=len(logits), n_classes=logits.shape[1])
    return logits, labels


NAMES = "The model's output", "The label"


def _run(model: nn.Module, dataset: Dataset[Any], batch_size: int) -> tuple[Tensor, Tensor | None]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    outputs: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for images, *rest in map(check_batch, loader(dataset, batch_size, shuffle=False)):
            output = model(images.to(device))
            for name, value in zip(NAMES, (output, *rest), strict=False):
                if not isinstance(value, Tensor):
                    raise TypeError(f"{name} must be a tensor, got {type(value).__name__}.")
            outputs.append(output)
            labels += rest[:1]
    return torch.cat(outputs).cpu(), torch.cat(labels).cpu() if labels else None
