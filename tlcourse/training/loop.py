"""One training loop for every chapter.

The loop is `fit`. The device, mixed precision and the processes come from Hugging Face Accelerate,
so that ``accelerate launch`` or ``torchrun`` spreads a run over devices without another line.

Reproducible by construction: the randomness of epoch e (the order of the samples, dropout,
augmentation) is a function of the seed and of e alone, never of what ran before. A run that was
killed therefore needs no saved generator to go on: it starts again at the last epoch that was
finished, and ends in the numbers of an undisturbed run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from tlcourse._files import expand
from tlcourse.training import _guards, _processes
from tlcourse.training._processes import Processes
from tlcourse.training.batches import Batch, check_batch, derived_seed, loader, resident
from tlcourse.training.files import Checkpoint
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
    clip_norm: float | None = None,
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
        ``objective(model, batch)`` returns the loss, a scalar, the mean over the batch's samples;
        the batch is a tuple of tensors on the model's device.
    data
        A dataset with a length, of tuples that begin with a tensor.
    optimizer
        Over parameters of the model. Its learning rates are put back after the run.
    epochs, batch_size
        At least 1.
    schedule
        ``schedule(progress)`` returns the factor on the learning rates, at every step; progress is
        the part of all steps that is done, in [0, 1). See `cosine_decay` and `step_decay`.
    augment
        ``augment(images)`` changes the batch's first tensor, on the model's device.
    on_epoch
        ``on_epoch(model)`` returns measures for the history, a dict of numbers.
    clip_norm
        If given, a gradient (over all parameters of the optimiser) that is longer is scaled down to
        this Euclidean norm.
    seed
        Decides the order of the samples, dropout and augmentation. The caller's own random state
        (Python, NumPy, PyTorch on all devices) is the same after the call as before.
    checkpoint
        One safetensors file, ``~`` being the home folder, written whole before the first and after
        every epoch. If it exists, the run goes on from it; all arguments must then be those of the
        first call. What the objective closes over is not seen: a run with another teacher or
        temperature needs another path.
    progress
        Whether to show a progress bar.

    Returns
    -------
    History
        A row for every epoch, those before an interruption included. Resumed or not, rows and
        weights are the same but for ``seconds``: bit for bit on one CPU, and on a GPU but for
        operations that have no repeatable form (see `torch.use_deterministic_algorithms`).

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, the objective returns no differentiable scalar, or the checkpoint
        belongs to another run or is damaged (it is then left as it is).
    FloatingPointError
        As soon as a loss or weight is NaN or infinite. The last good epoch's checkpoint remains.
    OSError
        If the checkpoint cannot be written. The one before remains.
    RuntimeError
        If one of several processes has stopped, or they do not know of each other.

    Notes
    -----
    Several processes do the run of one, to rounding: every batch is divided among them, gradients
    and losses are means over all of its samples, and files are written by the first. ``on_epoch``
    runs in each, on all that it looks at. What differs is what a process draws or sees alone:
    dropout, augmentation, and BatchNorm, which normalises over a process's part of the batch; the
    running statistics of the first process are kept.

    Examples
    --------
    >>> import torch
    >>> from torch.nn.functional import cross_entropy
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(64, 2)
    >>> y = (x[:, 0] > 0).long()
    >>> model = nn.Linear(2, 2)
    >>> history = fit(
    ...     model,
    ...     lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
    ...     torch.utils.data.TensorDataset(x, y),
    ...     optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
    ...     epochs=3,
    ...     batch_size=16,
    ...     progress=False,
    ... )
    >>> history.rows[2]["loss"] < history.rows[0]["loss"]
    True
    """
    _guards.check_arguments(model, objective, optimizer, clip_norm, epochs=epochs, seed=seed)
    accelerator = _processes.accelerator()
    device, scaled = accelerator.device, accelerator.scaler is not None
    processes = Processes(accelerator.num_processes, accelerator.process_index, device)
    batches = loader(resident(data, device), batch_size, shuffle=True, seed=seed)
    steps = len(batches)
    model.to(device)
    # Accelerate's optimiser undoes the scale that half precision needs; without one it only costs.
    stepper = accelerator.prepare(optimizer) if scaled else optimizer
    backward = accelerator.backward if scaled else Tensor.backward
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [float(group["lr"]) for group in optimizer.param_groups]

    path = None if checkpoint is None else expand(checkpoint, "checkpoint")
    store, rows = None, []
    if path is not None:
        settings = _guards.settings_of(model, objective, augment, schedule, data)
        settings |= {"epochs": epochs, "batch_size": batch_size, "seed": seed}
        settings |= {"clip_norm": clip_norm}
        store = Checkpoint(path, model, optimizer, accelerator.scaler, settings)
        rows = store.restore()
        processes.check_equal(path, len(rows))
        if not rows and processes.index == 0:
            store.write(rows)  # a bad path fails now, and the first weights are kept too
        processes.wait()

    bar = _guards.bar(len(rows), epochs, steps, shown=progress and processes.index == 0)
    with bar, processes.naming_itself(path), _guards.explaining(batches), _guards.kept(optimizer):
        processes.follow_first(chain(model.parameters(), model.buffers()))
        for epoch in range(len(rows), epochs):
            started = time.perf_counter()
            bar.set_description(f"epoch {epoch + 1} of {epochs}", refresh=False)
            _guards.seed_all(derived_seed(seed, epoch, 1, processes.index))
            model.train()
            losses = _guards.Losses(epoch, steps, device, optimizer, path)
            for step, index in enumerate(batches.indices(epoch)):
                mine, part = processes.share(index)
                batch = _guards.moved(check_batch(batches.fetch(mine)), device)
                if augment is not None:
                    batch = _guards.augmented(augment, batch)
                if schedule is not None:
                    factor = _guards.factor_of(schedule, (epoch * steps + step) / (epochs * steps))
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * factor
                with accelerator.autocast():
                    loss = objective(model, batch)
                _guards.check_loss(loss)
                stepper.zero_grad()
                backward(loss)
                losses.add(processes.sum_step(learning, loss.detach(), part), len(index))
                if clip_norm is not None:
                    accelerator.clip_grad_norm_(learning, clip_norm)
                stepper.step()
                bar.update()
            processes.follow_first(model.buffers())
            mean = losses.mean()
            _guards.check_weights(model, epoch, path)
            row = {"epoch": epoch + 1, "loss": mean, "seconds": time.perf_counter() - started}
            if on_epoch is not None:
                row |= _guards.measures_of(on_epoch(model), taken=row)
            rows.append(row)
            bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
            if store is not None:
                if processes.index == 0:
                    store.write(rows)
                processes.wait()
    return History(rows)
