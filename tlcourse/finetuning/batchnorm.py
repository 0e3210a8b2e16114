r"""BatchNorm's statistics computed again: after weights were averaged, or for other data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from tlcourse._checks import check_int, check_samples
from tlcourse._modes import kept_modes
from tlcourse.finetuning.freeze import is_frozen


def recompute_batchnorm(model: nn.Module, dataset: Dataset[Any], *, batch_size: int = 256) -> None:
    r"""Replace the running statistics of every BatchNorm layer by those of a data set.

    .. math:: m = \frac{1}{k} \sum_{j=1}^{k} \bar x_j

    where :math:`\bar x_j`, shape (C,), is the mean of batch j of k, and likewise for the variance.
    No weight changes, and no label is used.

    Parameters
    ----------
    model
        Changed in place, where it is. Layers that :func:`~tlcourse.finetuning.freeze` holds keep
        their statistics; Dropout is off. Modes are afterwards as before.
    dataset
        Of tuples, the input first. A last batch that is smaller is left out, unless it is the only
        one, so that all count alike.
    batch_size
        At least 2: one sample has no variance.

    Raises
    ------
    TypeError, ValueError
        If ``model`` is no module, the data set is empty, or ``batch_size`` is out of range.

    References
    ----------
    Izmailov et al. (2018), Averaging weights leads to wider optima, section 3.2. It is what
    ``torch.optim.swa_utils.update_bn`` does, which does not know of frozen layers. In the chapter:
    ``eq-recomputed-mean``.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> model = nn.BatchNorm1d(1)
    >>> recompute_batchnorm(model, TensorDataset(torch.tensor([[1.0], [3.0]])))
    >>> model.running_mean, model.training
    (tensor([2.]), True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    check_int("batch_size", batch_size, low=2)
    check_samples(dataset)
    norms = [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and not is_frozen(layer)
    ]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters(), torch.empty(0)).device
    with kept_modes(model), torch.no_grad():
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the batches
            norm.train()
        try:
            for j, (x, *_) in enumerate(DataLoader(dataset, batch_size)):
                if j == 0 or len(x) == batch_size:
                    model(x.to(device))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
