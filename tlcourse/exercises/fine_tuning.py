"""Checks of the exercises of chapter methods/fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tlcourse.exercises._question import NotAttemptedError, Question, function, not_a_function


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


def _judge_mended(answer: Any) -> str | None:
    from tlcourse.models import SmallResNet

    if said := not_a_function(answer):
        return said
    torch.manual_seed(0)
    model = SmallResNet(3, in_channels=1, width=4)
    optimizer = torch.optim.Adam(model.head.parameters(), lr=3e-3)
    model(torch.rand(4, 1, 16, 16)).square().sum().backward()
    optimizer.step()
    moments = optimizer.state[model.head.weight]["exp_avg"].clone()
    found = answer(model, optimizer, ("backbone.stage3",))
    if found is None or found is ...:
        raise NotAttemptedError
    if not isinstance(found, torch.optim.Optimizer):
        return f"the optimiser is asked for, not {type(found).__name__}."
    held = {id(p) for group in found.param_groups for p in group["params"]}
    if not all(id(p) in held for p in model.head.parameters()):
        return "the optimiser does not move the head any more."
    if not all(id(p) in held for p in model.get_submodule("backbone.stage3").parameters()):
        return "the optimiser does not know the unfrozen stage yet."
    kept = found.state.get(model.head.weight, {}).get("exp_avg")
    if kept is None or not torch.equal(kept, moments):
        return "the momentum of the head is lost: add to the optimiser, do not make a new one."
    if any(id(p) in held for p in model.get_submodule("backbone.stage1").parameters()):
        return "it moves stage1 too, which is still to be frozen."
    return None


def _mended(how: str = "") -> Any:
    def mended(model: Any, optimizer: Any, unfrozen: Any) -> Any:
        new = [p for name in unfrozen for p in model.get_submodule(name).parameters()]
        if how == "anew":
            return torch.optim.Adam([*model.head.parameters(), *new])
        if how == "new alone":
            return torch.optim.Adam(new)
        if how == "all":
            new = list(model.backbone.parameters())
        if how != "flag":
            optimizer.add_param_group({"params": new, "lr": 1e-3})
        for parameter in new:
            parameter.requires_grad = True
        return new if how == "list" else optimizer

    return mended


q2 = Question(
    "ex-finetuning-optimiser",
    _judge_mended,
    right=_mended(),
    wrong={
        "does not know the unfrozen stage": _mended("flag"),
        "the momentum of the head is lost": _mended("anew"),
        "does not move the head": _mended("new alone"),
        "the optimiser is asked for": _mended("list"),
        "still to be frozen": _mended("all"),
    },
)


def _judge_inverted(answer: Any) -> str | None:
    import pandas as pd

    try:
        table = pd.DataFrame(answer).astype(float)
    except (TypeError, ValueError):
        return "a table is asked for: a column for each target, a row for each way."
    if table.shape != (2, 2):
        return "two targets and two ways are asked for: the head alone, and the pixels."
    if table.to_numpy().max() > 1:
        return "these look like per cent; `accuracy` returns fractions, leave them."
    if table.iloc[:, 0].equals(table.iloc[:, 1]):
        return "both columns are equal: are the images of the second one inverted?"
    return None


def _table(dark: float = 0.5, scale: float = 1.0) -> dict[str, dict[str, float]]:
    return {
        "white on black": {"head alone": 0.9 * scale, "pixels": 0.8 * scale},
        "black on white": {"head alone": dark * scale, "pixels": 0.8 * scale},
    }


q3 = Question(
    "ex-finetuning-inverted",
    _judge_inverted,
    right=_table(),
    wrong={
        "a table is asked for": "inverted",
        "two targets and two ways": {"white on black": {"head alone": 0.9}},
        "look like per cent": _table(scale=100),
        "both columns are equal": _table(dark=0.9),
    },
)
