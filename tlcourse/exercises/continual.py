"""Checks of the exercises of chapter methods/continual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlcourse.exercises._question import Question, function

Matrix = list[list[float]]


def _fallen(R: Matrix) -> float:
    from tlcourse.continual import forgetting

    return forgetting(torch.tensor(R))


def _falls(R: Matrix, *, best_of: str = "before") -> list[float]:
    last = len(R) - 1
    best = {
        "before": lambda j: max(R[i][j] for i in range(j, last)),
        "learnt": lambda j: R[j][j],
        "with last": lambda j: max(R[i][j] for i in range(j, last + 1)),
    }[best_of]
    return [best(j) - R[last][j] for j in range(last)]


def _mean(falls: list[float]) -> float:
    return sum(falls) / len(falls)


q1 = function(
    "ex-continual-matrix",
    _fallen,
    lambda: [
        ([[0.8, 0.0, 0.0], [0.9, 0.7, 0.0], [0.8, 0.7, 0.9]],),
        ([[0.9, 0.1, 0.2, 0.0], [0.7, 0.8, 0.1, 0.1], [0.6, 0.9, 0.7, 0.3], [0.5, 0.3, 0.8, 0.9]],),
    ],
    {
        "this starts from R[j][j], as backward transfer does; forgetting starts from the best.": (
            lambda R: _mean(_falls(R, best_of="learnt"))
        ),
        "the last row is among the candidates for the best: then nothing can ever have risen.": (
            lambda R: _mean(_falls(R, best_of="with last"))
        ),
        "the last task cannot be forgotten yet: divide by the number of tasks less one.": (
            lambda R: sum(_falls(R)) / len(R)
        ),
        "this is the sum; the mean over the earlier tasks is asked for.": lambda R: sum(_falls(R)),
        "the sign is wrong: forgetting is positive where an accuracy has fallen.": (
            lambda R: -_mean(_falls(R))
        ),
        "rows and columns are exchanged: R[i][j] is task j after step i.": (
            lambda R: _mean(_falls([list(column) for column in zip(*R, strict=True)]))
        ),
    },
)


def _largest_gradient(z_hat: Tensor, z: Tensor) -> float:
    """Return the largest entry of (y_hat' - y') / (T N) at T = 2."""
    apart = torch.softmax(z_hat / 2, 1) - torch.softmax(z / 2, 1)
    return float(apart.abs().max()) / (2 * len(z))


def _answers() -> list[tuple[Tensor, Tensor]]:
    z_hat, z = 3 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    return [(3 * torch.eye(4), torch.zeros(4, 4)), (z, z), (z_hat, z)]


q2 = function(
    "ex-continual-late",
    _largest_gradient,
    _answers,
    {
        "the mean over the images is missing: divide by their number.": lambda z_hat, z: (
            len(z) * _largest_gradient(z_hat, z)
        ),
        "the 1 / T of the softened answers is missing.": lambda z_hat, z: (
            2 * _largest_gradient(z_hat, z)
        ),
        "the factor T² is distillation's; learning without forgetting has none.": (
            lambda z_hat, z: 4 * _largest_gradient(z_hat, z)
        ),
        "the answers must be softened: this is the gradient at T = 1.": lambda z_hat, z: float(
            (torch.softmax(z_hat, 1) - torch.softmax(z, 1)).abs().max() / len(z)
        ),
        "this is 0 whatever was recorded: has `z_hat` been put in the place of `z`?": (
            lambda z_hat, z: 0.0
        ),
    },
    tolerance=1e-5,
)


def _judge_weights(answer: Any) -> str | None:
    import pandas as pd

    try:
        tables = {float(weight): pd.DataFrame(table) for weight, table in dict(answer).items()}
    except (TypeError, ValueError):
        return "a dictionary is asked for: a table for each of the weights 1 and 1000."
    if set(tables) != {1.0, 1000.0}:
        return f"the weights are 1 and 1000; got {', '.join(f'{w:g}' for w in tables)}."
    for weight, table in tables.items():
        if not {"old", "new"} <= set(table.columns):
            return f"the table of weight {weight:g} needs the columns 'old' and 'new'."
        if len(table) != 3:
            return f"three seeds are asked for; weight {weight:g} has {len(table)}."
        if len(table[["old", "new"]].drop_duplicates()) == 1:
            return f"the rows of weight {weight:g} are equal: does each use its own seed?"
        if table[["old", "new"]].to_numpy().max() > 1:
            return "these look like per cent; `learn_digits` returns fractions, leave them."
    low, high = tables[1.0][["old", "new"]], tables[1000.0][["old", "new"]]
    if low.to_numpy().tolist() == high.to_numpy().tolist():
        return "both weights have the same accuracies: does `old_weight` reach `learn_digits`?"
    if high["old"].mean() < low["old"].mean() - 0.02:
        return "the larger weight keeps less of the old task: are the two tables exchanged?"
    return None


def _tables(old: float = 0.9, new: float = 0.7, step: float = 0.01, n: int = 3) -> list[Any]:
    return [{"old": old + i * step, "new": new - i * step} for i in range(n)]


q3 = Question(
    "ex-continual-weight",
    _judge_weights,
    right={1.0: _tables(0.8, 0.9), 1000.0: _tables()},
    wrong={
        "a dictionary is asked for": 0.9,
        "the weights are 1 and 1000": {1.0: _tables(), 10.0: _tables()},
        "needs the columns": {1.0: [{"old": 0.9}] * 3, 1000.0: _tables()},
        "three seeds": {1.0: _tables(n=1), 1000.0: _tables(n=1)},
        "its own seed": {1.0: _tables(step=0), 1000.0: _tables()},
        "look like per cent": {1.0: _tables(80, 90, 1), 1000.0: _tables(90, 70, 1)},
        "does `old_weight` reach": {1.0: _tables(), 1000.0: _tables()},
        "tables exchanged": {1.0: _tables(), 1000.0: _tables(0.8, 0.9)},
    },
)
