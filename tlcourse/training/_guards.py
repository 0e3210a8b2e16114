"""What stands around the training loop: checks, the epoch's losses, and what is put back."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from tlcourse._checks import check_int, check_number, shape_of
from tlcourse._random import kept_random_state
from tlcourse.training.batches import Batch, Loader, rows_of
from tlcourse.training.files import digest
from tlcourse.training.schedules import Schedule


def check_arguments(
    model: nn.Module, objective: Any, optimizer: Optimizer, clip_norm: float | None, **counts: int
) -> None:
    """Raise unless the arguments of `fit` are what they must be, and belong together."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if not callable(objective):
        raise TypeError(
            "objective must be a function of (model, batch) that returns the loss, "
            f"got {type(objective).__name__}."
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}."
        )
    own = {id(p) for p in model.parameters()}
    foreign = sum(id(p) not in own for g in optimizer.param_groups for p in g["params"])
    if foreign:
        raise ValueError(
            f"optimizer holds {foreign} parameters that are not the model's. Build it over "
            "model.parameters(); put what trains along with the model into one module with it."
        )
    if clip_norm is not None:
        check_number("clip_norm", clip_norm, above=0)
    check_int("epochs", counts["epochs"], low=1)
    check_int("seed", counts["seed"], low=0)


def check_loss(loss: Any) -> None:
    """Raise unless the objective has returned a scalar that can be differentiated."""
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"objective must return a scalar tensor, the loss; got {type(loss).__name__}."
        )
    if loss.ndim != 0:
        raise ValueError(
            f"objective must return a scalar, got shape {shape_of(loss)}: average over the batch."
        )
    if not loss.requires_grad:
        raise ValueError(
            "The loss that objective returned has no gradient: every parameter of the model is "
            "frozen, or it was computed under torch.no_grad() or from a detached tensor."
        )


@contextlib.contextmanager
def explaining(batches: Loader) -> Iterator[None]:
    """Say what PyTorch does not when BatchNorm meets a batch of one sample."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        n, size = batches.n_samples, batches.batch_size
        raise ValueError(
            "A layer of BatchNorm got a single value per channel, which has no variance. Of "
            f"{n} samples at batch_size={size} the last batch has {(n - 1) % size + 1}; several "
            "processes divide it. Choose a batch_size that leaves no batch of one sample, or leave "
            f"a sample out. (PyTorch: {error})"
        ) from error


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device of the run; on a CPU it is there."""
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device)


def augmented(augment: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Return the batch with its images changed."""
    images = batch[0]
    changed = augment(images)
    if not isinstance(changed, Tensor):
        raise TypeError(f"augment must return a tensor, got {type(changed).__name__}.")
    if len(changed) != len(images):
        raise ValueError(
            f"augment must return as many images as it gets, {len(images)}; got {len(changed)}."
        )
    return (changed, *batch[1:])


def factor_of(schedule: Schedule, progress: float) -> float:
    """Return a schedule's factor, or raise if it is none."""
    factor = schedule(progress)
    check_number(f"schedule({progress:.4g})", factor, low=0)
    return factor


def measures_of(measures: Any, *, taken: Mapping[str, float]) -> dict[str, float]:
    """Return what `on_epoch` returned as plain numbers."""
    if not isinstance(measures, Mapping):
        raise TypeError(f"on_epoch must return a dict of measures, got {type(measures).__name__}.")
    for name, value in measures.items():
        if name in taken:
            raise ValueError(f"on_epoch must not name a measure {name!r}: the history has its own.")
        try:
            float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"on_epoch must return numbers, got {name!r}: {type(value).__name__}."
            ) from None
    return {str(name): float(value) for name, value in measures.items()}


def reading_interval(device: torch.device) -> int:
    """Return after how many steps losses are read: reading one waits for a GPU, not for a CPU."""
    return 1 if device.type == "cpu" else 50


