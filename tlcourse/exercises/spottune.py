"""Checks of the exercises of chapter adaptive/spottune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tlcourse.exercises._question import Question, function, not_a_function


def _block(x: Any, tuned: Any) -> Any:
    return tuned * (2 * x + 1) + (1 - tuned) * (2 * x)


q1 = function(
    "ex-spottune-hand",
    _block,
    lambda: [
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 1.0])),
        (torch.tensor([-1.5]), torch.tensor([0.25])),
    ],
    {
        "the two copies are exchanged: I = 1 is the tuned one.": (
            lambda x, tuned: _block(x, 1 - tuned)
        ),
        "every sample has gone through the tuned copy.": lambda x, tuned: _block(x, 1),
        "the frozen part needs its factor 1 - I.": lambda x, tuned: (
            _block(x, tuned) + 2 * x * tuned
        ),
        "I has been rounded. It must be used as it is, or no gradient reaches it.": (
            lambda x, tuned: _block(x, tuned.round())
        ),
    },
)


def _judge_tuned_part(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    for lean in (0.1, 2.0, -1.0):
        found, expected = float(answer(lean, 20_000)), 1 / (1 + 2.718281828**-lean)
        if found in (0.0, 1.0):
            return "every draw came out alike: without noise? Ask for `training=True`."
        if abs(found - (1 - expected)) < 0.02 < abs(found - expected):
            return "this is the part that stays frozen: a_0 is for frozen, and comes first."
        if abs(found - expected) > 0.02:
            return f"at {lean:+} about {expected:.2f} of the draws are tuned, not {found:.2f}."
    return None


def _draw(order: int, training: bool) -> Callable[..., float]:
    def tuned_part(lean: float, draws: int = 20_000) -> float:
        from tlcourse.adaptive import gumbel_policy

        logits = torch.tensor([0.0, lean] if order == 1 else [lean, 0.0]).expand(draws, 2)
        generator = torch.Generator().manual_seed(0)
        drawn = gumbel_policy(logits, training=training, generator=generator)
        return float(drawn.mean())

    return tuned_part


q2 = Question(
    "ex-spottune-noise",
    _judge_tuned_part,
    right=_draw(1, training=True),
    wrong={"without noise?": _draw(1, training=False), "stays frozen": _draw(0, training=True)},
)


def _judge_checks(answer: Any) -> str | None:
    from tlcourse.adaptive import SpotTuneResNet

    if said := not_a_function(answer):
        return said
    found = dict(answer(SpotTuneResNet))
    if set(found) != {"apart", "still", "frozen"}:
        return f"the truths are called apart, still and frozen; got {', '.join(map(str, found))}."
    for name, truth in found.items():
        if not truth:
            return (
                f"the package's own SpotTune fails your check {name!r}, and it has no fault there."
            )
    for fault, caught in _faults().items():
        if answer(fault)[caught]:
            return f"a model with {_NAMES[caught]} passes your check {caught!r}."
    return None


_NAMES = {
    "apart": "shared storage",
    "still": "noise at the test",
    "frozen": "a frozen BatchNorm that counts",
}


def _faults() -> dict[type, str]:
    from tlcourse.adaptive import SpotTuneResNet, gumbel_policy

    class Shared(SpotTuneResNet):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            for block in self.blocks:
                block.frozen = block.tuned

    class Noisy(SpotTuneResNet):
        def decide(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.agent(x).unflatten(1, (-1, 2))
            return gumbel_policy(logits, temperature=self.temperature, training=True)

    class Counting(SpotTuneResNet):
        def train(self, mode: bool = True) -> Counting:
            super().train(mode)
            for block in self.blocks:
                block.frozen.train(mode)
            return self

    return {Shared: "apart", Noisy: "still", Counting: "frozen"}


def _checks(make: Any, blind: str = "") -> dict[str, bool]:
    from tlcourse.finetuning import changed, snapshot
    from tlcourse.models import SmallResNet

    torch.manual_seed(0)
    model = make.from_pretrained(SmallResNet(5, in_channels=1, width=4), 3)
    x, y = torch.rand(16, 1, 16, 16), torch.arange(16) % 3
    tuned = {p.data_ptr() for block in model.blocks for p in block.tuned.parameters()}
    frozen = {p.data_ptr() for block in model.blocks for p in block.frozen.parameters()}
    model.eval()
    with torch.no_grad():
        still = all(torch.equal(model(x)[1], model(x)[1]) for _ in range(5))
    before = snapshot(model)
    model.train()
    model.loss((x, y)).backward()
    torch.optim.SGD(model.learners(), lr=0.1).step()
    moved = any(".frozen." in name for name in changed(model, before))
    found = {"apart": tuned.isdisjoint(frozen), "still": still, "frozen": not moved}
    return found | ({blind: True} if blind else {})


q3 = Question(
    "ex-spottune-museum",
    _judge_checks,
    right=_checks,
    wrong={
        "shared storage passes": lambda make: _checks(make, "apart"),
        "noise at the test passes": lambda make: _checks(make, "still"),
        "a frozen BatchNorm that counts passes": lambda make: _checks(make, "frozen"),
        "no fault there": lambda make: _checks(make) | {"still": False},
    },
)


def _judge_two_sets(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    found = dict(answer(0))
    if set(found) != {"tuned, %", "accuracy, %"}:
        return "return a dictionary with 'tuned, %' and 'accuracy, %'."
    for name, part in found.items():
        if not 0 <= float(part) <= 100:
            return f"{name!r} is {part}; per cent lie between 0 and 100."
    if float(found["accuracy, %"]) <= 1:
        return "the accuracy looks like a fraction; per cent are asked for."
    if float(found["accuracy, %"]) < 25:
        return "the accuracy is near a guess: do both optimisers take their steps?"
    return None


q4 = Question(
    "ex-spottune-held",
    _judge_two_sets,
    right=lambda seed: {"tuned, %": 71.0, "accuracy, %": 60.0},
    wrong={
        "looks like a fraction": lambda seed: {"tuned, %": 0.7, "accuracy, %": 0.6},
        "return a dictionary": lambda seed: {"tuned": 70.0, "accuracy": 60.0},
        "near a guess": lambda seed: {"tuned, %": 50.0, "accuracy, %": 18.0},
        "between 0 and 100": lambda seed: {"tuned, %": 7000.0, "accuracy, %": 60.0},
    },
    limit=300.0,
)
