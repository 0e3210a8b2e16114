"""What the methods of this family share: checks of paired activations, gradients by the input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from tlcourse._checks import check_dtype, shape_of, traced, wide_dtype, widened

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
    """Raise unless ``x`` is a batch (N, ...) of floating-point numbers, N >= 1."""
    check_dtype("x", x)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"x must be a batch of shape (N, ...), N >= 1; got {shape_of(x)}.")


def independent(x: Tensor) -> Tensor:
    """Return a copy of the batch, by which derivatives can be taken."""
    with torch.inference_mode(False):
        x = x.detach().clone()  # a plain tensor, wherever x was made
        return x if traced(x) else x.requires_grad_()


def network(name: str, function: Function) -> Function:
    """Return the function, with its output, half precision as float32.

    It gets a copy of its input, which it may change in place, and runs on operations that have
    second derivatives: a loss on derivatives is trained with them.
    """

    def run(x: Tensor) -> Tensor:
        unfused = nullcontext() if traced(x) else _unfused(module_of(function))
        with sdpa_kernel(SDPBackend.MATH), unfused:
            y = function(x.clone())
        check_dtype(name, y)
        return widened(y)

    return run


def vjp(
    name: str,
    function: Callable[[Tensor], Any],
    x: Tensor,
    *,
    graph: bool,
    retain: bool = True,
    constant: bool = False,
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """Return y = ``function(x)`` and the map v -> v J of each sample's Jacobian J.

    It is ``torch.func.vjp``, ``has_aux`` included, with the graph of autograd: networks may do in
    it what they do in training. x is `independent`, v like y, v J like x; the samples must not see
    one another. ``graph`` keeps the graph of v J, ``retain`` that of y after the first v. Unless
    ``constant`` allows it, y must depend on x.
    """
    if traced(x):  # neither a compiler nor torch.vmap sees the graph of autograd
        y, pull, *also = torch.func.vjp(function, x, has_aux=has_aux)
        return y, lambda v: widened(pull(v)[0]), *also
    with torch.inference_mode(False), torch.enable_grad():
        found = function(x)
    y, aux = (found[0], found[1:]) if has_aux else (found, ())

    def back(v: Tensor) -> Tensor:
        if constant and not y.requires_grad:
            return torch.zeros_like(x)
        with torch.inference_mode(False):
            return widened(input_gradient(name, y, x, v, graph, retain or graph, constant))

    return y, back, *aux


def check_depends(name: str, output: Tensor) -> None:
    """Raise unless autograd can go back from the output to the input."""
    check_dtype(name, output)
    if not output.requires_grad:
        raise _no_derivative(name)


def input_gradient(
    name: str,
    output: Tensor,
    x: Tensor,
    v: Tensor | None = None,
    graph: bool = False,
    retain: bool = False,
    constant: bool = False,
) -> Tensor:
    """Return v J of an output, like x; raise unless it depends on x, or may be constant."""
    check_depends(name, output)
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(
        output, x, v, create_graph=graph, retain_graph=retain, allow_unused=True
    )
    if gradient is None and not constant:
        # requires_grad does not tell: behind a backbone under torch.no_grad() the weights of the
        # head set it, too.
        raise _no_derivative(name)
    return torch.zeros_like(x) if gradient is None else gradient


@contextlib.contextmanager
def _unfused(module: object) -> Iterator[None]:
    """Compute by its formula what else has no second derivative: hard sigmoids, cuDNN's layers."""
    cudnn = torch.backends.cudnn
    before = cudnn.enabled
    parts = module.modules() if isinstance(module, nn.Module) else ()
    cudnn.enabled = before and not any(isinstance(part, nn.RNNBase) for part in parts)
    try:
        with _Formulas():
            yield
    finally:
        cudnn.enabled = before


class _Formulas(TorchFunctionMode):
    """Compute the hard sigmoid by its formula."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.hardsigmoid:
            return func(*args, **kwargs)
        a = args[0] if args else kwargs["input"]
        out = F.relu6(a + 3) / 6
        return a.copy_(out) if kwargs.get("inplace", False) or args[1:2] == (True,) else out


def _no_derivative(name: str) -> ValueError:
    return ValueError(
        f"{name} does not depend on x for autograd, so it has no derivative there. It must be "
        "computed from x by differentiable operations, without detach() or torch.no_grad(); to "
        "freeze a part of a network, use requires_grad_(False)."
    )
