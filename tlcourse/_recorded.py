"""What a fixed network says about a data set: found in one pass, and kept by sample index.

Distillation keeps a teacher's logits, learning without forgetting those of the old heads, feature
extraction the features. All three ask the network once, in the data set's order, and are right only
where sample i is the same at every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tlcourse._checks import check_float_tensor, check_samples, refuse_random_augmentation, shape_of
from tlcourse._modes import evaluating
from tlcourse.training.batches import loader, rows_of
from tlcourse.training.files import digest


class WithRecorded(Dataset[tuple[Tensor, ...]]):
    """A data set whose samples end with what was recorded of them, by index and not by order.

    Parameters
    ----------
    dataset
        Of tuples.
    recorded
        One tensor or more, (N, ...): row i belongs to sample i.
    """

    def __init__(self, dataset: Dataset[tuple[Tensor, ...]], recorded: Sequence[Tensor]) -> None:
        self.dataset, self.recorded = dataset, tuple(recorded)

    def rows(self) -> tuple[Tensor, ...] | None:
        """Return the tensors whose rows are the samples, or None where the data set makes them."""
        rows = rows_of(self.dataset)
        return None if rows is None else (*rows, *self.recorded)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The data set's tensors and what was recorded, where it has them in memory."""
        return (*self.dataset.tensors, *self.recorded)  # type: ignore[attr-defined]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with the data set and with what was recorded."""
        own = getattr(self.dataset, "fingerprint", str)()  # names and classes, or an empty text
        tensors = (*getattr(self.dataset, "tensors", ()), *self.recorded)
        return digest((f"{own} {i}", tensor) for i, tensor in enumerate(tensors))[:16]

    def __len__(self) -> int:
        return len(self.recorded[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return (*self.dataset[index], *(rows[index] for rows in self.recorded))


def run_once(
    name: str,
    network: nn.Module,
    dataset: Dataset[tuple[Tensor, ...]],
    *,
    gives: str,
    batch_size: int,
) -> list[Tensor]:
    """Return a network's outputs for every sample, (N, D), and whatever follows its input.

    The network runs once, in evaluation mode and without gradients, where it is; afterwards each
    module is in its own mode, and the random state is as before. The results are on the CPU, and
    plain tensors also inside ``torch.inference_mode()``.

    Parameters
    ----------
    name, gives
        What the errors call the network and its outputs, such as "teacher" and "logits".
    network
        It gets copies of the inputs, (n, ...), which it may change in place.
    dataset
        Of tuples with the input first. One with random augmentation is refused.
    batch_size
        Samples at a time.
    """
    n_samples = check_samples(dataset)
    refuse_random_augmentation(dataset)
    own = chain(network.parameters(), network.buffers())
    device = next((tensor.device for tensor in own), torch.device("cpu"))
    columns: list[Tensor] = []
    start = 0
    with evaluating(network), torch.inference_mode(False), torch.no_grad():
        for inputs, *others in _batches(dataset, n_samples, batch_size):
            outputs = network(inputs.to(device))
            stop = start + len(inputs)
            _check_outputs(name, outputs, gives, start, stop)
            _keep(columns, slice(start, stop), (outputs, *others), n_samples)
            start = stop
            del inputs, others, outputs  # or they would live on while the next batch is loaded
    return columns


def _check_outputs(name: str, outputs: Tensor, gives: str, start: int, stop: int) -> None:
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{name} must give a tensor, got {type(outputs).__name__}. Wrap it in a module that "
            "picks one of its outputs."
        )
    if outputs.ndim != 2 or len(outputs) != stop - start:
        pool = ""
        if outputs.ndim > 2:
            pool = (
                f" Pool them, nn.Sequential({name}, nn.AdaptiveAvgPool2d(1), nn.Flatten()) for "
                f"D = {outputs.shape[1]}, or keep every position with nn.Flatten() alone."
            )
        raise ValueError(
            f"{name} must map {stop - start} samples to {gives} of shape ({stop - start}, D), got "
            f"{shape_of(outputs)}.{pool}"
        )
    check_float_tensor(f"the {name}'s {gives} of samples {start} to {stop - 1}", outputs)


def _keep(columns: list[Tensor], rows: slice, parts: Sequence[Tensor], n_samples: int) -> None:
    """Write a batch into the columns, which the first one allocates: nothing is held twice."""
    for i, part in enumerate(parts):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"dataset must give numbers or tensors after the input; item {i} of its tuples "
                f"comes as {type(part).__name__}."
            )
    if not columns:
        columns.extend(torch.empty((n_samples, *p.shape[1:]), dtype=p.dtype) for p in parts)
    for column, part in zip(columns, parts, strict=True):
        column[rows] = part


def _batches(
    dataset: Dataset[tuple[Tensor, ...]], n_samples: int, batch_size: int
) -> Iterator[list[Tensor]]:
    rows = rows_of(dataset)
    if rows is None:
        yield from loader(dataset, batch_size, shuffle=False)
        return
    for start in range(0, n_samples, batch_size):  # sliced, which copies the inputs alone
        inputs, *others = (tensor[start : start + batch_size] for tensor in rows)
        yield [inputs.clone(), *others]  # a slice is the data set's own memory
