"""Checks of the exercises of chapter methods/multi-task."""

from __future__ import annotations

from math import exp, log

import torch
from torch import Tensor

from tlcourse.exercises._question import function


def _laplace_term(L: float, s: Tensor) -> Tensor:
    """Return -log of the density at a distance of L, without log 2."""
    density = torch.distributions.Laplace(torch.zeros_like(s), s.exp())
    return -density.log_prob(torch.full_like(s, L)) - log(2)


q1 = function(
    "ex-multitask-laplace",
    _laplace_term,
    lambda: [(L, torch.tensor([-2.0, 0.5, 1.0])) for L in (0.2, 3.0)],
    {
        "this is the normal distribution's term; for the Laplace density no 1/2 is left.": (
            lambda L, s: 0.5 * torch.exp(-s) * L + 0.5 * s
        ),
        "the logarithm of b enters whole: s, not s / 2.": lambda L, s: torch.exp(-s) * L + s / 2,
        "s is log b, not log b²: the weight is exp(-s).": lambda L, s: torch.exp(-2 * s) * L + s,
        "the sign of s is wrong: -log (1 / b) is + log b.": lambda L, s: torch.exp(-s) * L - s,
        "the constant log 2 is to be left out.": lambda L, s: torch.exp(-s) * L + s + log(2),
        "the sign of the exponent is wrong: dividing by b is multiplying by exp(-s).": (
            lambda L, s: torch.exp(s) * L + s
        ),
        "the price + s is missing: without it a wide noise explains everything for nothing.": (
            lambda L, s: torch.exp(-s) * L
        ),
    },
)


def _sigma_found(loss: float) -> float:
    """Return where 1/2 e^-s L + 1/2 s is least, by bisection of its slope."""
    low, high = -30.0, 30.0
    for _ in range(100):
        s = (low + high) / 2
        low, high = (s, high) if exp(-s) * loss > 1 else (low, s)
    return exp(high / 2)


q2 = function(
    "ex-multitask-mean",
    _sigma_found,
    lambda: [(0.25,), (2.25,), (0.7,)],
    {
        "this is sigma²: s is its logarithm, so that sigma is exp(s / 2).": (
            lambda loss: _sigma_found(loss) ** 2
        ),
        "this is s itself; sigma is exp(s / 2).": lambda loss: 2 * log(_sigma_found(loss)),
        "this is the optimum of a classification loss; the task is a regression.": (
            lambda loss: _sigma_found(2 * loss)
        ),
        "the sum over the 9 outputs is taken inside; `loss` is already the one or the other.": (
            lambda loss: _sigma_found(9 * loss)
        ),
    },
)


def _without_price(steps: int, price: float = 0.0, factor: float = 0.5) -> float:
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([s], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (factor * torch.exp(-s) * 0.5 + price * s).backward()
        optimizer.step()
    return 0.5 * exp(-s.item())


q3 = function(
    "ex-multitask-price",
    _without_price,
    lambda: [(0,), (10,), (300,)],
    {
        "the price is still in: the weight comes to rest. Take 1/2 s out.": lambda steps: (
            _without_price(steps, price=0.5)
        ),
        "this is exp(-s); the weight of a regression is half of that.": lambda steps: (
            2 * _without_price(steps)
        ),
        "the 1/2 belongs into the gradient as well.": lambda steps: _without_price(
            steps, factor=1.0
        ),
        "this is s; the last weight is asked for.": lambda steps: -log(2 * _without_price(steps)),
    },
)
