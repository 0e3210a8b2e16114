"""One training loop for every chapter.

The loop is `fit`. The device, mixed precision and data parallelism come from Hugging Face
Accelerate, so that ``accelerate launch`` spreads a run over devices without another line.

Reproducible by construction: the randomness of epoch e (the order of the samples, dropout,
augmentation) is a function of the seed and of e alone, never of what ran before. A run that was
killed therefore needs no saved generator to go on: it starts again at the last epoch that was
finished, and ends in the numbers of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, TensorDataset

from tlcourse._checks import check_int, check_number, shape_of
from tlcourse.training.batches import Batch, derived_seed, loader, resident
from tlcourse.training.files import Checkpoint, digest
from tlcourse.training.schedules import Schedule

if TYPE_CHECKING:
    import pandas

Objective = Callable[[Any, Batch], Tensor]


@dataclass
class History:
    """What a run measured, a row for every epoch.

    Attributes
    ----------
    rows
        Dicts with ``epoch`` (from 1), ``loss`` (mean over the epoch's samples), ``seconds`` and the
        measures that ``on_epoch`` returned.

    Examples
    --------
    >>> History([{"epoch": 1, "loss": 0.5, "seconds": 2.0}]).frame()
       epoch  loss  seconds
    0      1   0.5      2.0
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def frame(self) -> pandas.DataFrame:
        """Return the rows as a table."""
        import pandas

        return pandas.DataFrame(self.rows)


def fit(
    model: nn.Module,
    objective: Objective,
    data: Dataset[Any],
    *,
    optimizer: Optimizer,
    epochs: int,
    batch_size: int = 128,
    schedule: Schedule | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    on_epoch: Callable[[Any], Mapping[str, float]] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train a model, and go on where a killed run of the same call stopped.

    Parameters
    ----------
    model
        Trained in place; afterwards it is on the device that Accelerate chose.
    objective
        ``objective(model, batch)`` returns the loss, a scalar; the batch is a tuple of tensors on
        the model's device.
    data
        A dataset with a length. One with ``.tensors`` is indexed a batch at a time.
    optimizer
        Over parameters of the model. Its learning rates are those at a factor of 1; they are put
        back after the run.
    epochs, batch_size
        At least 1. Spread over several processes, a batch is divided among them, so that the
        number of steps stays.
    schedule
        ``schedule(progress)`` returns the factor on the learning rates, at every step; progress is
        the part of all steps that is done, in [0, 1). See `cosine_decay` and `step_decay`.
    augment
        ``augment(images)`` changes the batch's first tensor, on the model's device.
    on_epoch
        ``on_epoch(model)`` returns measures for the history, a dict of numbers.
    seed
        Decides the order of the samples, dropout and augmentation. The caller's own random state
        (Python, NumPy, PyTorch) is the same after the call as before.
    checkpoint
        One safetensors file, written before the first and after every epoch in one atomic
        step. If it exists, the run goes on from it; all arguments must then be those of the first
        call. What the objective closes over is not seen: a run with another teacher or temperature
        needs another path.
    progress
        Whether to show a progress bar.

    Returns
    -------
    History
        A row for every epoch, those before an interruption included. Resumed or not, the rows and
        the weights are the same bit for bit on one machine; ``seconds`` are not.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, the objective returns no differentiable scalar, or the checkpoint
        belongs to another run or is damaged (it is then left as it is).
    FloatingPointError
        As soon as a loss or weight is NaN or infinite. The last good epoch's checkpoint remains.
    OSError
        If the checkpoint cannot be written. The one before remains.

    Examples
    --------
    >>> from torch.nn.functional import cross_entropy
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(64, 2)
    >>> y = (x[:, 0] > 0).long()
    >>> model = nn.Linear(2, 2)
    >>> history = fit(
    ...     model,
    ...     lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
    ...     TensorDataset(x, y),
    ...     optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
    ...     epochs=3,
    ...     batch_size=16,
    ...     progress=False,
    ... )
    >>> history.rows[2]["loss"] < history.rows[0]["loss"]
    True
    """
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration
    from tqdm.auto import tqdm

    _check_arguments(model, objective, optimizer)
    check_int("epochs", epochs, low=1)
    check_int("seed", seed, low=0)

    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))
    batches = loader(resident(data, accelerator.device), batch_size, shuffle=True, seed=seed)
    if batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size must be a multiple of the {accelerator.num_processes} processes that "
            f"share a batch, got {batch_size}."
        )
    loss_of, stepper, batches = accelerator.prepare(_Step(model, objective), optimizer, batches)
    steps = len(batches)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    every = _reading_interval(accelerator.device)

    store = None
    history = History()
    if checkpoint is not None:
        settings = {
            "epochs": epochs,
            "batch_size": batch_size,
            "seed": seed,
            "model": _architecture(model),
            "objective": _name_of(objective),
            "augment": _name_of(augment),
            "schedule": schedule and [_factor(schedule, i / 16) for i in range(16)],
            "data": _fingerprint(data),
        }
        store = Checkpoint(Path(checkpoint), model, optimizer, accelerator.scaler, settings)
        history = History(store.restore())
        accelerator.wait_for_everyone()
        if not history.rows and accelerator.is_main_process:
            store.write(history.rows)  # a bad path fails now, and the first weights are kept too
        accelerator.wait_for_everyone()

    # A page that is built shows what a bar leaves behind, so there it is left out.
    hidden = not progress or os.environ.get("TLCOURSE_BUILD_SITE") == "1"
    bar = tqdm(
        desc=f"epoch {min(len(history.rows) + 1, epochs)} of {epochs}",
        total=epochs * steps,
        initial=len(history.rows) * steps,
        leave=False,
        disable=hidden or not accelerator.is_main_process,
    )
    with bar, _own_randomness(accelerator.device), _rates_put_back(optimizer):
        for epoch in range(len(history.rows), epochs):
            started = time.perf_counter()
            bar.set_description(f"epoch {epoch + 1} of {epochs}", refresh=False)
            _seed_all(derived_seed(seed, epoch, 1, accelerator.process_index))
            batches.set_epoch(epoch)
            model.train()
            losses = _Losses(epoch, steps, every, optimizer, store)
            for step, batch in enumerate(batches):
                if augment is not None:
                    batch = (_augmented(augment, batch[0]), *batch[1:])
                if schedule is not None:
                    factor = _factor(schedule, (epoch * steps + step) / (epochs * steps))
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * factor
                loss = loss_of(batch)
                losses.add(loss, len(batch[0]))
                stepper.zero_grad()
                accelerator.backward(loss)
                stepper.step()
                bar.update()
            mean = losses.mean(accelerator)
            _check_weights(model, epoch, store)
            row = {"epoch": epoch + 1, "loss": mean, "seconds": time.perf_counter() - started}
            if on_epoch is not None:
                row |= _measures(on_epoch(model), taken=row)
            history.rows.append(row)
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            if store is not None:
                if accelerator.is_main_process:
                    store.write(history.rows)
                accelerator.wait_for_everyone()
    return history


class _Step(nn.Module):
    """The objective as a module, so that Accelerate wraps it and the objective sees the bare model.

    Wrapped itself, the model would hide its submodules (``model.backbone``) under data parallelism.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = (objective,)  # in a tuple: a module in there (a teacher) is not trained

    def forward(self, batch: Batch) -> Tensor:
        loss = self.objective[0](self.model, batch)
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"objective must return a scalar tensor, the loss; got {type(loss).__name__}."
            )
        if loss.ndim != 0:
            raise ValueError(
                f"objective must return a scalar, got shape {shape_of(loss)}: average over "
                "the batch."
            )
        if not loss.requires_grad:
            raise ValueError(
                "The loss that objective returned has no gradient: every parameter of the model is "
                "frozen, or it was computed under torch.no_grad() or from a detached tensor."
            )
        return loss


def _reading_interval(device: torch.device) -> int:
    """Return after how many steps losses are read: reading one waits for a GPU, not for a CPU."""
    return 1 if device.type == "cpu" else 50


class _Losses:
    """The losses of an epoch, read from the device a few at a time, and checked when read."""

    def __init__(
        self, epoch: int, steps: int, every: int, optimizer: Optimizer, store: Checkpoint | None
    ) -> None:
        self.epoch, self.steps, self.every = epoch, steps, every
        self.optimizer, self.store = optimizer, store
        self.pending: list[Tensor] = []
        self.read: list[float] = []
        self.sizes: list[int] = []

    def add(self, loss: Tensor, size: int) -> None:
        self.pending.append(loss.detach())
        self.sizes.append(size)
        if len(self.pending) >= self.every:
            self._read()

    def mean(self, accelerator: Any) -> float:
        """Return the mean over the epoch's samples, of all processes."""
        self._read()
        total = math.fsum(loss * n for loss, n in zip(self.read, self.sizes, strict=True))
        mean = total / sum(self.sizes)
        if accelerator.num_processes > 1:
            value = torch.tensor(mean, device=accelerator.device)
            mean = float(accelerator.reduce(value, reduction="mean"))
        return mean

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
                    f"NaN in the data, or clip the gradient.{_what_remains(self.store)}"
                )


