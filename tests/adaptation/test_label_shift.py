"""What an alignment that succeeds can reach at most, where the classes have other shares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog


@pytest.mark.equation("eq-label-shift")
@pytest.mark.parametrize("seed", range(5))
def test_no_joint_distribution_of_answers_and_labels_is_right_more_often(seed):
    """The best of all joint distributions with these shares, found by a linear programme."""
    rng = np.random.default_rng(seed)
    K = 4
    told, true = rng.dirichlet(np.ones(K), size=2)
    told[0] = 0 if seed == 0 else told[0]  # a class that the source lacks
    told /= told.sum()
    rows = [np.kron(np.eye(K)[k], np.ones(K)) for k in range(K)]  # answers have these shares
    columns = [np.kron(np.ones(K), np.eye(K)[k]) for k in range(K)]  # and labels those
    best = linprog(-np.eye(K).ravel(), A_eq=rows + columns, b_eq=np.concatenate([told, true]))
    assert -best.fun == pytest.approx(np.minimum(told, true).sum(), abs=1e-8)
