"""Labelled images: one tensor of images, one of labels, the names of the classes.

Every set of images in the course has this form, whether its pixels come from a font, a scanner or a
reader's own photographs; what sensors record is :class:`~tlcourse.data.windows.Windows`. It is a
:class:`torch.utils.data.TensorDataset`, so that a whole batch is one indexing operation, and it
checks what it is given, once, when it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from tlcourse._checks import check_int, check_targets, shape_of


class Labelled(TensorDataset):
    """What labelled sets share: inputs and labels as ``tensors``, names, and choosing a part."""

    def __init__(self, inputs: Tensor, labels: Tensor, classes: Sequence[str], name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"name must be a text that is not empty, got {name!r}.")
        check_names("classes", classes)
        check_targets("labels", labels, n_samples=len(inputs), n_classes=len(classes))
        if labels.device != inputs.device:
            raise ValueError(
                f"inputs and labels must be on one device, got {inputs.device} and {labels.device}."
            )
        super().__init__(inputs, labels)
        self.classes = tuple(classes)
        self.name = name

    @property
    def labels(self) -> Tensor:
        """The labels, (N,), int64."""
        return self.tensors[1]

    @property
    def n_classes(self) -> int:
        """The number of classes, K. A subset keeps it, even if it holds none of some class."""
        return len(self.classes)

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Return the chosen samples, in the order of ``indices``, as a set with the same classes.

        Parameters
        ----------
        indices
            Positions in [0, N), or a boolean mask of shape (N,).

        Raises
        ------
        TypeError, ValueError
            If an index is no integer or out of range, or if nothing is chosen.

        Examples
        --------
        >>> data = LabelledImages(torch.rand(3, 1, 8, 8), torch.arange(3), ("a", "b", "c"), "abc")
        >>> len(data.subset(data.labels != 2))
        2
        """
        return self._take(_positions(indices, len(self)).to(self.labels.device))

    def _take(self, chosen: Tensor) -> Self:
        raise NotImplementedError


class LabelledImages(Labelled):
    """Images with their labels: a sample of a domain and of a task.

    ``dataset[i]`` is ``(image, label)``; ``dataset[indices]`` is a batch of both.

    Parameters
    ----------
    images
        (N, C, H, W), float32, values in [0, 1].
    labels
        (N,), int64, values in [0, K).
    classes
        K different names, in the order of the labels.
    name
        What plots and result files call the set.

    Raises
    ------
    TypeError, ValueError
        If a shape, a dtype, a value or a name is wrong, or the set is empty.

    Examples
    --------
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> data = LabelledImages(torch.rand(4, 1, 8, 8), labels, ("cat", "dog"), "pets")
    >>> data
    LabelledImages('pets', 4 images of 1x8x8, 2 classes)
    >>> image, label = data[0]
    >>> image.shape, int(label)
    (torch.Size([1, 8, 8]), 0)
    >>> data.subset([1, 3]).labels
    tensor([1, 1])
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str], name: str) -> None:
        _check_images(images)
        super().__init__(images, labels, classes, name)

    @property
    def images(self) -> Tensor:
        """The images, (N, C, H, W), float32 in [0, 1]."""
        return self.tensors[0]

    def _take(self, chosen: Tensor) -> Self:
        return type(self)(self.images[chosen], self.labels[chosen], self.classes, self.name)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any pixel, label, class or the name.

        Examples
        --------
        >>> data = LabelledImages(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("a", "b"), "ab")
        >>> data.fingerprint() == data.subset([0, 1]).fingerprint()
        True
        >>> data.fingerprint() == data.subset([1, 0]).fingerprint()
        False
        """
        return fingerprint((self.name, self.classes), self.tensors)

    def __repr__(self) -> str:
        n, *shape = self.images.shape
        size = "x".join(str(s) for s in shape)
        return f"LabelledImages({self.name!r}, {n:,} images of {size}, {self.n_classes} classes)"


AnyLabelled = TypeVar("AnyLabelled", bound=Labelled)


