r"""Adversarial alignment: features from which no classifier can tell the domain.

A domain classifier learns to tell source from target features. The gradient that reaches the
features is turned round, so that they learn to mislead it (Ganin et al., 2016).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tlcourse._checks import check_number


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.strength * gradients[0], None


def reverse_gradient(features: Tensor, strength: float = 1.0) -> Tensor:
    r"""Return the features as they are; their gradient comes back times :math:`-\lambda`.

    .. math:: R(z) = z, \qquad \frac{\partial R}{\partial z} := -\lambda I

    Parameters
    ----------
    features
        :math:`z`, of any shape.
    strength
        :math:`\lambda`, at least 0; 0 lets nothing through.

    Raises
    ------
    TypeError, ValueError
        If the strength is no number from 0 on.

    References
    ----------
    Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, equations 16 and 17. In the
    chapter: ``eq-reversal``.

    Examples
    --------
    >>> z = torch.ones(2, requires_grad=True)
    >>> reverse_gradient(z, 0.5).sum().backward()
    >>> z.grad
    tensor([-0.5000, -0.5000])
    """
    check_number("strength", strength, low=0)
    reversed_: Tensor = _Reversal.apply(features, strength)
    return reversed_


def reversal_schedule(progress: float, gamma: float = 10.0) -> float:
    r"""Return the strength of the reversal at a part of the training.

    .. math:: \lambda(p) = \frac{2}{1 + e^{-\gamma p}} - 1

    It begins at 0, where the domain classifier knows nothing yet, and ends near 1.

    Parameters
    ----------
    progress
        :math:`p`, the part of all steps that is done, from 0 to 1. A count of steps is not it.
    gamma
        :math:`\gamma`, above 0.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range.

    References
    ----------
    Ganin et al. (2016), section 5.2.2. In the chapter: ``eq-reversal-schedule``.

    Examples
    --------
    >>> [round(reversal_schedule(p), 3) for p in (0.0, 0.1, 0.5, 1.0)]
    [0.0, 0.462, 0.987, 1.0]
    """
    check_number("progress", progress, low=0, high=1)
    check_number("gamma", gamma, above=0)
    return 2 / (1 + math.exp(-gamma * progress)) - 1
