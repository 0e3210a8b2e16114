"""What the methods of this family share: checks of paired activations, gradients by the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tlcourse._checks import check_dtype, check_float_tensor, shape_of, wide_dtype

Function = Callable[[Tensor], Tensor]


def check_sequence(name: str, value: Sequence[Tensor]) -> None:
    """Raise unless ``value`` is a list or tuple of one or more floating-point tensors."""
    if isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a sequence of activations, got one Tensor of shape {shape_of(value)}. "
            "Put it into a list."
        )
    if isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a sequence of activations, got a {type(value).__name__}. "
            "Pass list(activations.values())."
        )
    if not isinstance(value, Sequence):
        hint = " Pass a list of them: list(...)." if isinstance(value, Iterable) else ""
        raise TypeError(
            f"{name} must be a sequence of activations, got {type(value).__name__}.{hint}"
        )
    if len(value) == 0:
        raise ValueError(f"{name} is empty: give the activations of one layer or more.")
    for j, activation in enumerate(value):
        check_dtype(f"{name}[{j}]", activation)


def check_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """Raise unless both are sequences of tensors, one for one, of batches of one size.

    The dtypes of a pair may differ only where half precision stands beside float32, see
    `wide_dtype`: a student under autocast may learn from a teacher without it.
    """
    check_sequence("student", student)
    check_sequence("teacher", teacher)
    if len(student) != len(teacher):
        raise ValueError(
            "student and teacher must have the same number of layers, which are matched one to "
            f"one; got {len(student)} and {len(teacher)}."
        )
    for j, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.ndim == 0 or t.ndim == 0 or len(s) != len(t) or len(s) == 0:
            raise ValueError(
                f"student[{j}] and teacher[{j}] must hold the same batch of 1 sample or more, got "
                f"shapes {shape_of(s)} and {shape_of(t)}."
            )
        if wide_dtype(s.dtype) != wide_dtype(t.dtype):
            raise TypeError(
                f"student[{j}] and teacher[{j}] must have the same dtype, got {s.dtype} and "
                f"{t.dtype}."
            )


def module_of(function: Function) -> object:
    """Return the module of a bound method such as ``net.features``, or else the function itself."""
    return getattr(function, "__self__", function)


def check_batch(x: Tensor) -> None:
    """Raise unless ``x`` is a batch (N, ...) of finite floating-point numbers, N >= 1."""
    check_float_tensor("x", x)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x must be a batch of shape (N, ...), N >= 1; got {shape_of(x)}.")


def check_depends(name: str, output: Tensor) -> None:
    """Raise unless autograd can go back from the output to the input."""
    check_dtype(name, output)
    if not output.requires_grad:
        raise _no_derivative(name)


def input_gradient(
    name: str, output: Tensor, x: Tensor, v: Tensor | None = None, *, keep_graph: bool
) -> Tensor:
    """Return the rows v J of each sample's Jacobian, like x; the samples must be independent.

    Raises if the output does not depend on x. Its ``requires_grad`` alone does not tell: behind a
    backbone under torch.no_grad() the weights of the head set it, too.
    """
    check_depends(name, output)
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(
        output, x, v, create_graph=keep_graph, retain_graph=True, allow_unused=True
    )
    if gradient is None:
        raise _no_derivative(name)
    return gradient


def _no_derivative(name: str) -> ValueError:
    return ValueError(
        f"{name} does not depend on x for autograd, so it has no derivative there. It must be "
        "computed from x by differentiable operations, without detach() or torch.no_grad(); to "
        "freeze a part of a network, use requires_grad_(False)."
    )
