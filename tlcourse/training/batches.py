"""Batches whose order is a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from tlcourse._checks import check_int

Batch = tuple[Tensor, ...]


def loader(dataset: Dataset[Any], batch_size: int, *, shuffle: bool, seed: int = 0) -> Loader:
    """Return a loader of batches, tuples of tensors, whose order depends on the seed alone.

    It draws nothing from PyTorch's own generator. Tensors in memory are indexed a batch at a time,
    many times quicker than sample by sample.

    Parameters
    ----------
    dataset
        A dataset with a length of at least 1. Samples that are dicts come as a dict of batches,
        which no method of the course takes.
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
        If the dataset has no length, or samples cannot be put into one batch.
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
    return Loader(dataset, n, batch_size, shuffle, seed)


class Loader:
    """Batches of a dataset, in the order of the next epoch at every pass; see `loader`."""

    def __init__(
        self, dataset: Dataset[Any], n_samples: int, batch_size: int, shuffle: bool, seed: int
    ) -> None:
        self.dataset, self.n_samples, self.batch_size = dataset, n_samples, batch_size
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.rows = rows_of(dataset)

    def __len__(self) -> int:
        return -(-self.n_samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        indices = self.indices(self.epoch)
        self.epoch += 1
        return map(self.fetch, indices)

    def indices(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the samples of every batch of an epoch, (B,) int64 each."""
        order = torch.arange(self.n_samples)
        if self.shuffle:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch, 0, 0))
            order = torch.randperm(self.n_samples, generator=generator)
        return order.split(self.batch_size)

    def fetch(self, index: Tensor) -> Any:
        """Return one batch: a tuple of tensors where the samples are tuples or tensors."""
        if self.rows is not None:
            return tuple(rows[index] for rows in self.rows)
        chosen = index.tolist()
        together = getattr(self.dataset, "__getitems__", None)  # PyTorch's own: a list of samples
        samples = together(chosen) if together else [self.dataset[i] for i in chosen]
        try:
            batch = default_collate(samples)
        except (TypeError, RuntimeError) as error:
            raise TypeError(
                f"The samples {chosen[0]} to {chosen[-1]} cannot be put into one batch: {error}. "
                "Let the dataset give tuples of tensors or numbers, images all of one size."
            ) from error
        if isinstance(batch, Tensor):
            return (batch,)
        return tuple(batch) if isinstance(batch, (list, tuple)) else batch


def check_batch(batch: Any) -> Batch:
    """Return the batch if it is a tuple that begins with a tensor, else say what the samples are.

    Examples
    --------
    >>> check_batch({"image": torch.zeros(2, 3)})
    Traceback (most recent call last):
        ...
    TypeError: The samples must be tuples that begin with a tensor, such as (image, label), but ...
    """
    if isinstance(batch, tuple) and batch and isinstance(batch[0], Tensor):
        return batch
    found = f"begin with {type(batch[0]).__name__}" if isinstance(batch, tuple) and batch else ""
    if isinstance(batch, dict):
        found = f"are of type dict, with the keys {', '.join(map(repr, batch))}"
    raise TypeError(
        "The samples must be tuples that begin with a tensor, such as (image, label), but they "
        f"{found or f'give {type(batch).__name__}'}. Wrap the dataset in one whose __getitem__ "
        "returns such a tuple."
    )


def rows_of(dataset: Dataset[Any]) -> tuple[Tensor, ...] | None:
    """Return the tensors whose rows are the samples, or None if only the dataset can make one.

    A dataset may be asked for a batch at once only if its own ``__getitem__`` means just that. An
    attribute ``.tensors`` says nothing: many a dataset changes what it takes from them, one image
    at a time. So rows are those of a `TensorDataset` that keeps its ``__getitem__``, and of a
    dataset with a method ``rows``, which returns them, or None.

    Examples
    --------
    >>> dataset = TensorDataset(torch.eye(2), torch.arange(2))
    >>> len(rows_of(dataset))
    2
    >>> rows_of(torch.utils.data.Subset(dataset, [0])) is None
    True
    """
    if callable(getattr(dataset, "rows", None)):
        return dataset.rows()  # type: ignore[attr-defined]
    if getattr(type(dataset), "__getitem__", None) is TensorDataset.__getitem__:
        return dataset.tensors  # type: ignore[attr-defined]
    return None


def resident(data: Dataset[Any], device: torch.device) -> Dataset[Any]:
    """Put the tensors of a small dataset on the GPU once, not a batch at every step."""
    rows = rows_of(data)
    if device.type != "cuda" or rows is None:
        return data
    free, _ = torch.cuda.mem_get_info(device)
    if sum(t.numel() * t.element_size() for t in rows) > free / 4:
        return data
    return TensorDataset(*(t.to(device) for t in rows))


def derived_seed(seed: int, epoch: int, purpose: int, process: int) -> int:
    """Return a seed for one purpose (0: the order, 1: all else) in one epoch and process."""
    return int(np.random.SeedSequence([epoch, purpose, process, seed]).generate_state(1)[0])
