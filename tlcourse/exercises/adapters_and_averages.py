"""Checks of the exercises of chapter methods/adapters-and-averages."""

from __future__ import annotations

from typing import Any

from tlcourse.exercises._question import Question, function, value


def _numbers(n_out: int, n_in: int, r: int) -> int:
    from torch import nn

    narrow = nn.Linear(n_in, r, bias=False), nn.Linear(r, n_out, bias=False)
    return sum(p.numel() for layer in narrow for p in layer.parameters())


q1 = function(
    "ex-adapter-count",
    _numbers,
    lambda: [(40, 60, 8), (7, 5, 2)],
    {
        "this is the whole matrix; the adapter has A and B alone.": lambda o, i, r: o * i,
        "A has r rows of n_in and B n_out rows of r: add, do not multiply.": lambda o, i, r: (
            r * o * i
        ),
        "this is one of the two matrices, A.": lambda o, i, r: r * i,
        "A and B have no bias.": lambda o, i, r: r * (o + i) + r + o,
    },
    tolerance=1e-9,
)

q2 = value(
    "ex-adapter-zeros",
    {"random": "B", "zero": "neither"},
    {
        "with B = 0 the gradient in A, which has the factor B, is 0 too.": {
            "random": "both",
            "zero": "neither",
        },
        "A and B are exchanged: each gradient has the *other* matrix as a factor.": {
            "random": "A",
            "zero": "neither",
        },
        "with A = 0 the gradient in B, which has the factor A, is 0.": {
            "random": "B",
            "zero": "B",
        },
    },
)


def _judge_taken(answer: Any) -> str | None:
    try:
        taken = float(answer)
    except (TypeError, ValueError):
        return "a number is asked for: how many of the four runs the greedy soup takes."
    if taken not in (1, 2, 3, 4):
        return "the best run is always taken, and there are four: 1 to 4."
    if taken == 4:
        return "the ruined run is in: is a candidate kept only if the soup gets no worse?"
    return None


q3 = Question(
    "ex-adapter-greedy",
    _judge_taken,
    right=3,
    wrong={
        "a number is asked for": [0.9, 0.8],
        "the best run is always taken": 0,
        "the ruined run is in": 4,
    },
)
