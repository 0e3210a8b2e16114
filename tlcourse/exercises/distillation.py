"""Checks of the exercises of chapter methods/distillation."""

from __future__ import annotations

from typing import Any

import torch

from tlcourse.exercises._question import Question, function


def _logits() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(5, 10, generator=draw), 4 * torch.randn(5, 10, generator=draw)


def _soft_gradient(z: torch.Tensor, v: torch.Tensor, temperature: float) -> torch.Tensor:
    from tlcourse.distillation import distillation_loss

    z = z.detach().clone().requires_grad_()
    loss = distillation_loss(z, v, temperature=temperature)
    (slope,) = torch.autograd.grad(loss, z)
    return slope


q1 = function(
    "ex-distillation-gradient",
    _soft_gradient,
    lambda: [(*_logits(), temperature) for temperature in (1.0, 4.0, 10.0)],
    {
        "it is T² times too small: the loss is T² C, and its gradient has the factor too.": (
            lambda z, v, T: _soft_gradient(z, v, T) / T**2
        ),
        "it is T times too small: of T² one T is left after the 1 / T of the gradient.": (
            lambda z, v, T: _soft_gradient(z, v, T) / T
        ),
        "it is T times too large: the gradient of C has a 1 / T.": (
            lambda z, v, T: _soft_gradient(z, v, T) * T
        ),
        "the mean over the batch is missing: divide by the number of samples.": (
            lambda z, v, T: _soft_gradient(z, v, T) * len(z)
        ),
        "the sign is wrong: it is student minus teacher.": (
            lambda z, v, T: -_soft_gradient(z, v, T)
        ),
        "it is the gradient at T = 1 for every temperature.": (
            lambda z, v, T: _soft_gradient(z, v, 1.0)
        ),
    },
)


def _smallest(z: torch.Tensor, v: torch.Tensor, tolerance: float = 0.1, *, first: int = 1) -> int:
    from tlcourse.distillation import check_derivation

    candidates = [float(T) for T in range(first, 200)]
    errors = check_derivation(z, v, candidates).high_temperature_error
    return next(int(T) for T, e in zip(candidates, errors, strict=True) if e < tolerance)


q2 = function(
    "ex-distillation-temperature",
    _smallest,
    lambda: [_logits(), (*_logits(), 0.05)],
    {
        "the tolerance has no effect: compare with `tolerance`, not with 0.1.": (
            lambda z, v, tolerance=0.1: _smallest(z, v)
        ),
        "this is one too many: the first temperature within the tolerance is asked for.": (
            lambda z, v, tolerance=0.1: _smallest(z, v, tolerance) + 1
        ),
        "this is the last one outside the tolerance; the first one within it is asked for.": (
            lambda z, v, tolerance=0.1: _smallest(z, v, tolerance) - 1
        ),
    },
)


def _judge_widths(answer: Any) -> str | None:
    try:
        found = {float(T): [float(e) for e in errors] for T, errors in dict(answer).items()}
    except (TypeError, ValueError):
        return "a dictionary is asked for: each temperature with the errors of its students."
    if set(found) != {2.0, 50.0}:
        return f"the temperatures are 2 and 50; got {', '.join(f'{T:g}' for T in found)}."
    for T, errors in found.items():
        if len(errors) != 3:
            return f"three seeds are asked for; T = {T:g} has {len(errors)}."
        if len(set(errors)) == 1:
            return f"the three errors at T = {T:g} are equal: does each student have its own seed?"
        if max(errors) <= 1:
            return "these look like fractions; per cent are asked for."
    if min(map(min, found.values())) > 60:
        return "these look like accuracies; errors are asked for."
    return None


q3 = Question(
    "ex-distillation-width",
    _judge_widths,
    right={2.0: [9.1, 8.8, 9.6], 50.0: [9.9, 10.4, 9.3]},
    wrong={
        "a dictionary is asked for": 2.0,
        "the temperatures are 2 and 50": {1.0: [9.1, 8.8, 9.6], 50.0: [9.9, 10.4, 9.3]},
        "three seeds": {2.0: [9.1], 50.0: [9.9]},
        "its own seed": {2.0: [9.1, 9.1, 9.1], 50.0: [9.9, 10.4, 9.3]},
        "look like fractions": {2.0: [0.091, 0.088, 0.096], 50.0: [0.099, 0.104, 0.093]},
        "look like accuracies": {2.0: [90.1, 91.8, 90.6], 50.0: [89.9, 90.4, 89.3]},
    },
)