def few_per_class(dataset: AnyLabelled, n: int, *, seed: int) -> AnyLabelled:
    """Return ``n`` labelled samples of every class, drawn without replacement.

    The draws are nested: with one seed, the set of 5 per class begins with the set of 2 per class.
    So a curve over the number of labels adds samples from point to point and exchanges none.

    Parameters
    ----------
    dataset
        The set to draw from.
    n
        Samples of every class, at least 1.
    seed
        Which draw, 0 or more.

    Returns
    -------
    LabelledImages or Windows
        n K samples: one of every class, then the second of every class, and so on.

    Raises
    ------
    TypeError, ValueError
        If ``n`` or ``seed`` is no integer or out of range, or a class has fewer than ``n`` samples.

    Examples
    --------
    >>> labels = torch.arange(20) % 2
    >>> data = LabelledImages(torch.rand(20, 1, 8, 8), labels, ("even", "odd"), "parity")
    >>> few_per_class(data, 3, seed=0).labels
    tensor([0, 1, 0, 1, 0, 1])
    """
    if not isinstance(dataset, Labelled):
        raise TypeError(
            f"dataset must be a LabelledImages or Windows, got {type(dataset).__name__}."
        )
    check_int("n", n, low=1)
    check_int("seed", seed, low=0)
    generator = torch.Generator().manual_seed(seed)
    drawn, short = [], []
    for k, name in enumerate(dataset.classes):
        members = (dataset.labels.cpu() == k).nonzero()[:, 0]  # (members of class k,)
        if len(members) < n:
            short.append(f"{name!r} has {len(members)}")
        drawn.append(members[torch.randperm(len(members), generator=generator)[:n]])
    if short:
        raise ValueError(
            f"n is {n}, but {dataset.name!r} has fewer samples of some classes: "
            f"{', '.join(short)}. Take a smaller n, or draw from a larger set."
        )
    return dataset.subset(torch.stack(drawn, dim=1).flatten())  # (n, K) -> (n K,)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}.")
    if images.dtype != torch.float32:
        hint = " Divide 8-bit pixels by 255." if images.dtype == torch.uint8 else ""
        raise TypeError(f"images must have dtype float32, got {images.dtype}.{hint}")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {shape_of(images)}.")
    if images.numel() == 0:
        raise ValueError(f"images is empty: its shape is {shape_of(images)}.")
    low, high = (float(v) for v in torch.aminmax(images))  # NaN if any value is NaN
    if low != low:
        raise ValueError("images contains NaN; it takes values in [0, 1].")
    if low < 0 or high > 1:
        raise ValueError(
            f"images must have values in [0, 1], got values from {low:g} to {high:g}. "
            "Divide 8-bit pixels by 255, and leave normalising to the model."
        )


def check_names(what: str, names: Sequence[str]) -> None:
    """Raise unless ``names`` is a sequence of different texts, at least one."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"{what} must be a sequence of names, got {names!r}.")
    if not names:
        raise ValueError(f"{what} is empty; it takes the name of every one.")
    for k, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what} must hold texts that are not empty, got {name!r} at {k}.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} must be different names, got more than once: {twice}.")


def fingerprint(facts: Any, tensors: Sequence[Tensor]) -> str:
    """Return 16 hexadecimal digits that change with the facts' text and any value of a tensor."""
    digest = hashlib.sha256(repr(facts).encode())
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _positions(indices: Tensor | Sequence[int], n: int) -> Tensor:
    """Return ``indices`` as an int64 tensor of positions in [0, n)."""
    try:
        chosen = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"indices must be integers or a boolean mask, got {indices!r}.") from error
    if chosen.dtype == torch.bool:
        if chosen.shape != (n,):
            raise ValueError(
                f"indices is a mask of shape {shape_of(chosen)}; the set takes one of ({n},)."
            )
        chosen = chosen.nonzero()[:, 0]
    if chosen.numel() == 0:
        raise ValueError("indices chooses nothing; a set takes at least one.")
    if chosen.is_floating_point() or chosen.is_complex():
        raise TypeError(f"indices must be integers or a boolean mask, got dtype {chosen.dtype}.")
    if chosen.ndim != 1:
        raise ValueError(f"indices must have shape (n,), got {shape_of(chosen)}.")
    chosen = chosen.long()
    low, high = int(chosen.min()), int(chosen.max())
    if low < 0 or high >= n:
        raise ValueError(
            f"indices must lie in [0, {n - 1}] for {n} samples, got values from {low} to {high}."
        )
    return chosen
