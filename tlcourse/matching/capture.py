"""The activations of named layers, read while a network runs.

A forward hook on each layer notes its output. The hooks are there inside the ``with`` block alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from tlcourse._checks import near


class Activations(Mapping[str, Tensor]):
    """The layers' last outputs by name, in the order in which the layers were asked for.

    Raises
    ------
    RuntimeError
        When a layer is read that has not run yet, or whose output was changed in place afterwards.
    KeyError
        When a layer is read that was not asked for.
    """

    def __init__(self, layers: Iterable[str]) -> None:
        self._found: dict[str, tuple[Tensor, int] | None] = dict.fromkeys(layers)

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self._found:
            raise KeyError(f"{layer!r} is not captured; captured are {', '.join(self._found)}.")
        found = self._found[layer]
        if found is None:
            raise RuntimeError(
                f"The layer {layer!r} has not run yet: call the model inside the with block. A "
                "model that torch.compile has compiled before does not see the hooks there: "
                "capture the one that it was made from."
            )
        output, version = found
        if version != _version(output):
            raise RuntimeError(
                f"The output of {layer!r} was changed in place after it was captured, as "
                "nn.ReLU(inplace=True) does. Capture the layer that changes it, or let the model "
                "go on with a copy: capture(..., copy=True)."
            )
        return output

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _hook(self, layer: str, copy: bool) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def note(module: nn.Module, _: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"The layer {layer!r} ({type(module).__name__}) returns a "
                    f"{type(output).__name__}; only layers that return one tensor can be captured."
                )
            self._found[layer] = (output, _version(output))
            return output.clone() if copy else None

        return note


@contextlib.contextmanager
def capture(
    model: nn.Module, layers: Iterable[str], *, copy: bool = False
) -> Iterator[Activations]:
    """Read the outputs of named layers while the model runs.

    The tensors are the layers' own outputs with their graph, so that a loss on them trains the
    model. After a second forward pass they are those of the second; a layer that runs several times
    in one pass leaves its last output.

    Parameters
    ----------
    model
        Any module.
    layers
        Names of submodules, as ``model.named_modules()`` gives them.
    copy
        Whether the model goes on with a copy of each output. It costs the memory, and is needed
        where what follows works in place, as in DenseNet or before ``nn.ReLU(inplace=True)``.

    Yields
    ------
    Activations
        A mapping {name: activation}, in the order of ``layers``.

    Raises
    ------
    TypeError
        If ``model`` is no module, ``layers`` no sequence of names, or a layer does not return one
        tensor.
    ValueError
        If a layer does not exist (the message says the nearest names), is named twice, or none is
        named.

    Examples
    --------
    >>> import torch
    >>> from tlcourse.models import SmallResNet
    >>> model = SmallResNet(10)
    >>> with capture(model, ["backbone.stage1", "backbone.stage3"]) as activations:
    ...     logits = model(torch.rand(2, 1, 32, 32))
    >>> {name: tuple(a.shape) for name, a in activations.items()}
    {'backbone.stage1': (2, 16, 16, 16), 'backbone.stage3': (2, 64, 4, 4)}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    names = _checked_names(model, layers)
    activations = Activations(names)
    with contextlib.ExitStack() as hooks:  # removes them whatever happens in the block
        for name in names:
            layer = model.get_submodule(name)
            hooks.callback(layer.register_forward_hook(activations._hook(name, copy)).remove)
        yield activations


def _checked_names(model: nn.Module, layers: Iterable[str]) -> list[str]:
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(
            f"layers must be a list of names, got {layers!r} ({type(layers).__name__})."
        )
    names = list(layers)
    if not names:
        raise ValueError("layers is empty: name one submodule or more.")
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"layers must hold names, got {name!r} ({type(name).__name__}).")
        if name not in known:
            top = ", ".join(repr(child) for child, _ in model.named_children())
            raise ValueError(
                f"{type(model).__name__} has no layer {name!r}.{near(name, known)} Its parts are "
                f"{top or 'none'}; model.named_modules() lists all names."
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"layers names {', '.join(map(repr, twice))} more than once.")
    return names


def _version(tensor: Tensor) -> int:
    """Return the count of in-place changes; inference mode keeps none."""
    return 0 if tensor.is_inference() else int(tensor._version)
