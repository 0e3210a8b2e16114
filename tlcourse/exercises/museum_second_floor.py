"""Checks of the exercises of chapter practice/museum-second-floor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tlcourse.exercises._question import function


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _report(validation: Sequence[float], test: Sequence[float]) -> float:
    return test[_best(validation)]


q1 = function(
    "ex-museum2-report",
    _report,
    lambda: [
        ([0.5, 0.8, 0.9, 0.7], [0.55, 0.85, 0.75, 0.65]),
        ([0.6, 0.6, 0.4], [0.5, 0.9, 0.1]),
        ([0.7], [0.3]),
    ],
    {
        "that is still chosen by the test.": lambda validation, test: max(test),
        "the last epoch is no choice. It may be a fair one, but validation data is there.": (
            lambda validation, test: test[-1]
        ),
        "that is the validation accuracy, by which the epoch was chosen: it is too high as well.": (
            lambda validation, test: max(validation)
        ),
        "of equal epochs the first is asked for.": (
            lambda validation, test: test[len(validation) - 1 - _best(validation[::-1])]
        ),
    },
)


def _factor(n_source: int, n_target: int, rounds: int) -> float:
    return 1 / (1 + math.sqrt(2 * math.log(n_source) / rounds))


q2 = function(
    "ex-museum2-beta",
    _factor,
    lambda: [(20, 5, 20), (1000, 5, 20), (1, 5, 20), (30, 400, 10)],
    {
        "that is the colleague's: it counts the target.": (
            lambda n_source, n_target, rounds: _factor(n_target, n_target, rounds)
        ),
        "at n = 1 it must be 1. Are both samples counted together?": (
            lambda n_source, n_target, rounds: _factor(n_source + n_target, n_target, rounds)
        ),
        "the root is missing.": (
            lambda n_source, n_target, rounds: 1 / (1 + 2 * math.log(n_source) / rounds)
        ),
        "that is the inverse: a factor below 1 is asked for.": (
            lambda n_source, n_target, rounds: 1 / _factor(n_source, n_target, rounds)
        ),
    },
)
