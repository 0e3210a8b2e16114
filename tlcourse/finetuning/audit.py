r"""An audit of what learns, what rests, and what only looks as if it rested.

Two checks that do not trust each other: :func:`audit` reads the settings of a network before the
training, :func:`changed` compares its bytes afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from tlcourse._checks import check_choice
from tlcourse._modes import kept_modes

if TYPE_CHECKING:
    import pandas as pd

STATUSES = ("trainable", "frozen", "drifting")


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a network, as :func:`audit` sees it.

    Attributes
    ----------
    name
        As in ``state_dict``. A tensor with two names (tied weights) has one row, under its first.
    kind
        ``"weight"``, ``"bias"``, ``"parameter"`` (any other), ``"BatchNorm statistic"`` and its
        like of other layers, ``"buffer"`` (any other).
    shape, numel
        Its shape and the number of its elements.
    status
        ``"trainable"``, ``"frozen"`` or ``"drifting"``.
    is_parameter
        False for a buffer.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    numel: int
    status: str
    is_parameter: bool


@dataclass(frozen=True)
class FreezeAudit:
    """What :func:`audit` found, a row per tensor.

    ``print`` shows it as a table.

    Attributes
    ----------
    rows
        Parameters and buffers, layer by layer.
    """

    rows: tuple[TensorRow, ...]

    @property
    def trainable(self) -> tuple[str, ...]:
        """The names of the tensors that learn."""
        return self._names("trainable")

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the tensors that stay as they are."""
        return self._names("frozen")

    @property
    def drifting(self) -> tuple[str, ...]:
        """The names of the tensors that look frozen and move."""
        return self._names("drifting")

    def n_parameters(self, status: str | None = None, *, under: str = "") -> int:
        """Return how many numbers the parameters hold; buffers do not count.

        Parameters
        ----------
        status
            Count those of one status alone.
        under
            The name of a part of the network: count that part alone.

        Raises
        ------
        ValueError
            If the status is none of the three, or no tensor lies under that name.
        """
        if status is not None:
            check_choice("status", status, STATUSES)
        rows = [row for row in self.rows if _lies_under(row.name, under)]
        if under and not rows:
            parts = ", ".join(dict.fromkeys(repr(row.name.split(".")[0]) for row in self.rows))
            raise ValueError(f"under is {under!r}: no tensor lies there. The parts are {parts}.")
        return sum(row.numel for row in rows if row.is_parameter and status in (None, row.status))

    def frame(self) -> pd.DataFrame:
        """Return the audit as a table."""
        import pandas as pd

        columns = ("name", "kind", "shape", "numel", "status")
        return pd.DataFrame([{c: getattr(row, c) for c in columns} for row in self.rows])

    def __str__(self) -> str:
        lines = [("tensor", "kind", "shape", "numbers", "status")]
        lines += [(r.name, r.kind, str(r.shape), f"{r.numel:,}", r.status) for r in self.rows]
        name, kind, shape, numel, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
        table = [
            f"{line[0]:{name}}  {line[1]:{kind}}  {line[2]:{shape}}  {line[3]:>{numel}}  {line[4]}"
            for line in lines
        ]
        counts = [f"{n:,} {s}" for s in STATUSES if (n := self.n_parameters(s))]
        table.append(f"{self.n_parameters():,} parameters: {', '.join(counts)}.")
        if self.drifting:
            table.append(
                f"{len(self.drifting)} tensors look frozen and will move: "
                "tlcourse.finetuning.freeze(part) holds them."
            )
        return "\n".join(table)

    def _names(self, status: str) -> tuple[str, ...]:
        return tuple(row.name for row in self.rows if row.status == status)


