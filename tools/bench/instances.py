"""Instance transfer: boosting with a source."""

from __future__ import annotations

import statistics
from functools import partial

from bench.timing import Case, Row, alternate

LIMIT = 1.2  # of scikit-learn's AdaBoost, on as many samples and in as many rounds


def tradaboost_against_adaboost() -> list[Row]:
    """Time `TrAdaBoost.fit` against AdaBoost's on source and target together."""
    import numpy as np
    from sklearn.ensemble import AdaBoostClassifier
    from sklearn.tree import DecisionTreeClassifier

    from tlcourse.instances import TrAdaBoost

    rows = []
    for n_source, n_target, D, rounds in ((200, 50, 10, 50), (1_000, 100, 20, 50)):
        draw = np.random.default_rng(0)
        X = draw.normal(size=(n_source + n_target, D))
        y = (X[:, :3].sum(1) + draw.normal(size=len(X)) > 0).astype(int)
        source, target = (X[:n_source], y[:n_source]), (X[n_source:], y[n_source:])
        tree = DecisionTreeClassifier(max_depth=4, random_state=0)

        ours = partial(TrAdaBoost(tree, rounds).fit, *target, source=source)
        theirs = partial(AdaBoostClassifier(tree, n_estimators=rounds).fit, X, y)
        # As many rounds, or no comparison.
        assert len(ours().estimators_) == len(theirs().estimators_) == rounds
        mine, other = (statistics.median(times) for times in alternate([ours, theirs], least=10))
        rows.append(
            Row(
                "TrAdaBoost / AdaBoost",
                f"{n_source} + {n_target} x {D}, {rounds} rounds",
                mine / other,
                LIMIT,
                detail=f"{1e3 * mine:.0f} / {1e3 * other:.0f} milliseconds",
            )
        )
    return rows


CASES: tuple[Case, ...] = (tradaboost_against_adaboost,)
