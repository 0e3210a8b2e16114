"""Checks of the exercises of chapter practice/museum-of-mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlcourse.exercises._question import Question, function, not_a_function


def _progress(step: int, steps: int, epoch: int, epochs: int) -> float:
    return (step + epoch * steps) / (epochs * steps)


q1 = function(
    "ex-museum-progress",
    _progress,
    lambda: [(0, 50, 0, 20), (1, 50, 0, 20), (0, 50, 10, 20), (49, 50, 19, 20), (3, 7, 2, 5)],
    {
        "in the first epoch it goes beyond 1: the step counts whole.": (
            lambda step, steps, epoch, epochs: step + epoch / epochs
        ),
        "it begins again with every epoch.": lambda step, steps, epoch, epochs: step / steps,
        "it stands still within an epoch.": lambda step, steps, epoch, epochs: epoch / epochs,
        "at the end it is far beyond 1: the divisor needs a bracket.": (
            lambda step, steps, epoch, epochs: (step + epoch * steps) / epochs * steps
        ),
        "a step counts as much as a whole epoch.": (
            lambda step, steps, epoch, epochs: (step + epoch) / epochs
        ),
    },
)


def _judge_passes(answer: Any) -> str | None:
    from tlcourse.adaptation import mmd2

    if said := not_a_function(answer):
        return said
    if not answer(mmd2):
        return "the package's own `mmd2` does not pass, and it has no fault."
    for name, fault in _faults().items():
        if answer(fault):
            return f"{name} passes your test."
    return None


def _faults() -> dict[str, Callable[..., Any]]:
    from tlcourse.adaptation import mmd2

    def lifted(x: Any, y: Any, bandwidth: float) -> Any:
        return mmd2(x, y, bandwidth) + 2 / (len(x) - 1)

    def held_at_0(x: Any, y: Any, bandwidth: float) -> Any:
        return mmd2(x, y, bandwidth).clamp_min(0)

    def silent(x: Any, y: Any, bandwidth: float) -> Any:
        return 0 * mmd2(x, y, bandwidth)

    return {
        "an estimate that is lifted by 2 / (n - 1)": lifted,
        "an estimate that is held at 0": held_at_0,
        "a loss that is always 0": silent,
    }


def _passes(mmd: Callable[..., Any], blind: str = "") -> bool:
    import torch

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400, 8, 3, generator=draw)  # (400, 8, 3) each
    same = torch.tensor([float(mmd(a, b, 4.0)) for a, b in zip(x, y, strict=True)])
    other = torch.tensor([float(mmd(a, b + 1, 4.0)) for a, b in zip(x, y, strict=True)])
    error = same.std() / 20
    near_0 = bool(same.mean().abs() <= 4 * error)
    if blind == "up":
        near_0 = bool(same.mean() >= -4 * error)
    seen = bool(other.mean() > 0.1) or blind == "silent"
    return near_0 and seen


q2 = Question(
    "ex-museum-test",
    _judge_passes,
    right=_passes,
    wrong={
        "lifted by 2 / (n - 1) passes": lambda mmd: _passes(mmd, "up"),
        "held at 0 passes": lambda mmd: bool(_faults_held(mmd)),
        "always 0 passes": lambda mmd: _passes(mmd, "silent"),
        "it has no fault": lambda mmd: False,
    },
)


def _faults_held(mmd: Callable[..., Any]) -> bool:
    """Ask as `_passes` does, with a margin that half of what noise gives fits into."""
    import torch

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400, 8, 3, generator=draw)
    same = torch.tensor([float(mmd(a, b, 4.0)) for a, b in zip(x, y, strict=True)])
    other = torch.tensor([float(mmd(a, b + 1, 4.0)) for a, b in zip(x, y, strict=True)])
    return bool(same.mean().abs() < 0.1 and other.mean() > 0.1)
