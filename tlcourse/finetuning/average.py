r"""Averages of weights: networks that were fine-tuned from one start, as one network.

Runs that begin at one pre-trained network often end in one valley of the loss, and a point between
them is a network that works (Wortsman et al., 2022). It costs one network when it is used.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from tlcourse._checks import check_number


def average_weights(
    models: Sequence[nn.Module], weights: Sequence[float] | None = None
) -> nn.Module:
    r"""Return a network whose weights are the mean of those of several: a uniform soup.

    .. math:: \theta = \sum_{i=1}^{n} w_i\, \theta_i, \qquad w_i = \frac{1}{n}

    where

    - :math:`\theta_i`: the parameters of network i, and its buffers of floating-point numbers;
    - :math:`w_i`: its weight; the weights sum to 1.

    Parameters
    ----------
    models
        Networks of one architecture, fine-tuned from one start. They are left as they are.
    weights
        A number for each, of sum 1. None is the same for all.

    Returns
    -------
    Module
        A new network, a copy of the first but for its numbers. Buffers of integers are the first's.

    Raises
    ------
    TypeError, ValueError
        If a model is no module, there is none, their tensors differ in name or shape, or the
        weights are not one number for each of sum 1.

    See Also
    --------
    recompute_batchnorm : a network with BatchNorm needs it before it is used.

    Notes
    -----
    BatchNorm's statistics describe the outputs of a layer *under its own weights*. The mean of
    several networks' statistics is not what the averaged weights produce, however near: a variance
    is no linear function of the weights. So compute them again.

    References
    ----------
    Wortsman et al. (2022), Model soups, section 2. In the chapter: ``eq-soup``.

    Examples
    --------
    >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = a.weight.data.fill_(1.0), b.weight.data.fill_(3.0)
    >>> average_weights([a, b]).weight
    Parameter containing:
    tensor([[2.]], requires_grad=True)
    """
    if isinstance(models, nn.Module) or not isinstance(models, Sequence):
        raise TypeError(f"models must be a list of networks, got {type(models).__name__}.")
    if len(models) == 0:
        raise ValueError("models is empty: give at least one network.")
    for i, model in enumerate(models):
        if not isinstance(model, nn.Module):
            raise TypeError(f"models[{i}] must be a torch.nn.Module, got {type(model).__name__}.")
    n = len(models)
    weights = [1 / n] * n if weights is None else list(weights)
    for i, weight in enumerate(weights):
        check_number(f"weights[{i}]", weight)
    if len(weights) != n or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(
            f"weights must be {n} numbers of sum 1, one for each model; "
            f"got {len(weights)} of sum {sum(weights):g}."
        )
    tensors = [_tensors(model) for model in models]
    for i, other in enumerate(tensors):
        shapes = {name: tensor.shape for name, tensor in other.items()}
        first = {name: tensor.shape for name, tensor in tensors[0].items()}
        if shapes != first:
            unlike = sorted(name for name, _ in shapes.items() ^ first.items())
            raise ValueError(
                f"models[{i}] is another architecture than models[0]: they differ in "
                f"{', '.join(dict.fromkeys(unlike[:5]))}. Average runs of one network."
            )
    mean = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, tensor in _tensors(mean).items():
            if tensor.is_floating_point():
                parts = [w * t[name].to(tensor) for w, t in zip(weights, tensors, strict=True)]
                tensor.copy_(torch.stack(parts).sum(0))
    return mean


def interpolate(start: nn.Module, tuned: nn.Module, alpha: float) -> nn.Module:
    r"""Return the network between a pre-trained one and its fine-tuned copy (WiSE-FT).

    .. math:: \theta_\alpha = (1 - \alpha)\, \theta_0 + \alpha\, \theta_1

    where

    - :math:`\theta_0`: the parameters of ``start``, which has the head of the new task already;
    - :math:`\theta_1`: those of ``tuned``, fine-tuned from there;
    - :math:`\alpha`: 0 is the start, 1 the fine-tuned network.

    Parameters
    ----------
    start, tuned
        Networks of one architecture, left as they are.
    alpha
        In [0, 1].

    Returns
    -------
    Module
        A new network. With BatchNorm, call :func:`recompute_batchnorm` before it is used.

    Raises
    ------
    TypeError, ValueError
        As in :func:`average_weights`, and if ``alpha`` is out of range.

    References
    ----------
    Wortsman et al. (2022), Robust fine-tuning of zero-shot models, section 3. In the chapter:
    ``eq-wise-ft``.

    Examples
    --------
    >>> start, tuned = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = start.weight.data.fill_(0.0), tuned.weight.data.fill_(4.0)
    >>> interpolate(start, tuned, 0.25).weight.item()
    1.0
    """
    check_number("alpha", alpha, low=0, high=1)
    return average_weights([start, tuned], [1 - alpha, alpha])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
