"""Checks of the exercises of chapter methods/frozen-layers."""

from __future__ import annotations

from typing import Any

import torch

from tlcourse.exercises._question import Question, not_a_function


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


q1 = Question(
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