class Losses:
    """The losses of an epoch, read from the device a few at a time, and checked when read."""

    def __init__(
        self,
        epoch: int,
        steps: int,
        device: torch.device,
        optimizer: Optimizer,
        checkpoint: Path | None,
    ) -> None:
        self.epoch, self.steps, self.every = epoch, steps, reading_interval(device)
        self.optimizer, self.checkpoint = optimizer, checkpoint
        self.pending: list[Tensor] = []
        self.read: list[float] = []
        self.sizes: list[int] = []

    def add(self, loss: Tensor, size: int) -> None:
        """Take the mean loss of a batch and its number of samples."""
        self.pending.append(loss)
        self.sizes.append(size)
        if len(self.pending) >= self.every:
            self._read()

    def mean(self) -> float:
        """Return the mean over the epoch's samples."""
        self._read()
        total = math.fsum(loss * n for loss, n in zip(self.read, self.sizes, strict=True))
        return total / sum(self.sizes)

    def _read(self) -> None:
        if not self.pending:
            return
        values = torch.stack(self.pending).tolist()
        self.pending.clear()
        for value in values:
            self.read.append(value)
            if not math.isfinite(value):
                rate = float(self.optimizer.param_groups[0]["lr"])
                raise FloatingPointError(
                    f"The loss is {value} at epoch {self.epoch + 1}, step {len(self.read)} of "
                    f"{self.steps}. Try a smaller learning rate (it is {rate:g} there), look for "
                    f"NaN in the data, or clip the gradient: clip_norm=1.0."
                    f"{_what_remains(self.checkpoint)}"
                )


def check_weights(model: nn.Module, epoch: int, checkpoint: Path | None) -> None:
    """Raise if a weight or buffer is not finite after an epoch."""
    state = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    floating = {n: t for n, t in state.items() if t.is_floating_point()}
    finite = torch.stack([torch.isfinite(t).all() for t in floating.values()])
    if not bool(finite.all()):
        bad = [name for name, good in zip(floating, finite.tolist(), strict=True) if not good]
        raise FloatingPointError(
            f"{bad[0]} holds NaN or infinite values after epoch {epoch + 1}: the last step was too "
            f"long. Try a smaller learning rate, or clip the gradient: clip_norm=1.0."
            f"{_what_remains(checkpoint)}"
        )


def _what_remains(checkpoint: Path | None) -> str:
    return "" if checkpoint is None else f" {checkpoint} holds the last good epoch."


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, for an epoch in one process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # One number is drawn and left, as PyTorch's own loader does: what was recorded with it stays.
    torch.empty((), dtype=torch.int64).random_()


@contextlib.contextmanager
def kept(optimizer: Optimizer) -> Iterator[None]:
    """Put random state, cuDNN's switches and learning rates back; let convolutions repeat."""
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    rates = [group["lr"] for group in optimizer.param_groups]
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with kept_random_state():
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _fingerprint(data: Dataset[Any]) -> str:
    """Return a name for the data's content, or for its length where no more can be known."""
    if callable(getattr(data, "fingerprint", None)):
        return str(data.fingerprint())  # type: ignore[attr-defined]
    rows = rows_of(data)
    if rows is not None:
        return digest(enumerate(rows))[:16]
    return f"{type(data).__name__} of {len(data)} samples"  # type: ignore[arg-type]


def settings_of(
    model: nn.Module, objective: Any, augment: Any, schedule: Schedule | None, data: Dataset[Any]
) -> dict[str, Any]:
    """Return what a checkpoint can know of the arguments of `fit` that are no numbers."""
    printed = hashlib.sha256(repr(model).encode()).hexdigest()  # layers, dropout rates
    return {
        "model": f"{type(model).__qualname__} {printed[:8]}",
        "objective": _name_of(objective),
        "augment": _name_of(augment),
        "schedule": schedule and [factor_of(schedule, i / 16) for i in range(16)],
        "data": _fingerprint(data),
    }


def _name_of(function: Any) -> str | None:
    return None if function is None else getattr(function, "__qualname__", type(function).__name__)


def bar(done: int, epochs: int, steps: int, *, shown: bool) -> Any:
    """Return the progress bar of a run of which some epochs are done."""
    from tqdm.auto import tqdm

    # A page that is built shows what a bar leaves behind, so there it is left out.
    shown = shown and os.environ.get("TLCOURSE_BUILD_SITE") != "1"
    return tqdm(
        desc=f"epoch {min(done + 1, epochs)} of {epochs}",
        total=epochs * steps,
        initial=done * steps,
        leave=False,
        disable=not shown,
    )
