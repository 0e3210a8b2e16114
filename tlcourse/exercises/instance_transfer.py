"""Checks of the exercises of chapter adaptive/instance-transfer."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlcourse.exercises._question import Question, function, not_a_function


def _update(
    w: Any, wrong: Any, n_source: int, rounds: int, *, slip: str = "", scaled: bool = True
) -> Any:
    w, wrong = np.array(w, float), np.array(wrong, float)
    source, target = w[:n_source], w[n_source:]
    of_source, of_target = wrong[:n_source], wrong[n_source:]
    asked, missed = (w, wrong) if slip == "all" else (target, of_target)
    e = (asked * missed).sum() / asked.sum()
    if slip == "bracket":
        beta = 1 / (1 + np.sqrt(2 * np.log(n_source / rounds)))
    else:
        beta = 1 / (1 + np.sqrt(2 * np.log(n_source) / rounds))
    beta_t = e / (2 - e) if slip == "two" else e / (1 - e)
    if slip == "exchanged":
        source, target = source * beta**-of_source, target * beta_t**of_target
    else:
        source, target = source * beta**of_source, target * beta_t**-of_target
    found = np.concatenate([source, target])
    return found / found.sum() if scaled else found


q1 = function(
    "ex-instances-round",
    _update,
    lambda: [
        (np.full(8, 1 / 8), [1, 1, 0, 0, 1, 0, 0, 0], 4, 10),
        (np.array([0.2, 0.1, 0.3, 0.1, 0.2, 0.1]), [0, 1, 1, 0, 1, 0], 3, 5),
    ],
    {
        "the sum is not 1: divide by it at the end.": (
            lambda w, wrong, n, N: _update(w, wrong, n, N, scaled=False)
        ),
        "the error counts the source, too; it is of the target alone.": (
            lambda w, wrong, n, N: _update(w, wrong, n, N, slip="all")
        ),
        "a wrong source sample gains: the two factors are on the wrong sides.": (
            lambda w, wrong, n, N: _update(w, wrong, n, N, slip="exchanged")
        ),
        "beta_t is e / (1 - e).": lambda w, wrong, n, N: _update(w, wrong, n, N, slip="two"),
    },
)


def _faults(update: Any, blind: str = "") -> dict[str, bool]:
    wrong = np.zeros(14)
    wrong[[0, 10]] = 1
    w = np.asarray(update(np.full(14, 1 / 14), wrong, 10, 10))
    found = {
        "half": bool(np.isclose(w[10] / w[10:].sum(), 0.5)),
        "falls": bool(w[0] < 0.99 * w[1]),
    }
    return found | ({blind: True} if blind else {})


_FORMULAS = {
    "half": ("e / (2 - e)", lambda *a: _update(*a, slip="two")),
    "falls": ("the bracket ln(n_S / N)", lambda *a: _update(*a, slip="bracket")),
}


def _judge_faults(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    found = dict(answer(_update))
    if set(found) != {"half", "falls"}:
        return f"the truths are called half and falls; got {', '.join(map(str, found))}."
    for name, truth in found.items():
        if not truth:
            return f"the right formula fails your check {name!r}."
    for name, (said, formula) in _FORMULAS.items():
        if answer(formula)[name]:
            return f"{said} passes your check {name!r}."
    return None


q2 = Question(
    "ex-instances-museum",
    _judge_faults,
    right=_faults,
    wrong={
        "e / (2 - e) passes": lambda update: _faults(update, "half"),
        "the bracket ln(n_S / N) passes": lambda update: _faults(update, "falls"),
        "the right formula fails": lambda update: {"half": False, "falls": True},
        "called half and falls": lambda update: {"half": True},
    },
)


def _judge_opposite(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    found = {name: float(gain) for name, gain in dict(answer(0)).items()}
    if set(found) != {"both", "reject", "pull"}:
        return f"the gains are called both, reject and pull; got {', '.join(found)}."
    if max(abs(gain) for gain in found.values()) < 1 and found["both"] != 0:
        return "these look like fractions; points, of a hundred, are asked for."
    if found["both"] > 5:
        return "both together gains? A gain is an accuracy less that without; an error is not."
    if found["both"] > -5:
        return "both together is hardly hurt: have the names been exchanged?"
    if found["pull"] < -8:
        return "the pull has hardly been chosen: are 0 and the target's samples among the choices?"
    return None


q3 = Question(
    "ex-instances-opposite",
    _judge_opposite,
    right=lambda seed: {"both": -50.0, "reject": -3.0, "pull": -0.5},
    wrong={
        "look like fractions": lambda seed: {"both": -0.5, "reject": -0.03, "pull": -0.01},
        "both together gains": lambda seed: {"both": 50.0, "reject": 3.0, "pull": 0.5},
        "have the names been exchanged": lambda seed: {"both": -1.5, "reject": 0.0, "pull": 0.5},
        "hardly been chosen": lambda seed: {"both": -50.0, "reject": -3.0, "pull": -40.0},
        "called both, reject and pull": lambda seed: {"both": -50.0},
    },
    limit=120.0,
)