def _augmented(augment: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    changed = augment(images)
    if not isinstance(changed, Tensor):
        raise TypeError(f"augment must return a tensor, got {type(changed).__name__}.")
    if len(changed) != len(images):
        raise ValueError(
            f"augment must return as many images as it gets, {len(images)}; got {len(changed)}."
        )
    return changed


def _factor(schedule: Schedule, progress: float) -> float:
    factor = schedule(progress)
    check_number(f"schedule({progress:.4g})", factor, low=0)
    return factor


def _measures(measures: Any, *, taken: Mapping[str, float]) -> dict[str, float]:
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


def _check_arguments(model: nn.Module, objective: Objective, optimizer: Optimizer) -> None:
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


def _check_weights(model: nn.Module, epoch: int, store: Checkpoint | None) -> None:
    floating = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    finite = torch.stack([torch.isfinite(t).all() for t in floating.values()])
    if not bool(finite.all()):
        bad = [name for name, good in zip(floating, finite.tolist(), strict=True) if not good]
        raise FloatingPointError(
            f"{bad[0]} holds NaN or infinite values after epoch {epoch + 1}: the last step was too "
            f"long. Try a smaller learning rate, or clip the gradient.{_what_remains(store)}"
        )


def _what_remains(store: Checkpoint | None) -> str:
    return "" if store is None else f" {store.path} holds the last good epoch."


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Give the run its own random state and repeatable convolutions; put the caller's back."""
    python, numeric = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        random.setstate(python)
        np.random.set_state(numeric)


@contextlib.contextmanager
def _rates_put_back(optimizer: Optimizer) -> Iterator[None]:
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _fingerprint(data: Dataset[Any]) -> str:
    """Return a name for the data's content, or for its length where no more can be known."""
    if callable(getattr(data, "fingerprint", None)):
        return str(data.fingerprint())  # type: ignore[attr-defined]
    if type(data) is TensorDataset:
        return digest(enumerate(data.tensors))[:16]
    return f"{type(data).__name__} of {len(data)} samples"  # type: ignore[arg-type]


def _name_of(function: Any) -> str | None:
    return None if function is None else getattr(function, "__qualname__", type(function).__name__)


def _architecture(model: nn.Module) -> str:
    """Return the class and a short hash of what the model prints (layers, dropout rates)."""
    return f"{type(model).__qualname__} {hashlib.sha256(repr(model).encode()).hexdigest()[:8]}"
