"""The fixture `claim` lets through what the figures bear, and nothing else."""

from __future__ import annotations

import pytest

from tlcourse.experiments import Result, ResultRow

NOISE = (0.3, -0.2, 0.1, -0.3, 0.2, -0.1, 0.25, -0.25)


def result(shift, better="higher", seeds=8):
    base = tuple(float(i) for i in range(seeds))
    rows = {
        "a": tuple(b + shift + e for b, e in zip(base, NOISE, strict=False)),
        "b": base,
    }
    made = {key: ResultRow(key, key.upper(), "%", values, None) for key, values in rows.items()}
    return Result(made, {"experiment": "tiny", "better": better, "seeds": list(range(seeds))})


@pytest.fixture
def made(request):
    return request.config.pluginmanager.get_plugin(
        str(request.config.rootpath / "tests" / "conftest.py")
    ).Claim()


def test_better_needs_an_interval_that_leaves_out_0(made):
    made.better(result(1.0), "a", "b")
    assert made.figures[0]["difference"] == pytest.approx(1.0)
    assert made.figures[0]["seeds"] == 8
    made.better(result(-1.0, better="lower"), "a", "b")
    for shift, better in ((0.1, "higher"), (-1.0, "higher"), (1.0, "lower")):
        with pytest.raises(AssertionError, match="a is not better than b"):
            made.better(result(shift, better=better), "a", "b")


def test_where_rows_are_better_either_way_the_test_says_which(made):
    both = result(-1.0, better="lower error, higher IoU")
    made.better(both, "a", "b", lower=True)
    made.on_average(result(-0.1, better="lower error, higher IoU"), "a", "b", lower=True)
    with pytest.raises(AssertionError, match="a is not better than b"):
        made.better(both, "a", "b", lower=False)
    for compare in (made.better, made.on_average):
        with pytest.raises(AssertionError, match="pass lower=True or lower=False"):
            compare(both, "a", "b")
    with pytest.raises(AssertionError, match="says already which way is better: higher"):
        made.better(result(-1.0), "a", "b", lower=True)


def test_no_difference_needs_the_whole_interval_within_the_margin(made):
    made.no_difference(result(0.1), "a", "b", within=0.5)
    for shift in (0.4, -0.4):
        with pytest.raises(AssertionError, match="may differ by 0.5"):
            made.no_difference(result(shift), "a", "b", within=0.5)


def test_on_average_is_neither_beyond_the_spread_nor_the_other_way(made):
    made.on_average(result(0.1), "a", "b")
    with pytest.raises(AssertionError, match="beyond the spread"):
        made.on_average(result(1.0), "a", "b")
    with pytest.raises(AssertionError, match="not better than b on average"):
        made.on_average(result(-0.1), "a", "b")


def test_beyond_needs_the_interval_of_the_row_itself(made):
    made.beyond(result(0.0), "b", 1.0, of="a guess")  # 0 to 7: 1.5 to 5.5
    assert made.figures[0]["difference"] == pytest.approx(2.5)
    assert made.figures[0]["other"] == "a guess"
    with pytest.raises(AssertionError, match="b is not better than 2"):
        made.beyond(result(0.0), "b", 2.0, of="a guess")
    with pytest.raises(AssertionError, match="b is not better than 2"):
        made.beyond(result(0.0, better="lower"), "b", 2.0, of="a guess")


def test_few_seeds_carry_no_conclusion(made):
    with pytest.raises(AssertionError, match="3 seeds carry no conclusion; 8 are needed"):
        made.better(result(5.0, seeds=3), "a", "b")
