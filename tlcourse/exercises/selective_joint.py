"""Checks of the exercises of chapter methods/selective-joint."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from tlcourse.exercises._question import function


def _popularity(indices: Tensor) -> tuple[float, float]:
    counts = Counter(indices.flatten().tolist())
    return len(counts), max(counts.values())


def _neighbours() -> list[tuple[Tensor]]:
    draw = torch.Generator().manual_seed(2)
    return [
        (torch.stack([torch.randperm(30, generator=draw)[:8] for _ in range(n)]),) for n in (6, 20)
    ]


q1 = function(
    "ex-multitask-hubs",
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
