"""Models and checkpoints in safetensors files, each written in one atomic step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tlcourse._checks import shape_of
from tlcourse._files import expand, writing

Module = TypeVar("Module", bound=nn.Module)


def save_model(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights and buffers into one safetensors file, in one atomic step.

    Parameters
    ----------
    model
        Any module.
    path
        The file; ``~`` is the home folder, and the file's own folder is made if need be. A file
        that is there is replaced only by a whole new one.

    Raises
    ------
    TypeError
        If the model's state holds what is no tensor, as a module with ``get_extra_state`` may.
    OSError
        If the file cannot be written: no space, no right. What was there remains.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> model = nn.Linear(2, 3)
    >>> save_model(model, path)
    >>> torch.equal(load_model(nn.Linear(2, 3), path).weight, model.weight)
    True
    """
    tensors = {name: _stored(t) for name, t in _state_of(model).items()}
    _write_file(expand(path), tensors, {"kind": "model", "class": type(model).__qualname__})


def load_model(model: Module, path: str | Path) -> Module:
    """Read weights that `save_model` wrote into a model of the same architecture.

    Parameters
    ----------
    model
        Changed in place, and only if the whole file fits.
    path
        The file; ``~`` is the home folder.

    Returns
    -------
    Module
        The model that was passed.

    Raises
    ------
    TypeError
        If the model's state holds what is no tensor, as a module with ``get_extra_state`` may.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or holds another model; the message lists the tensors that differ.
    """
    path, state = expand(path), _state_of(model)
    tensors, metadata = _read_file(path, "a model", "Save the model again, or choose another file.")
    if metadata.get("kind", "model") != "model":
        raise ValueError(
            f"{path} holds a {metadata['kind']}, not a model. "
            "Pass a file that save_model has written."
        )
    differences = _tensor_differences(
        {name: _kind_of(t) for name, t in tensors.items()},
        {name: _kind_of(t) for name, t in state.items()},
    )
    if differences:
        raise ValueError(
            f"{path} holds another model ({metadata.get('class', 'of unknown class')}) than the "
            f"{type(model).__qualname__} given: {'; '.join(differences)}. "
            "Build the model with the settings it was saved with, or choose another file."
        )
    model.load_state_dict(tensors)
    return model


class Checkpoint:
    """A run's file: weights, the optimizer's state, the history, and what the run must match."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: Any,
        settings: Mapping[str, Any],
    ) -> None:
        if path.is_dir():
            raise ValueError(f"checkpoint must be a file, but {path} is a folder.")
        groups = [{**g, "params": len(g["params"])} for g in optimizer.param_groups]
        self.path, self.model, self.optimizer, self.scaler = path, model, optimizer, scaler
        self.settings = _plain(
            {
                **settings,
                "optimizer": type(optimizer).__name__,
                **{
                    f"optimizer group {i}, {name}": value
                    for i, group in enumerate(groups)
                    for name, value in group.items()
                },
            }
        )

    def write(self, rows: list[dict[str, float]]) -> None:
        """Write the state as it is, with a row of the history for every epoch that is done."""
        tensors = {f"model.{name}": _stored(t) for name, t in _state_of(self.model).items()}
        scalars: dict[str, dict[str, Any]] = {}
        for index, entries in self.optimizer.state_dict()["state"].items():
            scalars[str(index)] = {}
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = _stored(value)
                elif value is None or isinstance(value, (bool, int, float, str)):
                    scalars[str(index)][name] = value
                else:
                    raise TypeError(
                        f"The state {name!r} of {type(self.optimizer).__name__} is a "
                        f"{type(value).__name__}, which a checkpoint cannot hold. Train without "
                        "one."
                    )
        state = {
            "settings": self.settings,
            "history": rows,
            "optimizer": scalars,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }
        _write_file(self.path, tensors, {"kind": "checkpoint", "state": json.dumps(state)})

    def restore(self) -> list[dict[str, float]]:
        """Put the file's state into model and optimiser, and return the epochs that are done."""
        if not self.path.exists():
            return []
        remedy = "Delete the file to start again, or choose another path."
        tensors, metadata = _read_file(self.path, "a checkpoint", remedy)
        if metadata.get("kind") != "checkpoint":
            raise ValueError(
                f"{self.path} is not a checkpoint of fit. It is left as it is: choose another path."
            )
        state = json.loads(metadata["state"])
        saved, wanted = state["settings"], self.settings
        differences = [
            f"{name} was {saved.get(name)!r} and is now {wanted.get(name)!r}"
            for name in [*wanted, *(n for n in saved if n not in wanted)]
            if saved.get(name) != wanted.get(name)
        ]
        weights = _under("model.", tensors)
        differences += _tensor_differences(
            {name: _kind_of(t) for name, t in weights.items()},
            {name: _kind_of(t) for name, t in _state_of(self.model).items()},
        )
        if differences:
            raise ValueError(
                f"{self.path} is the checkpoint of another run: {'; '.join(differences)}. "
                f"It is left as it is. {remedy}"
            )
        self.model.load_state_dict(weights)
        entries: dict[int, dict[str, Any]] = {int(i): s for i, s in state["optimizer"].items()}
        for name, tensor in _under("optimizer.", tensors).items():
            index, entry = name.split(".", 1)
            entries[int(index)][entry] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        return list(state["history"])


def _write_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a whole new file beside ``path`` and put it in its place: no reader sees a half."""
    from safetensors.torch import save

    content = save(tensors, {**metadata, "sha256": digest(tensors.items())})
    with writing(path) as file:
        file.write(content)


def _read_file(path: Path, what: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}, so {what} cannot be read from it.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not the file of {what}.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or only half written: {what} cannot be read from it ({error}). "
            f"{remedy}"
        ) from error
    if metadata.get("sha256", "") not in ("", digest(tensors.items())):
        raise ValueError(
            f"{path} is damaged: its checksum is not the one it was written with. {remedy}"
        )
    return tensors, metadata


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"The model's state holds {name!r}, a {type(value).__name__}, and a safetensors "
                "file holds tensors alone. Let get_extra_state of that module return a tensor, or "
                "keep the model with torch.save(model.state_dict(), path)."
            )
    return state


def _stored(tensor: Tensor) -> Tensor:
    # A clone, since safetensors refuses tensors that share memory, as tied weights do.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _kind_of(tensor: Tensor) -> str:
    return f"{shape_of(tensor)} {str(tensor.dtype).removeprefix('torch.')}"


def _tensor_differences(saved: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Say which tensors are missing, unexpected or of another kind; the first few of each."""
    groups = {
        "missing in the file": [n for n in wanted if n not in saved],
        "only in the file": [n for n in saved if n not in wanted],
        "of another shape or type": [
            f"{n} is {saved[n]} in the file, {wanted[n]} in the model"
            for n in wanted
            if n in saved and saved[n] != wanted[n]
        ],
    }
    return [
        f"{kind}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for kind, names in groups.items()
        if names
    ]


def digest(tensors: Any) -> str:
    """Return the SHA-256 of named tensors: names, shapes, types and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: str(item[0])):
        total.update(f"{name} {_kind_of(tensor)} ".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _plain(value: Any) -> Any:
    """Return the value as it reads back from JSON, so that it can be compared with a stored one."""
    return json.loads(json.dumps(value, default=str))
