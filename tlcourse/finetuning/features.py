r"""Feature extraction: the frozen part of a network runs once, and its outputs are kept.

A frozen backbone gives the same features for an image at every epoch. Computing them once and
training the head on what is kept is the same training at a fraction of the cost.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tlcourse._checks import check_int, check_samples
from tlcourse._recorded import run_once


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
        Where to run; the backbone is moved there and back. None runs it where it is, and its
        inputs are brought to its first parameter.

    Returns
    -------
    TensorDataset
        Features, shape (N, D), and then whatever followed the input (a label: shape (N,)), on the
        CPU. They are plain tensors, inside ``torch.inference_mode()`` too: a head trained on them
        gets its gradients as usual.

    Raises
    ------
    TypeError, ValueError
        If the data set is empty or random; if the backbone's output is no (N, D) tensor, or holds
        NaN. Feature maps (N, C, H, W) are not flattened in silence: whether to average or to keep
        the positions is a choice that decides D.

    References
    ----------
    Protopapas (AC295), *Representation Extraction*; "What is Transfer Learning?", section 1.5, last
    point. In the chapter: ``eq-frozen-features`` and ``eq-caching-cost``.

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
    check_samples(dataset)
    home = {t.device for t in chain(backbone.parameters(), backbone.buffers())}
    where = device if device is not None else next(iter(home), "cpu")
    if device is not None and len(home) > 1:
        raise ValueError(
            f"backbone lies on {len(home)} devices, {', '.join(sorted(map(str, home)))}: to move "
            "it to one would not leave it as it is. Leave device out."
        )
    if batch_size is None:
        on_cpu = torch.device(where).type == "cpu"
        batch_size = _small_batch(dataset[0][0]) if on_cpu else 256
    with torch.inference_mode(False):  # or a moved weight would be an inference tensor
        try:
            if device is not None:
                backbone.to(device)
            columns = run_once(
                "backbone", backbone, dataset, gives="features", batch_size=batch_size
            )
        finally:
            if device is not None and home:
                backbone.to(home.pop())
    return TensorDataset(*columns)


def _small_batch(sample: Tensor) -> int:
    """Return how many samples hold half a million numbers, from 1 to 256."""
    return min(256, max(1, 2**19 // max(1, sample.numel())))
