"""Parts of a network by name: shared by the rates and the schedule."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tlcourse._checks import near

Part = str | Sequence[str]


def part_names(argument: str, parts: Sequence[Part]) -> list[tuple[str, ...]]:
    """Return the names of each part, a lone one as a tuple of one; raise unless they are names."""
    takes = f"{argument} must be a list of names, or of lists of names"
    if isinstance(parts, str) or not isinstance(parts, Sequence):
        raise TypeError(f"{takes}; got {parts!r}.")
    if len(parts) == 0:
        raise ValueError(f"{takes}; got an empty list.")
    found = []
    for i, part in enumerate(parts):
        names = (part,) if isinstance(part, str) else part
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"{takes}; {argument}[{i}] is {part!r}.")
        if len(names) == 0:
            raise ValueError(f"{takes}; {argument}[{i}] is empty.")
        found.append(tuple(names))
    return found


def parameters_of(
    model: nn.Module, argument: str, names: tuple[str, ...]
) -> dict[nn.Parameter, None]:
    """Return the parameters of named parts, in order, each once; raise for a name not there.

    A name is that of a submodule, or of a parameter that no submodule holds.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    modules = {name: module for name, module in model.named_modules() if name}
    own = dict(model.named_parameters(remove_duplicate=False))
    found: dict[nn.Parameter, None] = {}
    for name in names:
        if name in modules:
            found.update(dict.fromkeys(modules[name].parameters()))
        elif name in own:
            found[own[name]] = None
        else:
            parts = ", ".join(repr(part) for part, _ in model.named_children())
            raise ValueError(
                f"{argument} names {name!r}, which the model does not have."
                f"{near(name, [*modules, *own])} Its parts are {parts}, and theirs."
            )
    if not found:
        raise ValueError(f"{argument} holds no parameter: {_listed(names)}. Leave it out.")
    return found


def head_name(model: nn.Module) -> str:
    """Return the name of the head: ``head``, or else the module that holds the last parameter."""
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module) and any(True for _ in head.parameters()):
        return "head"
    names = [name for name, _ in model.named_parameters()]
    if not names:
        raise ValueError("model has no parameters: there is nothing to train.")
    # A network that is one bare layer is its own head, under the name of its parameter.
    return names[-1].rpartition(".")[0] or names[-1]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)
