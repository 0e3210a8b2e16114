"""Argument checks that every method shares: an error names the argument and what it takes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


def check_int(name: str, value: int, *, low: int | None = None, high: int | None = None) -> None:
    """Raise unless ``value`` is an integer in [low, high]; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__}).")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name} must be {_range(low, high)}, got {value}.")


def check_number(
    name: str,
    value: float,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> None:
    """Raise unless ``value`` is a finite number with low <= value <= high and value > above."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__}).")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}.")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be greater than {above:g}, got {value:g}.")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name} must be {_range(low, high)}, got {value:g}.")


def check_temperature(value: float) -> None:
    """Raise unless ``value`` is a finite temperature above 0."""
    check_number("temperature", value, above=0)


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise unless ``value`` is one of ``choices``; name them all, and the nearest."""
    choices = list(choices)
    if value not in choices:
        takes = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name} is {value!r}; it takes {takes}.{near(value, choices)}")


def near(value: object, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the choices near to ``value``, or an empty text.

    Of dotted names, those that end in ``value`` come first: 'stage1' for 'backbone.stage1' is the
    usual slip.
    """
    choices = list(choices)
    found = [choice for choice in choices if choice.endswith(f".{value}")][:3]
    found = found or difflib.get_close_matches(str(value), choices, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(f) for f in found)}?" if found else ""


def check_dtype(name: str, value: Tensor) -> None:
    """Raise unless ``value`` is a tensor of floating-point numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {value.dtype}.")


def check_float_tensor(name: str, value: Tensor) -> None:
    """Raise unless ``value`` is a floating-point tensor without NaN or infinite values.

    It waits for a GPU: for what is done once. A loss, at every step, takes `check_finite`.
    """
    check_dtype(name, value)
    if traced(value) or value.is_meta:
        return  # no values
    if not bool(torch.isfinite(value).all()):
        kind = "NaN" if bool(torch.isnan(value).any()) else "infinite values"
        raise ValueError(
            f"{name} contains {kind}. Look at the learning rate and at the data that made it."
        )


def readable(value: Tensor) -> bool:
    """Return whether a look at the values is free.

    A GPU is waited for; a compiler has no values yet, and under ``torch.vmap`` a tensor has many.
    """
    return value.is_cpu and not traced(value)


def traced(value: Tensor) -> bool:
    """Return whether ``torch.compile`` or a transform of ``torch.func`` looks on."""
    return torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(value)


def sum_is_finite(value: Tensor) -> bool:
    """Return whether the sum is finite, one number read in place of all."""
    return math.isfinite(value.detach().sum().item() if value.ndim else value.item())


def check_finite(loss: Tensor, *, unseen: Sequence[Tensor] = (), **tensors: Any) -> None:
    """Raise if the loss or one of the tensors is not finite, and name the tensor.

    Where a NaN or an infinite value of any tensor always reaches the loss, the loss alone is looked
    at. ``unseen`` are those of which it need not: as a logit, minus infinity is a probability of 0.
    Their sums are looked at, too, and every number only where one is not finite.

    On a GPU and under ``torch.compile`` nothing is looked at, see `readable`: there
    ``tlcourse.training.fit`` reads the losses, many at a time. A tensor may be a list of them.
    """
    if not readable(loss):
        return
    if sum_is_finite(loss) and all(map(sum_is_finite, unseen)):
        return
    for name, value in tensors.items():
        if isinstance(value, Tensor):
            check_float_tensor(name, value)
        else:
            for j, tensor in enumerate(value):
                check_float_tensor(f"{name}[{j}]", tensor)
    if not bool(torch.isfinite(loss).all()):
        raise ValueError(
            f"The loss is not finite though its inputs are: it overflows {loss.dtype}. "
            "Look at the learning rate, or scale the inputs."
        )


def check_logits_shape(name: str, value: Tensor) -> None:
    """Raise unless ``value`` is a floating-point tensor of shape (N, K), N >= 1 and K >= 2."""
    check_dtype(name, value)
    if value.ndim != 2:
        raise ValueError(
            f"{name} must have shape (N, K): N samples, K classes; got {shape_of(value)}."
        )
    n_samples, n_classes = value.shape
    if n_samples == 0:
        raise ValueError(f"{name} is empty: its shape is {shape_of(value)}; N must be at least 1.")
    if n_classes < 2:
        raise ValueError(f"{name} must have at least 2 classes, got shape {shape_of(value)}.")


def check_same_shape(first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raise unless both tensors have one shape and one dtype."""
    if a.shape != b.shape:
        raise ValueError(
            f"{first} and {second} must have the same shape, got {shape_of(a)} and {shape_of(b)}."
        )
    if a.dtype != b.dtype:
        raise TypeError(
            f"{first} and {second} must have the same dtype, got {a.dtype} and {b.dtype}."
        )


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precision, in which sums are exact enough, else the dtype itself."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def widened(value: Tensor) -> Tensor:
    """Return the tensor, half precision as float32."""
    return value if value.dtype.itemsize >= 4 else value.float()


def at_least_float32(first: str, a: Tensor, second: str, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors, half precision as float32; raise unless they then are of one kind.

    Mixed precision makes outputs in half precision, and what was recorded may be float32. A loss
    is summed in float32 in any case.
    """
    wide_a, wide_b = widened(a), widened(b)
    if wide_a.shape != wide_b.shape or wide_a.dtype != wide_b.dtype:
        check_same_shape(first, a, second, b)
    return wide_a, wide_b


def check_targets(name: str, value: Tensor, *, n_samples: int, n_classes: int) -> None:
    """Raise unless ``value`` holds (N,) int64 class indices in [0, K).

    The range is looked at where that is free, see `readable`; elsewhere torch's own cross-entropy
    stops at a wrong index.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must hold class indices of dtype int64, got {value.dtype}.")
    if value.shape != (n_samples,):
        raise ValueError(f"{name} must have shape ({n_samples},), got {shape_of(value)}.")
    if not readable(value):
        return
    bounds = torch.aminmax(value)
    low, high = bounds.min.item(), bounds.max.item()
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"{name} must lie in [0, {n_classes - 1}] for {n_classes} classes, "
            f"got values from {low} to {high}."
        )


def check_samples(dataset: Dataset[tuple[Tensor, ...]]) -> int:
    """Return the number of samples; raise unless there are some, tuples with the input first."""
    n_samples = len(dataset) if isinstance(dataset, Sized) else 0
    if n_samples == 0:
        raise ValueError(
            f"dataset is empty or has no length ({type(dataset).__name__}): it takes a map-style "
            "data set of 1 sample or more, such as a TensorDataset."
        )
    if not isinstance(dataset[0], (tuple, list)):
        raise TypeError(
            "dataset must give tuples with the input first, such as (image, label); "
            f"it gives {type(dataset[0]).__name__}."
        )
    _input_of(dataset, 0)
    return n_samples


def _input_of(dataset: Dataset[tuple[Tensor, ...]], index: int) -> Tensor:
    first = dataset[index][0]
    if not isinstance(first, Tensor):
        raise TypeError(
            f"dataset gives {type(first).__name__} as the input of sample {index}; "
            "it must give tensors."
        )
    return first


def refuse_random_augmentation(dataset: Dataset[tuple[Tensor, ...]]) -> None:
    """Raise if the data set, asked for one sample again, gives another input.

    What is kept by index is right only for a fixed input. 32 samples, or all of fewer, are asked
    X
    """
    n_samples = check_samples(dataset)
    for index in torch.linspace(0, n_samples - 1, min(32, n_samples)).long().tolist():
        # NaN is unequal to itself, but no augmentation: whoever needs finite inputs says so.
        first, *again = (torch.nan_to_num(_input_of(dataset, index)) for _ in range(4))
        if any(not torch.equal(first, other) for other in again):
            raise ValueError(
                f"dataset gives another input for sample {index} each time (random augmentation), "
                "so what is cached by index would belong to other pictures. Cache on the plain "
                "data set, or run the network inside the training loop."
            )


def shape_of(value: Tensor | Sequence[int]) -> str:
    """Return a shape as text, ``(2, 10)``."""
    return str(tuple(value.shape if isinstance(value, Tensor) else value))


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"at most {high:g}"
    if high is None:
        return f"at least {low:g}"
    return f"in [{low:g}, {high:g}]"
