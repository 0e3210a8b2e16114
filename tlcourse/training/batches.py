"""Batches whose order is a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, TensorDataset

from tlcourse._checks import check_int

Batch = tuple[Tensor, ...]


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


class _Order(Sampler[int]):
    """Sample indices; shuffled, the order of a pass is a function of (seed, epoch)."""

    def __init__(self, n: int, shuffle: bool, seed: int) -> None:
        self.n, self.shuffle, self.seed, self.epoch = n, shuffle, seed, 0

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch, 0, 0))
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


def resident(data: Dataset[Any], device: torch.device) -> Dataset[Any]:
    """Put the tensors of a small plain dataset on the GPU once, not a batch at every step."""
    indexing = getattr(type(data), "__getitem__", None)
    if device.type != "cuda" or indexing is not TensorDataset.__getitem__:
        return data
    tensors = data.tensors  # type: ignore[attr-defined]
    free, _ = torch.cuda.mem_get_info(device)
    if sum(t.numel() * t.element_size() for t in tensors) > free / 4:
        return data
    return TensorDataset(*(t.to(device) for t in tensors))


def derived_seed(seed: int, epoch: int, purpose: int, process: int) -> int:
    """Return a seed for one purpose (0: the order, 1: all else) in one epoch and process."""
    return int(np.random.SeedSequence([epoch, purpose, process, seed]).generate_state(1)[0])
