"""Checks of the exercises of chapter methods/selective-joint."""

from __future__ import annotations

from collections import Counter
from math import log, sqrt

import torch
from torch import Tensor

from tlcourse.exercises._question import function, value


def _distance_and_bound(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Return half the sum of both divergences, and the bound, bin by bin."""
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    both = [p * log(p / q) + q * log(q / p) for p, q in pairs]
    return sum(both) / 2, 2 * sum((sqrt(p) - sqrt(q)) ** 2 for p, q in pairs)


q1 = function(
    "ex-selective-hand",
    _distance_and_bound,
    lambda: [
        (torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])),
        (torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.6, 0.3, 0.1])),
    ],
    {
        "the 1/2 of d is missing: it is the mean of the two divergences.": lambda a, b: (
            2 * _distance_and_bound(a, b)[0],
            _distance_and_bound(a, b)[1],
        ),
        "this is one divergence, from a to b; d takes the mean of both ways.": lambda a, b: (
            float((a * (a / b).log()).sum()),
            _distance_and_bound(a, b)[1],
        ),
        "the bound has a factor 2.": lambda a, b: (
            _distance_and_bound(a, b)[0],
            _distance_and_bound(a, b)[1] / 2,
        ),
        "the distance comes first, then its bound.": lambda a, b: _distance_and_bound(a, b)[::-1],
    },
)


def _popularity(indices: Tensor) -> tuple[float, float]:
    counts = Counter(indices.flatten().tolist())
    return len(counts), max(counts.values())


def _neighbours() -> list[tuple[Tensor]]:
    draw = torch.Generator().manual_seed(2)
    return [
        (torch.stack([torch.randperm(30, generator=draw)[:8] for _ in range(n)]),) for n in (6, 20)
    ]


q2 = function(
    "ex-selective-hubs",
    _popularity,
    _neighbours,
    {
        "this is the number retrieved, each as often as it was; count each image once.": (
            lambda indices: (indices.numel(), _popularity(indices)[1])
        ),
        "this is the number of the most popular image; how often it occurs is asked for.": (
            lambda indices: (_popularity(indices)[0], indices.flatten().mode().values)
        ),
        "the share is asked for as a number of target images, not as a part of them.": (
            lambda indices: (_popularity(indices)[0], _popularity(indices)[1] / len(indices))
        ),
        "this is the mean popularity; the largest is asked for.": lambda indices: (
            _popularity(indices)[0],
            indices.numel() / _popularity(indices)[0],
        ),
        "the number of different images comes first.": lambda indices: _popularity(indices)[::-1],
        "this is the largest index in the table, not a count of different images.": (
            lambda indices: (int(indices.max()) + 1, _popularity(indices)[1])
        ),
    },
)

q3 = value(
    "ex-selective-itself",
    0.0,
    {
        "as it is, each image finds itself at once: the first place is 0, not 1.": 1.0,
        "the distance to itself is not a place: count how many are nearer.": 1e-6 + 50,
    },
)
