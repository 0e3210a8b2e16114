"""One training loop for every chapter, and the files that keep what it has learned.

The loop is `fit`. The device, mixed precision and data parallelism come from Hugging Face
Accelerate, so that ``accelerate launch`` spreads a run over devices without another line.

Reproducible by construction: the randomness of epoch e (the order of the samples, dropout,
augmentation) is a function of the seed and of e alone, never of what ran before. A run that was
killed therefore needs no saved generator to go on: it starts again at the last epoch that was
finished, and ends in the numbers of an undisturbed run.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, TensorDataset

from tlcourse._checks import check_int, check_number, shape_of

if TYPE_CHECKING:
    import pandas

Batch = tuple[Tensor, ...]
Objective = Callable[[Any, Batch], Tensor]
Schedule = Callable[[float], float]
Module = TypeVar("Module", bound=nn.Module)


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


def cosine_decay(progress: float) -> float:
    r"""Return the factor on the learning rate that falls from 1 to 0 along half a cosine.

    .. math:: f(t) = \tfrac{1}{2} (1 + \cos \pi t)

    where t is the progress, the part of all steps that is done, in [0, 1).

    Examples
    --------
    >>> [round(cosine_decay(t), 3) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]

    References
    ----------
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, eq. 5,
    with one period and no restart.
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def step_decay(milestones: Sequence[float], factor: float) -> Schedule:
    """Return a schedule that multiplies the learning rate by ``factor`` at every milestone.

    Parameters
    ----------
    milestones
        Parts of the run, rising, in (0, 1): epochs 60, 120 and 160 of 200 are (0.3, 0.6, 0.8).
    factor
        In (0, 1).

    Raises
    ------
    ValueError
        If the milestones do not rise or lie outside (0, 1), or the factor does.

    Examples
    --------
    >>> schedule = step_decay((0.3, 0.6, 0.8), 0.2)
    >>> [round(schedule(epoch / 200), 3) for epoch in (0, 59, 60, 120, 160)]
    [1.0, 1.0, 0.2, 0.04, 0.008]
    """
    points = list(milestones)
    if not all(0 < p < 1 for p in points) or points != sorted(set(points)):
        raise ValueError(
            f"milestones must rise and lie in (0, 1), parts of the whole run; got {points}."
        )
    check_number("factor", factor, above=0)
    if factor >= 1:
        raise ValueError(f"factor must be less than 1, got {factor:g}.")
    return lambda progress: factor ** bisect.bisect_right(points, progress)


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
    batches = loader(_resident(data, accelerator.device), batch_size, shuffle=True, seed=seed)
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
        store = _Checkpoint(Path(checkpoint), model, optimizer, accelerator.scaler, settings)
        history = store.restore()
        accelerator.wait_for_everyone()
        if not history.rows and accelerator.is_main_process:
            store.write(history)  # a bad path fails now, and the first weights are kept too
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
            _seed_all(_derived_seed(seed, epoch, 1, accelerator.process_index))
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
                    store.write(history)
                accelerator.wait_for_everyone()
    return history


def loader(
    dataset: Dataset[Any], batch_size: int, *, shuffle: bool, seed: int = 0
) -> DataLoader[Any]:
    """Return a loader of batches, tuples of tensors, whose order depends on the seed alone.

    A dataset with ``.tensors`` is indexed with a batch's indices at once, many times quicker than
    sample by sample.

    Parameters
    ----------
    dataset
        A dataset with a length of at least 1.
    batch_size
        At least 1; the last batch may be smaller.
    shuffle
        Whether to shuffle. The first pass has the order of (seed, 0), the second that of (seed, 1)
        and so on.
    seed
        At least 0.

    Raises
    ------
    TypeError
        If the dataset has no length.
    ValueError
        If it is empty, or a number is out of range.

    Examples
    --------
    >>> dataset = TensorDataset(torch.arange(5))
    >>> [batch.tolist() for (batch,) in loader(dataset, 2, shuffle=False)]
    [[0, 1], [2, 3], [4]]
    """
    check_int("batch_size", batch_size, low=1)
    check_int("seed", seed, low=0)
    try:
        n = len(dataset)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"The data must have a length, which {type(dataset).__name__} has not: pass a "
            "map-style dataset, for instance a TensorDataset."
        ) from None
    if n == 0:
        raise ValueError("The data is empty: it needs at least 1 sample.")
    order = BatchSampler(_Order(n, shuffle, seed), batch_size, drop_last=False)
    if hasattr(dataset, "tensors"):
        return DataLoader(_Rows(dataset), batch_sampler=order, collate_fn=_as_tuple)
    return DataLoader(dataset, batch_sampler=order, collate_fn=_collate)


