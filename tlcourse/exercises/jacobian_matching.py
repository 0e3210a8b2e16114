"""Checks of the exercises of chapter methods/jacobian-matching."""

from __future__ import annotations

from math import cos, exp, sin

import torch
from torch import Tensor

from tlcourse.exercises._question import function


def _g(x: float, y: float) -> float:
    return sin(1.3 * x) * exp(0.5 * y) + 0.4


def _noisy_square(point: Tensor, sigma: float) -> float:
    """Return E[g(x + sigma e)²] in closed form."""
    x, y = point.tolist()
    a, b, c, v = 1.3, 0.5, 0.4, sigma**2
    square = (1 - cos(2 * a * x) * exp(-2 * a**2 * v)) / 2 * exp(2 * b * y + 2 * b**2 * v)
    return square + 2 * c * (_noisy(point, sigma) - c) + c**2


def _noisy(point: Tensor, sigma: float) -> float:
    """Return E[g(x + sigma e)] in closed form."""
    x, y = point.tolist()
    return sin(1.3 * x) * exp(-(1.3**2) * sigma**2 / 2 + 0.5 * y + 0.5**2 * sigma**2 / 2) + 0.4


def _growth(point: Tensor, sigma: float) -> float:
    return (_noisy_square(point, sigma) - _g(*point.tolist()) ** 2) / sigma**2


def _slope_squared(point: Tensor, sigma: float) -> float:
    x, y = point.tolist()
    return (1.3 * cos(1.3 * x) * exp(0.5 * y)) ** 2 + (0.5 * sin(1.3 * x) * exp(0.5 * y)) ** 2


q1 = function(
    "ex-matching-noise",
    _growth,
    lambda: [
        (torch.tensor(point, dtype=torch.float64), sigma)
        for point, sigma in (
            ([-0.3165518, 0.0], 1e-2),  # where g = 0
            ([-0.3165518, 0.0], 0.5),
            ([0.7, -0.3], 0.2),
        )
    ],
    {
        "g² at the point itself has not been taken off.": lambda point, sigma: (
            _noisy_square(point, sigma) / sigma**2
        ),
        "divide by sigma², the variance, not by sigma.": lambda point, sigma: (
            _growth(point, sigma) * sigma
        ),
        "it has not been divided by sigma².": lambda point, sigma: _growth(point, sigma) * sigma**2,
        "the square comes before the mean: E[g²], not E[g]².": lambda point, sigma: (
            (_noisy(point, sigma) ** 2 - _g(*point.tolist()) ** 2) / sigma**2
        ),
        "the noise has not been scaled: add sigma times `noise`.": lambda point, sigma: (
            (_noisy_square(point, 1.0) - _g(*point.tolist()) ** 2) / sigma**2
        ),
        "this is the formula of small noise, the squared slope; measure with the noise.": (
            _slope_squared
        ),
    },
    tolerance=1e-3,
)
