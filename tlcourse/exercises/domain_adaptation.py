"""Checks of the exercises of chapter adaptive/domain-adaptation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from tlcourse.exercises._question import Question, function, not_a_function


def _discrepancy(
    x: Any, y: Any, w: float, *, diagonal: float = 0, power: int = 2, across: float = 2
) -> Any:
    def kernel(a: Any, b: Any) -> Any:
        return torch.exp(-(torch.cdist(a, b) ** power) / w)

    def within(z: Any) -> Any:
        k = kernel(z, z)
        if diagonal == 1:
            return k.mean()
        left = k.sum() - k.trace()
        return left / len(z) ** 2 if diagonal == 2 else left / (len(z) * (len(z) - 1))

    return within(x) + within(y) - across * kernel(x, y).mean()


def _samples() -> list[tuple[Any, Any, float]]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, generator=draw), 1 + torch.randn(7, 3, generator=draw)
    two = torch.tensor([[0.0], [1.0]])
    return [(x, y, 2.0), (two, two, 1.0)]


q1 = function(
    "ex-domain-mmd",
    _discrepancy,
    _samples,
    {
        "the diagonal is in it: this is the biased form.": lambda x, y, w: _discrepancy(
            x, y, w, diagonal=1
        ),
        "the diagonal is left out of the sum, but not out of the number of pairs.": (
            lambda x, y, w: _discrepancy(x, y, w, diagonal=2)
        ),
        "the distances are not squared.": lambda x, y, w: _discrepancy(x, y, w, power=1),
        "the pairs across count once. They count twice.": lambda x, y, w: _discrepancy(
            x, y, w, across=1
        ),
        "the bandwidth w stands in the kernel as it is, not as 2 w.": lambda x, y, w: _discrepancy(
            x, y, 2 * w
        ),
        "this is the root; the squared discrepancy is asked for.": lambda x, y, w: (
            _discrepancy(x, y, w).clamp_min(0).sqrt()
        ),
    },
)


def _rise(p: float) -> float:
    return math.tanh(5 * p)  # 2 / (1 + e^-10p) - 1


q2 = function(
    "ex-domain-schedule",
    lambda i, epoch, steps, epochs: _rise((i + epoch * steps) / (epochs * steps)),
    lambda: [(1, 0, 100, 100), (30, 2, 40, 10), (0, 0, 5, 5), (7, 3, 50, 20)],
    {
        "the bug is still there: division binds closer than addition.": (
            lambda i, epoch, steps, epochs: _rise(i + epoch * steps / epochs / steps)
        ),
        "this counts epochs alone, so the strength moves in stairs.": (
            lambda i, epoch, steps, epochs: _rise(epoch / epochs)
        ),
        "this begins anew in every epoch.": lambda i, epoch, steps, epochs: _rise(i / steps),
        "this is p itself; the strength is 2 / (1 + exp(-10 p)) - 1.": (
            lambda i, epoch, steps, epochs: (i + epoch * steps) / (epochs * steps)
        ),
        "the last -1 is missing: at p = 0 the strength must be 0.": (
            lambda i, epoch, steps, epochs: 1 + _rise((i + epoch * steps) / (epochs * steps))
        ),
    },
)


def _shares(counts: Any) -> Any:
    return counts / counts.sum()


q3 = function(
    "ex-domain-ceiling",
    lambda source, target: torch.minimum(_shares(source), _shares(target)).sum(),
    lambda: [
        (torch.tensor([50, 50]), torch.tensor([90, 10])),
        (torch.tensor([30, 10, 60]), torch.tensor([5, 5, 0])),
        (torch.full((10,), 100), torch.tensor([80] * 5 + [0] * 5)),
    ],
    {
        "these are counts. Divide by their sums first.": lambda source, target: torch.minimum(
            source, target
        ).sum(),
        "this is what must be wrong; the accuracy is 1 less this.": lambda source, target: (
            1 - torch.minimum(_shares(source), _shares(target)).sum()
        ),
        "a sum of differences counts each excess twice: take half of it away from 1.": (
            lambda source, target: 1 - (_shares(source) - _shares(target)).abs().sum()
        ),
        "a product is what is right if the answers are drawn at random, in the source's shares.": (
            lambda source, target: (_shares(source) * _shares(target)).sum()
        ),
    },
)


def _judge_by_number(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    found = answer([4, 256])
    if not isinstance(found, Mapping) or set(found) != {4, 256}:
        return "return a dictionary with one accuracy for each number of images."
    if any(not 0 <= float(part) <= 100 for part in found.values()):
        return f"per cent lie between 0 and 100; got {list(found.values())}."
    if max(map(float, found.values())) <= 1:
        return "the accuracies look like fractions; per cent are asked for."
    if float(found[4]) == float(found[256]):
        return "both numbers give one accuracy: are the statistics those of the first n images?"
    if float(found[256]) < 20:
        return "with 256 images the network is near a guess: does it start from the source's?"
    return None


q4 = Question(
    "ex-domain-statistics",
    _judge_by_number,
    right=lambda numbers: {4: 31.0, 256: 48.5},
    wrong={
        "one accuracy for each number": lambda numbers: [31.0, 48.5],
        "look like fractions": lambda numbers: {4: 0.31, 256: 0.485},
        "both numbers give one accuracy": lambda numbers: {4: 48.5, 256: 48.5},
        "near a guess": lambda numbers: {4: 9.0, 256: 11.0},
        "between 0 and 100": lambda numbers: {4: 3100.0, 256: 4850.0},
    },
    limit=120.0,
)