def save_model(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights and buffers into one safetensors file, in one atomic step.

    Parameters
    ----------
    model
        Any module.
    path
        The file; its folder is made if need be. A file that is there is replaced only by a whole
        new one.

    Raises
    ------
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
    tensors = {name: _stored(t) for name, t in model.state_dict().items()}
    _write_file(Path(path), tensors, {"kind": "model", "class": type(model).__qualname__})


def load_model(model: Module, path: str | Path) -> Module:
    """Read weights that `save_model` wrote into a model of the same architecture.

    Parameters
    ----------
    model
        Changed in place, and only if the whole file fits.
    path
        The file.

    Returns
    -------
    Module
        The model that was passed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or holds another model; the message lists the tensors that differ.
    """
    path = Path(path)
    tensors, metadata = _read_file(path, "a model", "Save the model again, or choose another file.")
    if metadata.get("kind", "model") != "model":
        raise ValueError(
            f"{path} holds a {metadata['kind']}, not a model. "
            "Pass a file that save_model has written."
        )
    differences = _tensor_differences(
        {name: _kind_of(t) for name, t in tensors.items()},
        {name: _kind_of(t) for name, t in model.state_dict().items()},
    )
    if differences:
        raise ValueError(
            f"{path} holds another model ({metadata.get('class', 'of unknown class')}) than the "
            f"{type(model).__qualname__} given: {'; '.join(differences)}. "
            "Build the model with the settings it was saved with, or choose another file."
        )
    model.load_state_dict(tensors)
    return model


# --- the loop's parts -----------------------------------------------------------------------------


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
        self, epoch: int, steps: int, every: int, optimizer: Optimizer, store: _Checkpoint | None
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


class _Order(Sampler[int]):
    """Sample indices; shuffled, the order of a pass is a function of (seed, epoch)."""

    def __init__(self, n: int, shuffle: bool, seed: int) -> None:
        self.n, self.shuffle, self.seed, self.epoch = n, shuffle, seed, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_derived_seed(self.seed, self.epoch, 0, 0))
        self.epoch += 1
        if self.shuffle:
            return iter(torch.randperm(self.n, generator=generator).tolist())
        return iter(range(self.n))


class _Rows(Dataset[Any]):
    """A dataset that the loader asks for a whole batch at once."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> Any:
        return self.dataset[indices]


def _as_tuple(batch: Any) -> Batch:
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def _collate(samples: list[Any]) -> Batch:
    return _as_tuple(torch.utils.data.default_collate(samples))


def _resident(data: Dataset[Any], device: torch.device) -> Dataset[Any]:
    """Put the tensors of a small plain dataset on the GPU once, not a batch at every step."""
    indexing = getattr(type(data), "__getitem__", None)
    if device.type != "cuda" or indexing is not TensorDataset.__getitem__:
        return data
    tensors = data.tensors  # type: ignore[attr-defined]
    free, _ = torch.cuda.mem_get_info(device)
    if sum(t.numel() * t.element_size() for t in tensors) > free / 4:
        return data
    return TensorDataset(*(t.to(device) for t in tensors))


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


def _check_weights(model: nn.Module, epoch: int, store: _Checkpoint | None) -> None:
    floating = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    finite = torch.stack([torch.isfinite(t).all() for t in floating.values()])
    if not bool(finite.all()):
        bad = [name for name, good in zip(floating, finite.tolist(), strict=True) if not good]
        raise FloatingPointError(
            f"{bad[0]} holds NaN or infinite values after epoch {epoch + 1}: the last step was too "
            f"long. Try a smaller learning rate, or clip the gradient.{_what_remains(store)}"
        )


def _what_remains(store: _Checkpoint | None) -> str:
    return "" if store is None else f" {store.path} holds the last good epoch."


def _derived_seed(seed: int, epoch: int, purpose: int, process: int) -> int:
    """Return a seed for one purpose (0: the order, 1: all else) in one epoch and process."""
    return int(np.random.SeedSequence([epoch, purpose, process, seed]).generate_state(1)[0])


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


# --- files ----------------------------------------------------------------------------------------


class _Checkpoint:
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

    def write(self, history: History) -> None:
        tensors = {f"model.{name}": _stored(t) for name, t in self.model.state_dict().items()}
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
            "history": history.rows,
            "optimizer": scalars,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }
        _write_file(self.path, tensors, {"kind": "checkpoint", "state": json.dumps(state)})

    def restore(self) -> History:
        """Put the file's state into model and optimizer, and return the epochs that are done."""
        if not self.path.exists():
            return History()
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
            {name: _kind_of(t) for name, t in self.model.state_dict().items()},
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
        return History(state["history"])


def _write_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a whole new file beside ``path`` and put it in its place: no reader sees a half."""
    from safetensors.torch import save

    content = save(tensors, {**metadata, "sha256": _digest(tensors.items())})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.part"):
            _remove_stale(left)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The file could not be written ({error.strerror}); one of that name from before is "
            "unchanged. Make space, or choose a folder that you can write to, and run it again",
            str(path),
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_stale(part: Path) -> None:
    """Remove what a run that was killed while writing left an hour ago or more."""
    with contextlib.suppress(OSError):
        if time.time() - part.stat().st_mtime > 3600:
            part.unlink()


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
    if metadata.get("sha256", "") not in ("", _digest(tensors.items())):
        raise ValueError(
            f"{path} is damaged: its checksum is not the one it was written with. {remedy}"
        )
    return tensors, metadata


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


def _digest(tensors: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: str(item[0])):
        digest.update(f"{name} {_kind_of(tensor)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fingerprint(data: Dataset[Any]) -> str:
    """Return a name for the data's content, or for its length where no more can be known."""
    if callable(getattr(data, "fingerprint", None)):
        return str(data.fingerprint())  # type: ignore[attr-defined]
    if type(data) is TensorDataset:
        return _digest(enumerate(data.tensors))[:16]
    return f"{type(data).__name__} of {len(data)} samples"  # type: ignore[arg-type]


def _name_of(function: Any) -> str | None:
    return None if function is None else getattr(function, "__qualname__", type(function).__name__)


def _architecture(model: nn.Module) -> str:
    """Return the class and a short hash of what the model prints (layers, dropout rates)."""
    return f"{type(model).__qualname__} {hashlib.sha256(repr(model).encode()).hexdigest()[:8]}"


def _plain(value: Any) -> Any:
    """Return the value as it reads back from JSON, so that it can be compared with a stored one."""
    return json.loads(json.dumps(value, default=str))
