"""Checks of the exercises of chapter methods/frozen-layers."""

from __future__ import annotations

from math import ceil, log
from typing import Any

import torch

from tlcourse.exercises._question import Question, function, not_a_function


def _batches(a: float, part: float) -> int:
    """Return the number of batches, one after the other."""
    left, k = 1.0, 0
    while left > part:
        left, k = left * (1 - a), k + 1
    return k


q1 = function(
    "ex-frozen-half",
    _batches,
    lambda: [(0.1, 0.5), (0.01, 0.5), (0.3, 0.05)],
    {
        "this is one too few: what is left after it is more than `part`.": lambda a, part: (
            _batches(a, part) - 1
        ),
        "a whole number of batches is asked for: round up.": lambda a, part: log(part) / log(1 - a),
        "each batch takes a part of what is left, not of the whole.": lambda a, part: ceil(
            (1 - part) / a
        ),
        "1 - a is what stays: its power is compared with `part`, not that of a.": (
            lambda a, part: ceil(log(part) / log(a))
        ),
    },
)


def _leaking() -> Any:
    """Return a network whose backbone is frozen as the exercise has it."""
    from tlcourse.models import SmallResNet

    torch.manual_seed(0)
    model = SmallResNet(3, in_channels=1, width=4).train()
    model.backbone.eval()
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    return model


def _judge_mend(answer: Any) -> str | None:
    from tlcourse.finetuning import audit, changed, snapshot

    if said := not_a_function(answer):
        return said
    model = _leaking()
    drifting = set(audit(model).drifting)
    named = answer(model)
    if isinstance(named, str) or not all(isinstance(name, str) for name in named):
        return "the names of the tensors are asked for, such as 'backbone.stem.1.running_mean'."
    if not set(named):
        return "no tensor is named: ask before you mend."
    if set(named) & {name for name, _ in model.named_parameters()}:
        return "weights rest: they have no gradient. What does a BatchNorm count without one?"
    if set(named) != drifting:
        return f"{len(drifting)} tensors of the backbone drift; {len(set(named))} are named."
    if not any(p.requires_grad for p in model.head.parameters()):
        return "the head is frozen too, and nothing learns any more."
    before = snapshot(model.backbone)
    model.train()
    model(torch.rand(8, 1, 16, 16))
    if moved := changed(model.backbone, before):
        return f"after the next `model.train()` {moved[0]} moves still."
    return None


def _mended(how: str = "") -> Any:
    def mend(model: Any) -> Any:
        from tlcourse.finetuning import audit, freeze

        named = audit(model).drifting
        if how == "eval":
            model.backbone.eval()
        else:
            freeze(model if how == "all" else model.backbone)
        answers = {
            "late": audit(model).drifting,
            "weights": [f"backbone.{name}" for name, _ in model.backbone.named_parameters()],
            "means": [name for name in named if name.endswith("running_mean")],
            "text": "BatchNorm",
        }
        return answers.get(how, named)

    return mend


q2 = Question(
    "ex-finetuning-leak",
    _judge_mend,
    right=_mended(),
    wrong={
        "moves still": _mended("eval"),
        "ask before you mend": _mended("late"),
        "weights rest": _mended("weights"),
        "are named": _mended("means"),
        "the head is frozen too": _mended("all"),
        "the names of the tensors are asked for": _mended("text"),
    },
)


def _way(mu: float, steps: int = 5000) -> float:
    """Return the sum of what is left of the momentum, step by step."""
    velocity, way = 1.0, 0.0
    for _ in range(steps):
        velocity *= mu
        way += 0.01 * velocity
    return way


q3 = function(
    "ex-frozen-momentum",
    _way,
    lambda: [(0.9, 200), (0.99, 100)],
    {
        "the sign is wrong: the way is how far the weight gets.": lambda mu, steps: (
            -_way(mu, steps)
        ),
        "the momentum is multiplied by mu before the first step as well.": lambda mu, steps: (
            _way(mu, steps) / mu
        ),
        "the rate of 0.01 is missing.": lambda mu, steps: 100 * _way(mu, steps),
        "this is the way for ever; `steps` of them are asked for.": lambda mu, steps: (
            0.01 * mu / (1 - mu)
        ),
        "the weight has not moved: has it a gradient, and the optimiser its momentum?": (
            lambda mu, steps: 0.0
        ),
    },
    tolerance=1e-8,
)
