"""Checks of the exercises of chapter practice/classifier-in-minutes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from tlcourse.exercises._question import Question, function


def _sure_or_silent(p: Tensor, threshold: float) -> int | None:
    largest = max(p.tolist())
    return p.tolist().index(largest) if largest >= threshold else None


q1 = function(
    "ex-classifier-neither",
    _sure_or_silent,
    lambda: [
        (torch.tensor(row), threshold)
        for row, threshold in (
            ([0.25, 0.5, 0.25], 0.5),  # at the threshold
            ([0.25, 0.5, 0.25], 0.75),
            ([0.875, 0.125, 0.0], 0.75),
            ([0.0, 0.125, 0.875], 0.75),
            ([0.375, 0.25, 0.375], 0.5),
        )
    ],
    {
        "0 is the first class; for 'don't know' None is asked for.": lambda p, threshold: (
            _sure_or_silent(p, threshold) or 0
        ),
        "only *below* the threshold the classifier is silent; at the threshold it is sure.": (
            lambda p, threshold: int(p.argmax()) if p.max() > threshold else None
        ),
        "this is silent where it is sure, and sure where it is not.": lambda p, threshold: (
            int(p.argmax()) if p.max() < threshold else None
        ),
        "the class's index is asked for, not its probability.": lambda p, threshold: (
            float(p.max()) if p.max() >= threshold else None
        ),
        "it is never silent: where does the threshold enter?": (
            lambda p, threshold: int(p.argmax())
        ),
        "-1 would be the last class in Python; for 'don't know' None is asked for.": (
            lambda p, threshold: int(p.argmax()) if p.max() >= threshold else -1
        ),
    },
)


def _judge_accuracy(answer: Any) -> str | None:
    try:
        found = float(answer)
    except (TypeError, ValueError):
        return "an accuracy is asked for, one number."
    if found > 1:
        return "this looks like per cent; `accuracy` returns a fraction, leave it."
    if found == 1:
        return "nothing is mistaken: are the photos in the test those of the training?"
    return None if found > 0 else "nothing is right: do features and labels belong together?"


q2 = Question(
    "ex-classifier-more",
    _judge_accuracy,
    right=0.81,
    wrong={
        "one number": [0.8, 0.9],
        "looks like per cent": 81.0,
        "nothing is mistaken": 1.0,
        "nothing is right": 0.0,
    },
)


def _most_confused(counts: Tensor, classes: Sequence[str], way: str = "") -> tuple[str, str]:
    def mistaken(i: int, j: int) -> int:
        if way in ("one way", "other way"):
            return int(counts[i, j] if way == "one way" else counts[j, i])
        return int(counts[i, j] + counts[j, i])

    pairs = combinations(range(len(classes)), 2)
    i, j = (min if way == "least" else max)(pairs, key=lambda pair: mistaken(*pair))
    return classes[i], classes[j]


def _largest(counts: Tensor, classes: Sequence[str], diagonal: bool) -> tuple[str, str]:
    counts = counts if diagonal else counts - torch.diag(counts.diag())
    i, j = divmod(int(counts.argmax()), len(classes))
    return classes[i], classes[j]


q3 = function(
    "ex-classifier-others",
    _most_confused,
    lambda: [
        (
            torch.tensor([[9, 3, 0, 2], [3, 8, 1, 0], [0, 0, 7, 5], [4, 0, 0, 6]]),
            ("bark", "gravel", "petals", "wood"),
        ),
        (torch.tensor([[5, 2, 2], [1, 5, 0], [3, 4, 5]]), ("cat", "leaves", "tissue")),
    ],
    {
        "the diagonal holds what is judged right; a pair of two classes is asked for.": (
            lambda counts, classes: _largest(counts, classes, diagonal=True)
        ),
        "this takes the largest entry: a is taken for b, but b for a counts for the pair too.": (
            lambda counts, classes: _largest(counts, classes, diagonal=False)
        ),
        "this is the pair that is confused the least.": (
            lambda counts, classes: _most_confused(counts, classes, "least")
        ),
        "of the two classes name the one that comes first in `classes` first.": (
            lambda counts, classes: _most_confused(counts, classes)[::-1]
        ),
    },
)
