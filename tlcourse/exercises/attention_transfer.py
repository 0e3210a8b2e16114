"""Checks of the exercises of chapter methods/attention-transfer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlcourse.exercises._question import Question, function


def _same_value(A_S: Tensor, A_T: Tensor, beta_code: float) -> float:
    from tlcourse.matching import attention_transfer_loss

    code = attention_transfer_loss([A_S], [A_T], beta=beta_code, mode="code")
    paper = attention_transfer_loss([A_S], [A_T], beta=1.0, mode="paper")
    return float(code / paper)


def _distance(A_S: Tensor, A_T: Tensor) -> float:
    from tlcourse.matching import attention_transfer_loss

    return 2 * float(attention_transfer_loss([A_S], [A_T], beta=1.0, mode="paper"))


def _activations() -> list[tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(0)
    A_S, A_T = torch.randn(2, 1, 6, 4, 4, generator=draw)
    return [
        (
            torch.tensor([[[[2.0, 1.0], [0.0, 0.0]]]]),
            torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]]),
            1e3,
        ),
        (A_S, A_T, 30.0),
    ]


q1 = function(
    "ex-matching-beta",
    _same_value,
    _activations,
    {
        "this gives the same gradient; for the same value it is half of that.": (
            lambda A_S, A_T, beta: 2 * _same_value(A_S, A_T, beta)
        ),
        "the number of positions is missing: the code's form is a mean over them.": (
            lambda A_S, A_T, beta: _same_value(A_S, A_T, beta) * A_S.shape[2] * A_S.shape[3]
        ),
        "it is half as large as it should be: the paper's form has a factor 1/2.": (
            lambda A_S, A_T, beta: _same_value(A_S, A_T, beta) / 2
        ),
        "this goes from the paper's form to the code's; the other way is asked for.": (
            lambda A_S, A_T, beta: beta**2 / _same_value(A_S, A_T, beta)
        ),
        "the distance enters once: code over paper is d² over d.": (
            lambda A_S, A_T, beta: _same_value(A_S, A_T, beta) * _distance(A_S, A_T)
        ),
    },
)


def _judge_stages(answer: Any) -> str | None:
    try:
        found = [[float(error) for error in errors] for errors in answer]
    except (TypeError, ValueError):
        return "a list is asked for: for each of the three stages the list of its errors."
    if len(found) != 3:
        return f"three stages are asked for; got {len(found)}."
    if not all(found):
        return "a stage has no error at all: has a student been trained?"
    numbers = [error for errors in found for error in errors]
    if not 0 <= min(numbers) <= max(numbers) <= 100:
        return "an error lies outside 0 to 100 %."
    if max(numbers) <= 1:
        return "these look like fractions; per cent are asked for."
    if found[0] == found[1] == found[2]:
        return "the stages have the same errors: does `layers` reach `at`?"
    if min(numbers) > 70:
        return "these look like accuracies, or the students have not learnt; errors are asked for."
    return None


q2 = Question(
    "ex-matching-stage",
    _judge_stages,
    right=[[24.1], [22.8], [23.5]],
    wrong={
        "a list is asked for": 24.1,
        "three stages are asked for": [[24.1]],
        "a stage has no error": [[], [], []],
        "outside 0 to 100": [[2410.0], [2280.0], [2350.0]],
        "look like fractions": [[0.241], [0.228], [0.235]],
        "does `layers` reach": [[24.1], [24.1], [24.1]],
        "look like accuracies": [[75.9], [77.2], [76.5]],
    },
)
