"""Checks of the exercises of chapter methods/attention-transfer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlcourse.exercises._question import Question, function, value


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
    "ex-attention-beta",
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


def _mended(A_S: Tensor, A_T: Tensor) -> float:
    from tlcourse.matching import attention_transfer_loss

    return float(attention_transfer_loss([A_S], [A_T], beta=1.0, mode="paper"))


def _of_the_batch(A_S: Tensor, A_T: Tensor) -> float:
    Q_S, Q_T = (A.square().sum(1) for A in (A_S, A_T))
    return float((Q_S / Q_S.norm() - Q_T / Q_T.norm()).norm() / 2)


def _batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(4)
    A_S, A_T = torch.randn(2, 3, 5, 4, 4, generator=draw)
    scale = torch.tensor([1.0, 0.1, 3.0]).view(3, 1, 1, 1)
    return [(A_S[:1], A_T[:1]), (A_S * scale, A_T * scale)]


q2 = function(
    "ex-attention-bug",
    _mended,
    _batches,
    {
        "the length is still that of the whole batch: dim images count for nothing.": _of_the_batch,
        "the factor 1/2 of the paper's form is missing.": lambda A_S, A_T: 2 * _mended(A_S, A_T),
        "it is the sum over the images; the mean is asked for.": lambda A_S, A_T: (
            len(A_S) * _mended(A_S, A_T)
        ),
    },
)


def _judge_differences(answer: Any) -> str | None:
    try:
        found = [float(one) for one in answer]
    except (TypeError, ValueError):
        return "a list is asked for: the differences, seed by seed."
    if len(found) < 3:
        return f"all seeds of the chapter are asked for; got {len(found)}."
    if not any(found):
        return "every difference is 0: has the student of the last stage been trained anew?"
    if min(found) > 8:
        return "these look like errors; subtract those of the students with all three stages."
    return None


q3 = Question(
    "ex-attention-stage",
    _judge_differences,
    right=[0.6, -0.4, 1.1],
    wrong={
        "a list is asked for": 0.4,
        "all seeds of the chapter": [0.6],
        "trained anew": [0.0, 0.0, 0.0],
        "these look like errors": [21.4, 22.0, 23.1],
    },
)

q4 = value(
    "ex-attention-sanity",
    [1.0, 1.0],
    {
        "the teacher's pictures are its own: the cosine, not its distance from 1, is asked for.": (
            [0.0, 0.0]
        ),
        "a mean is asked for, not a sum over the images.": [2.0, 2.0],
    },
    tolerance=1e-3,
)
