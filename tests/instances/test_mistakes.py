"""Mistakes made in public that the method's own tests do not ask about."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from tlcourse.instances import TrAdaBoost


@pytest.mark.filterwarnings("ignore:No round of TrAdaBoost:RuntimeWarning")
def test_no_round_loses_a_class():
    """Weights, no redrawn samples: with a bootstrap a class of one sample is soon not drawn."""
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(12, 2)), np.array([1] + 11 * [0])
    source = draw.normal(size=(60, 2)), np.zeros(60, dtype=int)
    model = TrAdaBoost(DecisionTreeClassifier(max_depth=1, random_state=0), 20)
    model.fit(X, y, source=source)
    assert len(model.estimators_) == 20
    assert all(len(fitted.classes_) == 2 for fitted in model.estimators_)


@pytest.mark.filterwarnings("ignore:No round of TrAdaBoost:RuntimeWarning")
def test_two_fits_are_equal():
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(20, 2)), draw.integers(2, size=20)
    source = draw.normal(size=(40, 2)), draw.integers(2, size=40)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    one, two = (TrAdaBoost(tree, 10).fit(X, y, source=source) for _ in range(2))
    np.testing.assert_array_equal(one.weights_, two.weights_)
