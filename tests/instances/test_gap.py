"""The negative-transfer gap: sign, pairs, and what is refused."""

import math

import pytest

from tlcourse.instances import negative_transfer_gap


@pytest.mark.equation("eq-negative-transfer-gap")
def test_the_gap_is_the_error_with_less_the_error_without_seed_by_seed():
    gap = negative_transfer_gap([20.0, 35.0, 30.0], [15.0, 31.0, 24.0])
    assert gap.mean == pytest.approx(5)  # the source hurts: above 0
    assert gap.n == 3
    # 5, 4, 6: deviation 1, so that the interval is of the differences and not of the errors
    assert gap.margin == pytest.approx(4.30265 / math.sqrt(3), rel=1e-4)


def test_exchanged_sides_change_the_sign():
    assert negative_transfer_gap([1.0, 2.0], [2.0, 4.0]).mean == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("with_", "without", "error", "said"),
    [
        ([1.0], [1.0, 2.0], ValueError, r"shapes \(1,\) and \(2,\)"),
        ([], [], ValueError, "one number for each seed"),
        ([[1.0]], [[1.0]], ValueError, "one number for each seed"),
        ([math.nan], [1.0], ValueError, "NaN"),
        ([1.0], [math.inf], ValueError, "NaN or infinite"),
        (["a"], [1.0], TypeError, "must be numbers"),
    ],
)
def test_bad_errors_are_named(with_, without, error, said):
    with pytest.raises(error, match=said):
        negative_transfer_gap(with_, without)
