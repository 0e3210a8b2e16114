"""Checks of the exercises of chapter methods/jacobian-matching."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, isfinite, sin
from typing import Any

import torch
from torch import Tensor

from tlcourse.exercises._question import NotAttemptedError, Question, not_a_function


def _judge_point(answer: Any) -> str | None:
    if not isinstance(answer, Tensor) or answer.shape != (2,):
        return "a tensor of two numbers is asked for, torch.tensor([x_1, x_2])."
    x, y = (float(one) for one in answer)
    g = sin(1.3 * x) * exp(0.5 * y) + 0.4
    if abs(g) < 1e-6:
        return None
    if abs(sin(x) * exp(0.5 * y) + 0.4) < 1e-6:
        return "the arcsine is 1.3 x_1: divide it by 1.3."
    if abs(g - 0.8) < 1e-6:
        return "the sign is wrong: the sine must be -0.4, so that g is 0."
    return f"g is {g:.3g} there. (In float64 it can be 0 to ten digits.)"


def _at(x: float) -> Tensor:
    return torch.tensor([x, 0.0], dtype=torch.float64)


_ARC = -0.41151684606748806  # the arcsine of -0.4

q1 = Question(
    "ex-jacobian-noise",
    _judge_point,
    right=_at(_ARC / 1.3),
    wrong={
        "divide it by 1.3": _at(_ARC),
        "the sign is wrong": _at(-_ARC / 1.3),
        "a tensor of two numbers": _ARC / 1.3,
    },
)


def _rows_apart(graph: bool) -> Callable[..., Tensor]:
    def loss(student: Any, teacher: Any, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        rows = [
            torch.autograd.grad(f(x)[:, 0].sum(), x, create_graph=graph)[0]
            for f in (student, teacher)
        ]
        return (rows[0] - rows[1]).square().sum(1).mean()

    return loss


def _judge_teaches(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    silent, right = answer(_rows_apart(graph=False)), answer(_rows_apart(graph=True))
    if silent is None or silent is ...:
        raise NotAttemptedError
    if not isinstance(silent, bool) or not isinstance(right, bool):
        return "True or False is asked for."
    if silent and not right:
        return "the two answers are exchanged: True where the gradient differs."
    if silent:
        return "a loss without a history passes: compare the gradients, not the values."
    return None if right else "the loss with `create_graph=True` does teach, and fails here."


def _teaches(what: str = "") -> Any:
    def teaches(loss: Any) -> Any:
        torch.manual_seed(0)
        one, two = (
            torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
            for _ in range(2)
        )
        found = loss(one, two, torch.randn(5, 4))
        number = float(found.detach())
        answers = {
            "value": number > 0,
            "exchanged": not found.requires_grad,
            "never": False,
            "number": number,
        }
        return answers.get(what, bool(found.requires_grad))

    return teaches


q2 = Question(
    "ex-jacobian-bug",
    _judge_teaches,
    right=_teaches(),
    wrong={
        "compare the gradients, not the values": _teaches("value"),
        "are exchanged": _teaches("exchanged"),
        "does teach, and fails here": _teaches("never"),
        "True or False is asked for": _teaches("number"),
    },
)


def _judge_ratio(answer: Any) -> str | None:
    try:
        ratio = float(answer)
    except (TypeError, ValueError):
        return "a number is asked for: the error with slopes over that without."
    if not isfinite(ratio) or ratio <= 0:
        return "a ratio of two errors lies above 0."
    if ratio == 1:
        return "both errors are equal: does the weight of the slopes differ?"
    return "so large a ratio? Divide the error with slopes by that without." if ratio > 20 else None


q3 = Question(
    "ex-sobolev-dimensions",
    _judge_ratio,
    right=0.4,
    wrong={
        "a number is asked for": [0.4, 0.6],
        "both errors are equal": 1.0,
        "lies above 0": -0.3,
        "so large a ratio": 40.0,
    },
)
