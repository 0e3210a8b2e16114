"""Checks of the exercises of chapter methods/growing."""

from __future__ import annotations

from tlcourse.exercises._question import function, value


def _added(n_in: int, n_old: int, n_new: int, n_classes: int) -> int:
    from tlcourse.finetuning import widen
    from tlcourse.models import MLP

    model = MLP((n_in, n_old, n_classes))
    before = sum(p.numel() for p in model.parameters())
    widen(model, "backbone.hidden1", n_new)
    return sum(p.numel() for p in model.parameters()) - before


q1 = function(
    "ex-grow-count",
    _added,
    lambda: [(6, 5, 4, 3), (10, 7, 2, 9)],
    {
        "the new units have biases, too.": lambda i, o, n, k: n * i + n * k,
        "the head gets a column for each new unit: these count, too.": lambda i, o, n, k: n * i + n,
        "the head has its biases already: they are not added again.": lambda i, o, n, k: (
            n * i + n + n * k + k
        ),
        "new units of one layer do not read the old units beside them.": lambda i, o, n, k: (
            n * (i + o) + n + n * k
        ),
    },
    tolerance=1e-9,
)

q2 = value(
    "ex-grow-optimizer",
    {"new units": False, "head": False, "old units": True},
    {
        "the optimiser holds the parameters that it was given; it never sees the new units.": {
            "new units": True,
            "head": False,
            "old units": True,
        },
        "the head that it was given is no part of the network any more: widen put a wider one in "
        "its place.": {"new units": False, "head": True, "old units": True},
        "the old units are the parameters that they were: the optimiser still moves them.": {
            "new units": False,
            "head": False,
            "old units": False,
        },
        "an optimiser keeps the list that it was made with: ask, for each part, whether its "
        "parameters are on that list.": {"new units": True, "head": True, "old units": True},
    },
)

q3 = value(
    "ex-grow-twins",
    4,
    {
        "the two copies of one unit start alike, with outgoing weights of 0, and get the same "
        "gradients for ever: they are one unit.": 8,
        "a copy is not its original for long: their outgoing weights differ, so that they get "
        "other gradients from the second step on.": 0,
        "count the new units that differ from one another; the old ones do not count.": 12,
    },
)
