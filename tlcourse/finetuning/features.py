r"""Feature extraction: the frozen part of a network runs once, and its outputs are kept.

A frozen backbone gives the same features for an image at every epoch. Computing them once and
training the head on what is kept is the same training at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tlcourse._checks import check_float_tensor, check_int, refuse_random_augmentation, shape_of
from tlcourse._modes import kept_modes


def extract_features(
    backbone: nn.Module,
    dataset: Dataset[tuple[Tensor, ...]],
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
) -> TensorDataset:
    r"""Return the features of a data set: one pass through a fixed network, in the set's order.

    .. math:: y = g_\phi(f_\theta(x)), \qquad
              \frac{\partial \mathcal{L}}{\partial \theta} \text{ is never computed}

    .. math:: \frac{\text{backbone in the loop}}{\text{cached features}}
              = \frac{E\,(F + H)}{F + E\,H} \;\to\; E \quad \text{for } H / F \to 0

    where

    - :math:`f_\theta`, ``backbone``: inputs (N, ...) to features (N, D); :math:`\theta` is fixed;
    - :math:`g_\phi`: the head, features (N, D) to logits (N, K); the only part that learns;
    - :math:`F`: the cost of the backbone's forward pass over the data set;
    - :math:`H`: the cost of the head's training over the data set, forward and backward;
    - :math:`E`: the number of epochs.

    It assumes that sample i is the same at every epoch. A data set with random augmentation is
    refused.

    Parameters
    ----------
    backbone
        Run in eval mode without gradients; afterwards each layer is in the mode that it was in.
    dataset
        Of tuples, the input first: (input, label), or just (input,), or longer ones.
    batch_size
        Samples at a time. Beyond the result, the pass holds one batch in memory. None takes 256
        on a GPU and fewer on a CPU, 3 images of 224 x 224 pixels for instance: maps that are small
        enough to be kept for the next batch halve the time.
    device
        Where to run; the backbone is moved there and back. None runs it where it is.

    Returns
    -------
    TensorDataset
        Features, shape (N, D), and then whatever followed the input (a label: shape (N,)), on the
        CPU. They are plain tensors: a head trained on them gets its gradients as usual.

    Raises
    ------
    TypeError, ValueError
        If the data set is empty or random; if the backbone's output is no (N, D) tensor, or holds
        NaN. Feature maps (N, C, H, W) are not flattened in silence: whether to average or to keep
        the positions is a choice that decides D.

    References
    ----------
    AC295, *Representation Extraction*; "What is Transfer Learning?", section 1.5, last point. In
    the chapter: ``eq-frozen-features`` and ``eq-caching-cost``.

    Examples
    --------
    >>> backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    >>> images, labels = torch.rand(10, 1, 2, 2), torch.arange(10) % 2
    >>> features = extract_features(backbone, TensorDataset(images, labels))
    >>> [tuple(tensor.shape) for tensor in features.tensors]
    [(10, 3), (10,)]
    """
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}.")
    if batch_size is not None:
        check_int("batch_size", batch_size, low=1)
    n_samples = len(dataset) if isinstance(dataset, Sized) else 0
    if n_samples == 0:
        raise ValueError("dataset is empty or has no length: there is nothing to extract.")
    if not isinstance(dataset[0], (tuple, list)):
        raise TypeError(
            "dataset must give tuples with the input first, such as (image, label); "
            f"it gives {type(dataset[0]).__name__}."
        )
    refuse_random_augmentation(dataset)

    home = next((p.device for p in backbone.parameters()), torch.device("cpu"))
    device = home if device is None else torch.device(device)
    if batch_size is None:
        batch_size = 256 if device.type != "cpu" else _small_batch(dataset[0][0])
    columns: list[Tensor] = []
    with kept_modes(backbone), torch.no_grad():
        backbone.to(device).eval()
        try:
            start = 0
            for batch in _batches(dataset, n_samples, batch_size):
                start += _run_batch(backbone, batch, columns, start, n_samples, device)
                del batch  # or it would live on while the next one is loaded
        finally:
            backbone.to(home)
    return TensorDataset(*columns)


def _small_batch(sample: Tensor) -> int:
    """Return how many samples hold half a million numbers, from 1 to 256."""
    return min(256, max(1, 2**19 // max(1, sample.numel())))


def _batches(
    dataset: Dataset[tuple[Tensor, ...]], n_samples: int, batch_size: int
) -> Iterator[list[Tensor]]:
    # Tensors in memory are sliced, which copies nothing; a loader would fetch and stack each image.
    if (
        isinstance(dataset, TensorDataset)
        and type(dataset).__getitem__ is TensorDataset.__getitem__
    ):
        for start in range(0, n_samples, batch_size):
            yield list(dataset[start : start + batch_size])
    else:
        yield from DataLoader(dataset, batch_size=batch_size, shuffle=False)


def _run_batch(
    backbone: nn.Module,
    batch: list[Tensor],
    columns: list[Tensor],
    start: int,
    n_samples: int,
    device: torch.device,
) -> int:
    """Run a batch and write its rows into the columns, which the first batch allocates."""
    inputs, *others = batch
    features = backbone(inputs.to(device))  # (B, D)
    if not isinstance(features, Tensor):
        raise TypeError(
            f"backbone must give a tensor, got {type(features).__name__}. "
            "Wrap it in a module that picks one of its outputs."
        )
    if features.ndim > 2:
        n_maps = features.shape[1]
        raise ValueError(
            f"backbone must give features of shape (N, D), got {shape_of(features)}. Pool them, "
            f"nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten()) for D = {n_maps}, or "
            "keep every position with nn.Flatten() alone."
        )
    if features.ndim < 2 or len(features) != len(inputs):
        raise ValueError(
            f"backbone must map {len(inputs)} samples to features of shape ({len(inputs)}, D), "
            f"got {shape_of(features)}."
        )
    check_float_tensor(f"the features of samples {start} to {start + len(inputs) - 1}", features)
    for i, other in enumerate(others, start=1):
        if not isinstance(other, Tensor):
            raise TypeError(
                f"dataset must give numbers or tensors after the input; item {i} of its tuples "
                f"comes as {type(other).__name__}."
            )
    rows = (features, *others)
    if not columns:
        columns.extend(torch.empty((n_samples, *row.shape[1:]), dtype=row.dtype) for row in rows)
    for column, row in zip(columns, rows, strict=True):
        column[start : start + len(inputs)] = row
    return len(inputs)
