"""Several processes that train one model as one process would.

Each takes a part of every batch. The gradient of a mean over the batch is the sum of the parts'
gradients, each weighted with its part of the samples,

    g = sum_r n_r / N  g_r,

so summing the weighted gradients over the processes is all that a step needs, and a batch need not
divide by their number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn


def accelerator() -> Any:
    """Return Accelerate's view of this process: its device, and those that it shares a run with.

    Processes of ``torchrun`` on a machine without a GPU share a run too; by itself Accelerate would
    take each of them for the only one.

    Raises
    ------
    RuntimeError
        If a launcher started several that still do not know of each other.
    """
    from accelerate import Accelerator

    started = int(os.environ.get("WORLD_SIZE") or 1)
    backends = (torch.cuda, torch.xpu, torch.backends.mps)
    bare = "RANK" in os.environ and not any(backend.is_available() for backend in backends)
    found = Accelerator(cpu=bare and started > 1)
    if started > 1 and found.num_processes == 1:
        raise RuntimeError(
            f"A launcher has started {started} processes (WORLD_SIZE), but Accelerate knows of one:"
            " each would train alone and write the same files. Set ACCELERATE_USE_CPU=true before "
            "the launch where they have no GPUs of their own, and make no PartialState() before; "
            "for a single process unset WORLD_SIZE."
        )
    return found


class Processes:
    """The processes that share a run. Where there is one, nothing is shared and nothing is done."""

    def __init__(self, count: int, index: int, device: torch.device) -> None:
        self.count, self.index, self.device = count, index, device

    def share(self, index: Tensor) -> tuple[Tensor, float]:
        """Return this process's part of a batch's indices, and what part of the batch it is.

        Nobody gets one sample of a batch that has more, which BatchNorm could not take. A process
        for which none is left takes the first two with weight 0, so that its step does what the
        others' steps do.
        """
        if self.count == 1:
            return index, 1.0
        parts = index.tensor_split(min(self.count, max(1, len(index) // 2)))
        if self.index >= len(parts):
            return index[:2], 0.0
        return parts[self.index], len(parts[self.index]) / len(index)

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values that the first one holds."""
        if self.count > 1:
            for tensor in tensors:
                value = tensor.detach().clone(memory_format=torch.contiguous_format)
                with _speaking_of_others():
                    distributed.broadcast(value, 0)
                tensor.detach().copy_(value)

    def sum_step(self, parameters: Sequence[nn.Parameter], loss: Tensor, part: float) -> Tensor:
        """Make the gradients those of the whole batch, in place, and return its loss.

        A parameter without a gradient in all processes stays without one, as an optimiser skips
        it; where only this process lacks it, its part is 0.
        """
        if self.count == 1:
            return loss
        has = [float(p.grad is not None) for p in parameters]
        seen = torch.cat([(loss * part).reshape(1), loss.new_tensor(has)])  # one sum for both
        self._sum(seen)
        if not all(has):  # only then is there something to wait for
            for parameter, n in zip(parameters, seen[1:].tolist(), strict=True):
                if n and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in dict.fromkeys(g.dtype for g in gradients):
            alike = [g for g in gradients if g.dtype == dtype]
            flat = torch.cat([g.flatten() for g in alike]).mul_(part)
            self._sum(flat)
            for gradient, total in zip(alike, flat.split([g.numel() for g in alike]), strict=True):
                gradient.copy_(total.view_as(gradient))
        return seen[0]

    def check_equal(self, path: Path, n_epochs: int) -> None:
        """Raise unless all processes have found as many finished epochs, and wait for them."""
        if self.count > 1:
            total = torch.tensor([n_epochs], device=self.device)
            self._sum(total)
            if int(total) != n_epochs * self.count:
                raise ValueError(
                    f"Process {self.index} finds {n_epochs} finished epochs in {path}, others find "
                    "another number. Put the checkpoint into a folder that all machines share."
                )

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            arrived = torch.ones(1, device=self.device)
            self._sum(arrived)
            arrived.item()  # a GPU's sum is only queued

    @contextlib.contextmanager
    def naming_itself(self, checkpoint: Path | None) -> Iterator[None]:
        """Add to an error which process it is of, and what a new start does."""
        try:
            yield
        except Exception as error:
            if self.count > 1:
                again = f"goes on from {checkpoint}" if checkpoint else "begins anew"
                error.add_note(
                    f"This is process {self.index} of {self.count} (from 0). The launcher stops "
                    f"the others; the same command, started again, {again}."
                )
            raise

    def _sum(self, tensor: Tensor) -> None:
        with _speaking_of_others():
            distributed.all_reduce(tensor)


@contextlib.contextmanager
def _speaking_of_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            "Another process of this run has stopped, so this one cannot go on. Its own message "
            "says why; a process without one was killed from outside, often since memory was full."
        ) from error
