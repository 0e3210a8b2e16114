r"""Adversarial alignment: features from which no classifier can tell the domain.

A domain classifier learns to tell source from target features. The gradient that reaches the
features is turned round, so that they learn to mislead it (Ganin et al., 2016).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_int, check_number, widened
from tlcourse.adaptation.aligned import Aligned


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float | Tensor) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.strength * gradients[0], None


def reverse_gradient(features: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    r"""Return the features as they are; their gradient comes back times :math:`-\lambda`.

    .. math:: R(z) = z, \qquad \frac{\partial R}{\partial z} := -\lambda I

    Parameters
    ----------
    features
        :math:`z`, of any shape.
    strength
        :math:`\lambda`, at least 0, a number or a scalar; 0 lets nothing through.

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
    if not isinstance(strength, Tensor):
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


class DANN(Aligned):
    r"""Align the features against a classifier of the domain.

    .. math::

        \mathcal{A} = -\frac{1}{2 N} \sum_{n=1}^{2 N} \log p(d_n \mid R(\phi(x_n)))

    where

    - :math:`d`: the domain of an image, source or target;
    - the probability is that of a network of two layers, which learns it;
    - :math:`R`: the reversal of the gradient, whose strength rises with the part of all steps that
      is done, see :func:`reversal_schedule`.

    Parameters
    ----------
    backbone, n_classes, target, weight
        As of :class:`~tlcourse.adaptation.aligned.Aligned`.
    steps
        How many steps the training will have, at least 1: epochs times batches an epoch.
    hidden
        Units of the domain classifier's first layer.

    References
    ----------
    Ganin et al. (2016), equation 18. In the chapter: ``eq-dann``.

    Examples
    --------
    >>> from tlcourse.data import digits, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> source, target = glyphs(90, 1)[0], digits()[0]
    >>> model = DANN(SmallResNet(45).backbone, source.n_classes, target.images, steps=100)
    >>> model.loss(source[:8]).shape
    torch.Size([])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        target: Tensor,
        *,
        steps: int,
        weight: float = 1.0,
        hidden: int = 64,
    ) -> None:
        super().__init__(backbone, n_classes, target, weight=weight)
        check_int("steps", steps, low=1)
        check_int("hidden", hidden, low=1)
        self.steps = steps
        self.domain = domain_classifier(self.head.in_features, hidden)
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # kept in checkpoints

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy of the domain, and count a step of training."""
        # As `reversal_schedule`, on the model's device: nothing waits for a count.
        strength = (5 * (self.step / self.steps).clamp_max(1)).tanh()
        self.step += self.training
        return domain_loss(self.domain, source[0], target[0], strength)


def domain_loss(
    domain: nn.Module, source: Tensor, target: Tensor, strength: float | Tensor
) -> Tensor:
    """Return the cross-entropy of a domain classifier, whose gradient comes back reversed.

    ``domain`` turns features (N, D) into logits (N, 1), high for the source.
    """
    features = reverse_gradient(torch.cat([source, target]), strength)  # (2 N, D)
    domains = torch.ones(len(features), device=features.device)
    domains[len(source) :] = 0
    logits = widened(domain(features).squeeze(1))
    return F.binary_cross_entropy_with_logits(logits, domains.to(logits))


def domain_classifier(n_features: int, hidden: int) -> nn.Sequential:
    """Return a network of two layers, features (N, D) -> logits (N, 1)."""
    return nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, 1))