def audit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    inputs: Tensor | None = None,
) -> FreezeAudit:
    """Return a row per tensor of a network, which says whether it learns, rests or drifts.

    - **trainable**: a parameter that takes gradients, or a running statistic of a layer that
      learns.
    - **frozen**: it stays, byte for byte.
    - **drifting**: it looks frozen and will move. A running statistic, or a vector of spectral
      normalisation, drifts if its layer is in train mode, or will be after ``model.train()``, while
      no weight of the layer learns. A parameter that takes no gradient drifts if an old ``grad`` is
      left, be it zeros: momentum and weight decay go on moving it.

    Parameters
    ----------
    model
        Left as it is, each layer in its mode.
    optimizer
        What steps the model. With it, an old ``grad`` counts only where the optimiser holds that
        parameter; without it, it counts everywhere. In an ``LBFGS``, every parameter that takes no
        gradient counts: it moves all that it was given.
    inputs
        A batch for the model. With it the model runs once in train mode, without gradients, and
        every tensor that moved counts, whatever layer it is of; bytes, modes and random state are
        put back.

    Returns
    -------
    FreezeAudit
        ``print`` it, or take its ``frame()``, ``n_parameters()`` and ``drifting``.

    Raises
    ------
    TypeError
        If ``model`` is no module, ``optimizer`` no optimiser, or ``inputs`` no tensor.

    Notes
    -----
    Without ``inputs`` it reads settings. Of buffers, it knows torch's running statistics and
    spectral normalisation, and what other layers call ``running_...``; it takes any other buffer
    for a constant. :func:`snapshot` and :func:`changed` compare bytes, and so hold for every layer
    and optimiser.

    References
    ----------
    Protopapas (AC295) counts parameters layer by layer, *Extremely short review of CNN*.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> _ = model[:2].requires_grad_(False)
    >>> print(audit(model))
    tensor                 kind                 shape   numbers  status
    0.weight               weight               (3, 4)       12  frozen
    0.bias                 bias                 (3,)          3  frozen
    1.weight               weight               (3,)          3  frozen
    1.bias                 bias                 (3,)          3  frozen
    1.running_mean         BatchNorm statistic  (3,)          3  drifting
    1.running_var          BatchNorm statistic  (3,)          3  drifting
    1.num_batches_tracked  BatchNorm statistic  ()            1  drifting
    2.weight               weight               (2, 3)        6  trainable
    2.bias                 bias                 (2,)          2  trainable
    29 parameters: 8 trainable, 21 frozen.
    3 tensors look frozen and will move: tlcourse.finetuning.freeze(part) holds them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}."
        )
    if inputs is not None and not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a torch.Tensor, a batch, got {type(inputs).__name__}.")
    # A model may keep layers in eval mode by means of its own: ask it, instead of guessing.
    moving = {layer for layer in model.modules() if layer.training}
    with kept_modes(model):
        model.train()
        moving |= {layer for layer in model.modules() if layer.training}

    moved = set() if inputs is None else _moved_by(model, inputs)
    rows = []
    seen: set[int] = set()
    for path, layer in model.named_modules():
        for name, tensor in chain(
            layer.named_parameters(path, recurse=False), layer.named_buffers(path, recurse=False)
        ):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            is_parameter = isinstance(tensor, nn.Parameter)
            if is_parameter:
                status = _status_of_parameter(tensor, optimizer, name in moved)
            elif name in moved or (layer in moving and _turns_in_training(layer, name)):
                status = "trainable" if _learns(model, path) else "drifting"
            else:
                status = "frozen"
            kind = _kind(name, layer, is_parameter)
            rows.append(
                TensorRow(name, kind, tuple(tensor.shape), tensor.numel(), status, is_parameter)
            )
    return FreezeAudit(tuple(rows))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer of a network, by name, for :func:`changed`.

    Examples
    --------
    >>> before = snapshot(nn.Linear(2, 1))
    >>> sorted(before)
    ['bias', 'weight']
    """
    return {name: tensor.detach().clone() for name, tensor in _tensors(model)}


def changed(model: nn.Module, before: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the tensors that are not, byte for byte, what they were.

    Parameters
    ----------
    model
        The network, any number of steps later.
    before
        What :func:`snapshot` gave for it.

    Raises
    ------
    ValueError
        If the network has other tensors than it had.

    Examples
    --------
    >>> model = nn.BatchNorm1d(2).requires_grad_(False)
    >>> before = snapshot(model)
    >>> _ = model(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    >>> changed(model, before)
    ('running_mean', 'running_var', 'num_batches_tracked')
    """
    after = dict(_tensors(model))
    if after.keys() != before.keys():
        other = sorted(after.keys() ^ before.keys())
        raise ValueError(
            f"before is of another network: only one of the two has {', '.join(other[:5])}"
            f"{', ...' if len(other) > 5 else ''}. Take the snapshot after the last change."
        )
    return tuple(name for name, tensor in after.items() if not _same_bytes(tensor, before[name]))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # Not torch.equal: NaN is no NaN's equal, and -0 is 0's.
    x, y = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(x, y)


def _moved_by(model: nn.Module, inputs: Tensor) -> set[str]:
    """Return the names of what a forward pass in train mode moves, and put it back."""
    before = snapshot(model)
    gpus = {tensor.device for tensor in before.values() if tensor.is_cuda}
    with kept_modes(model), torch.random.fork_rng(devices=gpus), torch.no_grad():
        model.train()
        try:
            model(inputs.clone())
            return set(changed(model, before))
        finally:
            for name, tensor in _tensors(model):
                tensor.copy_(before[name])


def _turns_in_training(layer: nn.Module, name: str) -> bool:
    last = name.rpartition(".")[2]
    if type(layer).__name__.startswith("FrozenBatchNorm"):
        return False  # torchvision's and timm's: nothing in them is updated
    if isinstance(layer, (_NormBase, _SpectralNorm)) or last.startswith("running_"):
        return True
    # torch.nn.utils.spectral_norm, the older form, is a hook, with its vectors in the layer.
    hooks = (h for h in layer._forward_pre_hooks.values() if isinstance(h, SpectralNorm))
    return last in {f"{hook.name}_{vector}" for hook in hooks for vector in "uv"}


def _status_of_parameter(
    parameter: Tensor, optimizer: torch.optim.Optimizer | None, moved: bool
) -> str:
    if parameter.requires_grad:
        return "trainable"
    if moved:
        return "drifting"
    if optimizer is None:
        return "frozen" if parameter.grad is None else "drifting"
    held = any(parameter is p for group in optimizer.param_groups for p in group["params"])
    stepped = parameter.grad is not None or isinstance(optimizer, torch.optim.LBFGS)
    return "drifting" if held and stepped else "frozen"


def _learns(model: nn.Module, path: str) -> bool:
    # Of the innermost part around the layer that has parameters: does any of them learn? A
    # BatchNorm without weights of its own belongs to the block that it stands in.
    while True:
        parameters = list(model.get_submodule(path).parameters())
        if parameters or not path:
            return any(parameter.requires_grad for parameter in parameters)
        path = path.rpartition(".")[0]


def _kind(name: str, layer: nn.Module, is_parameter: bool) -> str:
    if isinstance(layer, _NormBase) and not is_parameter:
        family = type(layer).__name__.removeprefix("Sync").removeprefix("Lazy")
        return f"{family.rstrip('123d')} statistic"
    last = name.rpartition(".")[2]
    if is_parameter:
        return next((kind for kind in ("weight", "bias") if kind in last), "parameter")
    return "buffer"


def _lies_under(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")
