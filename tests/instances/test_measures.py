"""Torrey and Shavlik's measures on curves whose answers are known."""

import math

import pytest

from tlcourse.instances import transfer_measures

WITH = [[0.5, 0.7, 0.9, 0.9], [0.3, 0.7, 0.8, 1.0]]
WITHOUT = [[0.1, 0.3, 0.6, 0.8], [0.1, 0.2, 0.4, 0.9]]


@pytest.mark.equation("eq-jump-start")
def test_jump_start_is_the_difference_before_training():
    found = transfer_measures(WITH, WITHOUT)
    assert found.jump_start.mean == pytest.approx((0.4 + 0.2) / 2)
    assert found.jump_start.n == 2
    assert found.jump_start.low < found.jump_start.mean < found.jump_start.high


@pytest.mark.equation("eq-time-to-threshold")
def test_time_to_threshold_is_the_first_time_at_or_above_it():
    found = transfer_measures(WITH, WITHOUT, times=[0, 10, 20, 40], threshold=0.7)
    assert found.time_with == (10, 10)
    assert found.time_without == (40, 40)
    assert found.time_saved.mean == 30


@pytest.mark.equation("eq-time-to-threshold")
def test_a_threshold_that_is_never_reached_takes_for_ever():
    found = transfer_measures(WITH, WITHOUT, threshold=0.95)
    assert found.time_with == (math.inf, 3.0)
    assert found.time_without == (math.inf, math.inf)
    assert found.time_saved is None


def test_the_default_threshold_is_reached_by_every_curve_without_transfer():
    found = transfer_measures(WITH, WITHOUT)
    assert found.threshold == 0.8
    assert all(math.isfinite(t) for t in found.time_without)


@pytest.mark.equation("eq-asymptote")
def test_asymptote_is_the_difference_of_the_last_points():
    assert transfer_measures(WITH, WITHOUT).asymptote.mean == pytest.approx(0.1)
    two = transfer_measures(WITH, WITHOUT, tail=2).asymptote.mean
    assert two == pytest.approx(((0.9 - 0.7) + (0.9 - 0.65)) / 2)


@pytest.mark.equation("eq-area-ratio")
def test_area_ratio_by_the_trapezoidal_rule():
    found = transfer_measures([[1.0, 1.0, 1.0]], [[0.0, 0.5, 1.0]], times=[0, 1, 3])
    area = 0.25 + 2 * 0.75
    assert found.area.mean == pytest.approx((3.0 - area) / area)


def test_equal_curves_gain_nothing_and_swapping_changes_the_sign():
    same = transfer_measures(WITH, WITH)
    assert (same.jump_start.mean, same.asymptote.mean, same.area.mean) == (0, 0, 0)
    hurt = transfer_measures(WITHOUT, WITH, threshold=0.7)
    assert hurt.jump_start.mean == pytest.approx(-0.3)
    assert hurt.time_saved.mean < 0
    assert hurt.area.mean < 0


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((WITH, WITHOUT[:1]), {}, r"same shape, got \(2, 4\) and \(1, 4\)"),
        (([0.1, 0.2], WITHOUT), {}, r"with_transfer must have shape \(seeds, points\), got \(2,\)"),
        (([], []), {}, "with_transfer must have shape"),
        ((WITH, [[0.1, math.nan, 0.2, 0.3]] * 2), {}, "without contains NaN"),
        ((WITH, WITHOUT), {"times": [0, 1, 1, 2]}, "times must be 4 rising numbers"),
        ((WITH, WITHOUT), {"times": [0, 1]}, "times must be 4 rising numbers"),
        ((WITH, WITHOUT), {"tail": 5}, r"tail must be in \[1, 4\], got 5"),
        ((WITH, WITHOUT), {"threshold": math.nan}, "threshold must be finite"),
        (([[0.1]], [[0.1]]), {}, "at least 2 points"),
        (([[-1.0, -1.0]], [[-1.0, -2.0]]), {}, "positive area"),
        ((WITH, [WITHOUT[0], [0.0, 0.0, 0.0, 0.0]]), {}, "positive area"),  # one seed of several
    ],
)
def test_bad_values_are_named(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        transfer_measures(*arguments, **settings)


def test_ragged_curves_are_named():
    with pytest.raises(TypeError, match="with_transfer must be S rows of M numbers"):
        transfer_measures([[0.1, 0.2], [0.3]], WITHOUT)
