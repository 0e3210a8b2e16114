"""Checks of the exercises of chapter adaptive/learning-to-transfer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tlcourse.exercises._question import Question, function, not_a_function


def _discrepancy(zs: Tensor, zt: Tensor, kernel: str = "") -> tuple[float, float]:
    """Return d and Q, pair by pair as the equations have them."""

    def k(u: Tensor, v: Tensor) -> float:
        apart = abs(float(u) - float(v))
        return 2.718281828459045 ** -(apart if kernel == "not squared" else apart**2)

    h = torch.tensor(
        [
            [
                k(zs[i], zs[j])
                + k(zt[i], zt[j])
                - k(zs[i], zt[j])
                - k(zs[i] if kernel == "one cross term" else zs[j], zt[j if kernel else i])
                for j in range(len(zs))
            ]
            for i in range(len(zs))
        ],
        dtype=torch.float64,
    )
    if kernel == "without i = j":
        h = h[~torch.eye(len(h), dtype=torch.bool)]
    return h.mean().item(), (h - h.mean()).square().mean().item()


def _two_domains() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    zs, zt = torch.randn(2, 5, generator=draw)
    return [(torch.zeros(2), torch.ones(2)), (zs, 0.5 + 2 * zt)]


q1 = function(
    "ex-l2t-hand",
    _discrepancy,
    _two_domains,
    {
        "h has two different cross terms: k(s_i, t_j) and k(s_j, t_i). This takes one twice.": (
            lambda zs, zt: _discrepancy(zs, zt, "one cross term")
        ),
        "the kernel wants the squared distance.": lambda zs, zt: _unsquared(zs, zt),
        "Q divides by the number of pairs, n², not by n² - 1.": lambda zs, zt: (
            _discrepancy(zs, zt)[0],
            _discrepancy(zs, zt)[1] * len(zs) ** 2 / (len(zs) ** 2 - 1),
        ),
        "Q is the variance of h, not its standard deviation.": lambda zs, zt: (
            _discrepancy(zs, zt)[0],
            _discrepancy(zs, zt)[1] ** 0.5,
        ),
        "d is the mean over all n² pairs, not the sum.": lambda zs, zt: (
            _discrepancy(zs, zt)[0] * len(zs) ** 2,
            _discrepancy(zs, zt)[1],
        ),
        "d comes first, then Q.": lambda zs, zt: _discrepancy(zs, zt)[::-1],
        "the pairs with i = j belong to the mean too.": (
            lambda zs, zt: _discrepancy(zs, zt, "without i = j")
        ),
    },
)


def _unsquared(zs: Tensor, zt: Tensor) -> tuple[float, float]:
    def k(u: Tensor, v: Tensor) -> Tensor:
        return torch.exp(-(u[:, None] - v[None, :]).abs())

    h = k(zs, zs) + k(zt, zt) - k(zs, zt) - k(zs, zt).T
    return h.mean().item(), (h - h.mean()).square().mean().item()


def _same_pairs(h: Tensor) -> Tensor:
    return (h - h.mean(0)).T @ (h - h.mean(0)) / len(h)


def _other_pairs(h: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    columns = [column[torch.randperm(len(h), generator=draw)] for column in h.T]
    return _same_pairs(torch.stack(columns, dim=1))


@cache
def _past() -> tuple[list[Any], Any, Any, Any]:
    """Return experiences, a model that is fitted to them, and two faulty ones."""
    from tlcourse.adaptive import Experience, LearningToTransfer

    def experience(i: int, improvement: float) -> Experience:
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(i))
        return Experience(x[:12], x[12:] + i / 2, torch.eye(3)[:, :2], improvement)

    def fitted(order: list[int]) -> LearningToTransfer:
        mixed = [experience(i, 1.5 - j / 10) for i, j in enumerate(order)]
        return LearningToTransfer(n_samples=12).fit(mixed)

    no_floor = fitted(list(range(8)))
    no_floor.b = torch.tensor(-2.0)
    in_order = [experience(i, 1.5 - i / 10) for i in range(8)]
    return in_order, fitted(list(range(8))), no_floor, fitted([7, 6, 5, 4, 3, 2, 1, 0])


def _judge_checks(answer: Any) -> str | None:
    if said := not_a_function(answer):
        return said
    experiences, right, no_floor, forgetful = _past()
    found = dict(answer(_same_pairs, right, experiences))
    if set(found) != {"pairs", "floor", "knows"}:
        return f"the truths are called pairs, floor and knows; got {', '.join(map(str, found))}."
    for name, truth in found.items():
        if not truth:
            return f"the right method fails your check {name!r}."
    faults = {
        "pairs": (_other_pairs, right, "other pairs for each kernel"),
        "floor": (_same_pairs, no_floor, "no floor"),
        "knows": (_same_pairs, forgetful, "improvements that belong to others"),
    }
    for name, (Q_of, model, fault) in faults.items():
        if dict(answer(Q_of, model, experiences))[name]:
            return f"a method with {fault} passes your check {name!r}."
    return None


def _checks(blind: str = "") -> Callable[..., dict[str, bool]]:
    def checks(Q_of: Any, model: Any, experiences: Any) -> dict[str, bool]:
        h = torch.arange(12.0)[:, None].expand(12, 2)
        Q = Q_of(h)
        said = [float(model.improvement(e.W, e.source, e.target)) for e in experiences]
        true = [e.improvement for e in experiences]
        together = torch.corrcoef(torch.tensor([said, true]))[0, 1]
        found = {
            "pairs": bool(torch.isclose(Q[0, 0], Q[0, 1])),
            "floor": min(said) > 0,
            "knows": bool(together > 0.3),
        }
        return found | ({blind: True} if blind else {})

    return checks


q2 = Question(
    "ex-l2t-museum",
    _judge_checks,
    right=_checks(),
    wrong={
        "other pairs for each kernel passes": _checks("pairs"),
        "no floor passes": _checks("floor"),
        "improvements that belong to others passes": _checks("knows"),
        "the right method fails your check 'floor'": lambda Q_of, model, past: (
            _checks()(Q_of, model, past) | {"floor": False}
        ),
        "the truths are called": lambda Q_of, model, past: {"pairs": True},
    },
)


def _judge_exchanged(answer: Any) -> str | None:
    try:
        (said, true), (said_after, true_after) = answer
        said, true, said_after, true_after = map(float, (said, true, said_after, true_after))
    except (TypeError, ValueError):
        return "two pairs are asked for: predicted and true, before and after the exchange."
    if abs(said - said_after) < 2e-3 and abs(true - true_after) > 2e-2:
        if true_after < true:
            return None
        return "the order is before, then after the exchange."
    if abs(said - said_after) < 2e-3:
        return (
            "the true improvement is the same: exchange the labels of the source, not their order."
        )
    if abs(true - true_after) < 2e-3:
        return "in each of the two pairs the predicted improvement comes first, then the true one."
    return "the predictions differ, but f sees no label: take the same W, source and target twice."


q3 = Question(
    "ex-l2t-labels",
    _judge_exchanged,
    right=[(1.05, 1.31), (1.05, 0.62)],
    wrong={
        "two pairs are asked for": [1.05, 0.62],
        "the order is before": [(1.05, 0.62), (1.05, 1.31)],
        "the true improvement is the same": [(1.05, 1.31), (1.05, 1.31)],
        "predicted improvement comes first": [(1.31, 1.05), (0.62, 1.05)],
        "f sees no label": [(1.05, 1.31), (0.97, 0.62)],
    },
)
