"""The recommendations, as data."""

from __future__ import annotations

import pytest

from tlcourse.finetuning import SMALL_TARGET, strategy


@pytest.mark.parametrize(
    ("n_target", "similarity", "freeze", "train"),
    [
        (300, "similar", "whole backbone", "new head"),
        (300, "different", "early layers", "new layers"),
        (50_000, "similar", "nothing", "whole network"),
        (50_000, "different", "nothing", "from scratch"),
    ],
)
def test_the_four_cases(n_target, similarity, freeze, train):
    found = strategy(n_target, similarity)
    assert found.case == f"{'small' if n_target == 300 else 'large'} and {similarity}"
    assert freeze in found.freeze
    assert train in found.train
    assert found.learning_rate
    assert found.why
    assert found.source


def test_the_threshold():
    assert strategy(SMALL_TARGET - 1, "similar").case == "small and similar"
    assert strategy(SMALL_TARGET, "similar").case == "large and similar"


def test_bad_input():
    with pytest.raises(ValueError, match="similarity is 'simular'.*Did you mean 'similar'"):
        strategy(10, "simular")
    with pytest.raises(ValueError, match="n_target must be at least 1, got 0"):
        strategy(0, "similar")
    with pytest.raises(TypeError, match="n_target must be an integer"):
        strategy(1e4, "similar")
