"""Checks of the exercises of chapter introduction/what-is-transfer-learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, nan
from typing import Any

import numpy as np

from tlcourse.exercises._answers import difference
from tlcourse.exercises._question import Question, function

_FIRST = {"reviews": "P(X)", "photographs": "Y", "documents": "X"}
_INSTEAD = {
    ("reviews", "X"): "both are reviews in one language: every one could occur in either problem.",
    ("reviews", "P(Y|X)"): "P(Y|X) differs for some words, but P(X) comes before it.",
    ("photographs", "P(X)"): "they are the same photographs: X and P(X) are alike.",
    ("photographs", "P(Y|X)"): "P(Y|X) differs as well, but because the labels do: Y is first.",
    ("documents", "P(X)"): "hardly a word is shared, so X itself differs, before P(X).",
    ("documents", "Y"): "the topics are the same; look at the inputs.",
}


def _judge_scenarios(answer: Any) -> str | None:
    if isinstance(answer, Mapping):
        answer = {
            key: one.replace(" ", "").replace("∣", "|") if isinstance(one, str) else one
            for key, one in answer.items()
        }
        for (name, instead), why in _INSTEAD.items():
            if str(answer.get(name)).lower() == instead.lower():
                return f"{name}: {why}"
    return difference(answer, _FIRST, 0.0, tell=False)


q1 = Question(
    "ex-intro-scenario",
    _judge_scenarios,
    right={"reviews": "P(X)", "photographs": "Y", "documents": "X"},
    wrong={why: _FIRST | {name: instead} for (name, instead), why in _INSTEAD.items()},
)

Curves = Sequence[Sequence[float]]


def _first(curve: Sequence[float], threshold: float, never: float = inf) -> float:
    return next((float(t) for t, a in enumerate(curve) if a >= threshold), never)


def _saved(with_transfer: Curves, without: Curves, threshold: float, never: float = inf) -> float:
    pairs = zip(with_transfer, without, strict=True)
    saved = [_first(b, threshold, never) - _first(a, threshold, never) for a, b in pairs]
    return sum(saved) / len(saved) if all(np.isfinite(saved)) else nan


def _survivors(with_transfer: Curves, without: Curves, threshold: float) -> float:
    pairs = zip(with_transfer, without, strict=True)
    saved = [_first(b, threshold) - _first(a, threshold) for a, b in pairs]
    kept = [one for one in saved if np.isfinite(one)]
    return sum(kept) / len(kept) if kept else nan


def _of_mean_curves(with_transfer: Curves, without: Curves, threshold: float) -> float:
    a, b = np.mean(with_transfer, 0).tolist(), np.mean(without, 0).tolist()
    return _saved([a], [b], threshold)


_WITH = [[0.1, 0.5, 0.6, 0.8, 0.9, 0.9], [0.2, 0.3, 0.7, 0.8, 0.8, 0.9]]
_WITHOUT = [[0.0, 0.8, 0.8, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.2, 0.5, 0.6]]

q2 = function(
    "ex-intro-threshold",
    _saved,
    lambda: [(_WITH, _WITHOUT, threshold) for threshold in (0.5, 0.3, 0.15, 0.75)],
    {
        "the sign is wrong: time saved is the time without transfer less the time with.": (
            lambda a, b, threshold: _saved(b, a, threshold)
        ),
        "a seed that never gets there has been left out, which makes the saving look certain.": (
            _survivors
        ),
        "this is the time of the mean curves; take the times by seed, then their mean.": (
            _of_mean_curves
        ),
        "a seed that never gets there is counted as if it did after its last epoch.": (
            lambda a, b, threshold: _saved(a, b, threshold, never=len(a[0]))
        ),
        "this is the saving summed over the seeds; the mean is asked for.": (
            lambda a, b, threshold: _saved(a, b, threshold) * len(a)
        ),
    },
)
