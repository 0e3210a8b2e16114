"""LEEP against its definition written with loops, its limits, and what is refused."""

import math

import numpy as np
import pytest

from tlcourse.instances import leep


def naive(theta, y):
    """Equations 1 and 2 of the paper, one sum at a time."""
    n, Z = len(theta), len(theta[0])
    joint = {
        (label, z): sum(theta[i][z] for i in range(n) if y[i] == label) / n
        for label in set(y)
        for z in range(Z)
    }
    of_z = [sum(joint[label, z] for label in set(y)) for z in range(Z)]
    total = 0.0
    for i in range(n):
        total += math.log(sum(joint[y[i], z] / of_z[z] * theta[i][z] for z in range(Z)))
    return total / n


@pytest.mark.equation("eq-leep")
@pytest.mark.parametrize("seed", range(4))
def test_leep_is_the_papers_sum(seed):
    draw = np.random.default_rng(seed)
    theta = draw.dirichlet(np.full(5, 0.5), size=40)
    y = draw.integers(3, size=40)
    assert leep(theta, y) == pytest.approx(naive(theta.tolist(), y.tolist()), rel=1e-10)


def test_a_source_whose_answers_fix_the_label_has_leep_0_whatever_they_are_called():
    y = np.array([0, 1, 2, 0, 1, 2])
    theta = np.eye(4)[[3, 0, 1, 3, 0, 1]]  # class 2 of the source is never said
    assert leep(theta, y) == pytest.approx(0, abs=1e-12)


def test_a_source_that_says_nothing_has_the_labels_own_entropy():
    y = ["a"] * 6 + ["b"] * 2
    expected = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert leep(np.full((8, 3), 1 / 3), y) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("theta", "y", "said"),
    [
        ([0.5, 0.5], [0, 1], r"must be \(n, Z\)"),
        ([[0.5, 0.5]], [0, 1], r"must be \(n, Z\)"),
        (np.empty((0, 2)), [], "n at least 1"),
        ([[0.5, 0.6]], [0], "each row of sum 1"),
        ([[1.5, -0.5]], [0], "no entry below 0"),
        ([[math.nan, 1.0]], [0], "NaN"),
    ],
)
def test_what_is_no_distribution_is_named(theta, y, said):
    with pytest.raises(ValueError, match=said):
        leep(theta, y)
