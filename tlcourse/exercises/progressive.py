"""Checks of the exercises of chapter methods/progressive."""

from __future__ import annotations

import torch

from tlcourse.exercises._question import function


def _layer(alpha: float) -> tuple[float, float]:
    before = -1 + 3 * max(0.0, 2 * alpha)
    return max(0.0, before), float(before > 0)


q1 = function(
    "ex-progressive-hand",
    _layer,
    lambda: [(0.1,), (1.0,), (0.75,)],
    {
        "the outer f is missing: ReLU makes 0 of what is negative.": lambda alpha: (
            -1 + 6 * alpha,
            1.0,
        ),
        "the adapter stands inside f, beside W h, not outside.": lambda alpha: (6 * alpha, 0.0),
        "alpha is missing: it scales what comes from the earlier column.": lambda alpha: (5.0, 1.0),
        "the slope in W is that through f: 0 where the unit is off.": lambda alpha: (
            _layer(alpha)[0],
            1.0,
        ),
        "the output comes first, then the gradient.": lambda alpha: _layer(alpha)[::-1],
    },
)


def _column_size(k: int) -> int:
    from tlcourse.continual import ProgressiveNetwork

    network = ProgressiveNetwork(256, (100, 100)).eval()
    for _ in range(k + 1):
        network.add_column(2)
    return sum(p.numel() for p in network.columns[k].parameters())


_OWN = 257 * 100 + 101 * 100 + 101 * 2
_V, _U = 100 * 100, 100 * 100 + 100 * 2  # V for each earlier column and adapter; both U

q2 = function(
    "ex-progressive-size",
    _column_size,
    lambda: [(k,) for k in range(4)],
    {
        "these are the own layers alone; from k = 1 on there are adapters too.": lambda k: _OWN,
        "the biases are missing, of the layers and of V.": lambda k: (
            256 * 100 + 100 * 100 + 100 * 2 + (2 * (k + _V * k) + _U if k else 0)
        ),
        "V reads all k earlier columns: it is 100 by 100 k.": lambda k: (
            _OWN + (2 * (k + _V + 100) + _U if k else 0)
        ),
        "the learnt scalars are missing, one for each earlier column and adapter.": lambda k: (
            _OWN + (2 * (_V * k + 100) + _U if k else 0)
        ),
        "U has no bias.": lambda k: _OWN + (2 * (k + _V * k + 100) + _U + 102 if k else 0),
        "this is the whole network; the last column alone is asked for.": lambda k: sum(
            _column_size(i) for i in range(k + 1)
        ),
    },
    tolerance=1e-9,
)


def _moved(momentum: float, weight_decay: float) -> bool:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=momentum, weight_decay=weight_decay)
    weight.grad = torch.ones(1)
    optimizer.step()
    before, weight.grad = weight.item(), torch.zeros(1)
    optimizer.step()
    return weight.item() != before


q3 = function(
    "ex-progressive-zero",
    _moved,
    lambda: [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.1)],
    {
        "a gradient of 0 is a gradient: momentum goes on, and decay pulls. Is it None here?": (
            lambda momentum, weight_decay: False
        ),
        "plain SGD stands still: is the snapshot taken after the first step?": (
            lambda momentum, weight_decay: True
        ),
        "momentum moves it too: has the first step filled its buffer?": (
            lambda momentum, weight_decay: weight_decay > 0
        ),
        "weight decay moves it too: does it reach the optimiser?": (
            lambda momentum, weight_decay: momentum > 0
        ),
        "the answers are exchanged: True where it has moved.": lambda momentum, weight_decay: (
            not _moved(momentum, weight_decay)
        ),
    },
)
