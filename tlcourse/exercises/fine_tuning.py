"""Checks of the exercises of chapter methods/fine-tuning."""

from __future__ import annotations

from typing import Any

from torch import nn

from tlcourse.exercises._question import Question, function


def _rates(lr: float, decay: float, n: int) -> list[float]:
    from tlcourse.finetuning import layerwise_parameter_groups

    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(n)])
    groups = layerwise_parameter_groups(model, [[str(i)] for i in range(n)], lr, decay)
    return [float(group["lr"]) for group in groups]


q1 = function(
    "ex-finetuning-rates",
    _rates,
    lambda: [(30.0, 3.0, 4), (100.0, 10.0, 3), (7.0, 2.0, 2)],
    {
        "the head has the smallest rate: the earliest group comes first in the list.": (
            lambda lr, decay, n: _rates(lr, decay, n)[::-1]
        ),
        "the last group's rate is `lr` itself: its exponent is 0, so L is n - 1.": (
            lambda lr, decay, n: [rate / decay for rate in _rates(lr, decay, n)]
        ),
        "the rates grow away from the head: divide by the power, do not multiply.": (
            lambda lr, decay, n: [lr * decay ** (n - 1 - i) for i in range(n)]
        ),
        "the steps must be powers of `decay`, not multiples.": lambda lr, decay, n: [
            lr / (decay * (n - 1 - i) or 1) for i in range(n)
        ],
        "every group has the same rate: where does the group's number enter?": (
            lambda lr, decay, n: [lr] * n
        ),
    },
    tolerance=1e-6,
)


def _judge_inverted(answer: Any) -> str | None:
    import pandas as pd

    try:
        runs = pd.DataFrame(answer).astype(float)
    except (TypeError, ValueError):
        return "a table is asked for: a row for each seed, a column for each way."
    if "from scratch" not in runs.columns or len(runs.columns) < 3:
        return "the columns are the ways that `all_ways` returns; a row is what it returns."
    if len(runs) != 3:
        return f"three seeds are asked for; the table has {len(runs)} rows."
    if len(runs.drop_duplicates()) == 1:
        return "the three rows are equal: does each use its own seed?"
    if runs.to_numpy().max() > 1:
        return "these look like per cent; `all_ways` returns fractions, leave them."
    return None


def _runs(scale: float = 1.0, n: int = 3, step: float = 0.01) -> list[dict[str, float]]:
    ways = {"nothing": 0.5, "from scratch": 0.4, "pixels": 0.45}
    return [{way: scale * (a + i * step) for way, a in ways.items()} for i in range(n)]


_rows: dict[str, Any] = {
    "a table is asked for": "inverted",
    "the columns are the ways": [{"nothing": 0.5}] * 3,
    "three seeds": _runs(n=1),
    "its own seed": _runs(step=0),
    "look like per cent": _runs(scale=100),
}

q2 = Question("ex-finetuning-inverted", _judge_inverted, right=_runs(), wrong=_rows)
