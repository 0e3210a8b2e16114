"""Checks of the exercises of chapter methods/feature-extraction."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tlcourse.exercises._question import Question, function


def _count(side: int) -> tuple[int, ...]:
    with torch.device("meta"):
        conv1, conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 5, padding=2)
        maps = nn.MaxPool2d(2)(conv2(conv1(torch.empty(1, 3, side, side))))
        layers = conv1, conv2, nn.Linear(maps.numel(), 512), nn.Linear(512, 4)
    return tuple(sum(p.numel() for p in layer.parameters()) for layer in layers)


def _dense(side: int, flat: int) -> tuple[int, ...]:
    conv1, conv2, _, dense2 = _count(side)
    return conv1, conv2, flat * 512 + 512, dense2


q1 = function(
    "ex-features-count",
    _count,
    lambda: [(32,), (64,), (96,)],
    {
        "the biases are missing: one for each filter or unit.": lambda side: tuple(
            n - bias for n, bias in zip(_count(side), (8, 16, 512, 4), strict=True)
        ),
        "the maps are halved before `dense1`, in width and in height.": lambda side: _dense(
            side, 16 * side**2
        ),
        "halving the maps divides their area by 4, not by 2.": lambda side: _dense(
            side, 16 * side**2 // 2
        ),
        "the maps are square: `side // 2` enters twice.": lambda side: _dense(
            side, 16 * (side // 2)
        ),
        "a filter of `conv1` and `conv2` has weights for every channel that it reads.": (
            lambda side: (8 * 9 + 8, 16 * 25 + 16, *_count(side)[2:])
        ),
        "`dense1` reads the 16 maps of `conv2`, not one.": lambda side: _dense(
            side, (side // 2) ** 2
        ),
        "a filter does not know the size of the image: only `dense1` changes.": lambda side: (
            224 * (side // 32) ** 2,
            3216 * (side // 32) ** 2,
            *_count(side)[2:],
        ),
    },
    tolerance=1e-9,
)


def _gain(F: float, H: float, E: float) -> float:
    return E * (F + H) / (F + E * H)


def _limit_and_half(F: float, H: float) -> tuple[float, float]:
    """Return both by trying: a great many epochs, then bisection."""
    limit = _gain(F, H, 1e12)
    low, high = 0.0, 1e9
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _gain(F, H, middle) < limit / 2 else (low, middle)
    return limit, high


q2 = function(
    "ex-features-limit",
    _limit_and_half,
    lambda: [(90.0, 3.0), (5.0, 2.0), (0.8, 0.002)],
    {
        "without the cache an epoch costs F + H: the limit is (F + H) / H.": lambda F, H: (
            F / H,
            F / H,
        ),
        "half of the limit is a gain; the number of epochs that reaches it is asked for.": (
            lambda F, H: ((F + H) / H, (F + H) / H / 2)
        ),
        "this E gains a little more than half: solve the equation for E.": lambda F, H: (
            (F + H) / H,
            (F + H) / H,
        ),
        "F and H are exchanged: it is the head that is trained again in each epoch.": (
            lambda F, H: ((F + H) / F, H / F)
        ),
        "the limit comes first, then the number of epochs.": lambda F, H: (F / H, (F + H) / H),
    },
    tolerance=1e-3,
)


def _judge_stages(answer: Any) -> str | None:
    try:
        found = {str(k): (float(means), float(parts)) for k, (means, parts) in answer.items()}
    except (TypeError, ValueError, AttributeError):
        return "a dictionary is asked for: for each stage two accuracies, of means and quarters."
    if "pixels" not in found or len(found) < 3:
        return "each stage is asked for, from 'pixels' on, by the names in `stages`."
    numbers = [accuracy for pair in found.values() for accuracy in pair]
    if not 0 <= min(numbers) <= max(numbers) <= 100:
        return "an accuracy lies outside 0 to 100 %."
    if max(numbers) <= 1:
        return "these look like fractions; per cent are asked for."
    if all(means == parts for means, parts in found.values()):
        return "means and quarters have the same accuracies: `mean_of_quarters` goes to one only."
    if max(parts for _, parts in found.values()) < 70:
        return "all is near a guess: is each label that of the shift of its own image?"
    if found["pixels"][0] > 75:
        return (
            "the mean of the pixels, which no shift changes, tells the side. Does the label hang "
            "together with the digit? Draw the side at random."
        )
    return None


def _stages(*pairs: tuple[float, float]) -> dict[str, tuple[float, float]]:
    return dict(zip(("pixels", "stem", "stage1", "top"), pairs, strict=True))


q3 = Question(
    "ex-features-position",
    _judge_stages,
    right=_stages((51, 88), (70, 95), (80, 97), (58, 71)),
    wrong={
        "a dictionary is asked for": 88.0,
        "each stage is asked for": {"top": (58, 71)},
        "outside 0 to 100": _stages((51, 8800), (70, 9500), (80, 9700), (58, 7100)),
        "look like fractions": _stages((0.51, 0.88), (0.7, 0.95), (0.8, 0.97), (0.58, 0.71)),
        "goes to one only": _stages((51, 51), (70, 70), (80, 80), (58, 58)),
        "near a guess": _stages((51, 52), (49, 48), (50, 53), (47, 51)),
        "Draw the side at random": _stages((97, 98), (99, 99), (100, 100), (99, 100)),
    },
)
