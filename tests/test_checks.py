"""The shared argument checks: what the tests of the methods do not show already."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from tlcourse import _checks


@pytest.mark.parametrize(
    ("value", "bounds", "error", "match"),
    [
        (True, {}, TypeError, r"n must be an integer, got True \(bool\)"),
        (1.0, {}, TypeError, r"got 1.0 \(float\)"),
        (np.int64(1), {}, TypeError, "int64"),
        (0, {"low": 1}, ValueError, "n must be at least 1, got 0"),
        (3, {"high": 2}, ValueError, "n must be at most 2, got 3"),
        (3, {"low": 0, "high": 2}, ValueError, r"n must be in \[0, 2\], got 3"),
    ],
)
def test_integers(value, bounds, error, match):
    with pytest.raises(error, match=match):
        _checks.check_int("n", value, **bounds)


@pytest.mark.parametrize(
    ("value", "bounds", "error", "match"),
    [
        ("1", {}, TypeError, r"a must be a number, got '1' \(str\)"),
        (False, {}, TypeError, "got False"),
        (float("nan"), {}, ValueError, "a must be finite, got nan"),
        (float("-inf"), {"low": 0}, ValueError, "a must be finite"),
        (0.0, {"above": 0}, ValueError, "greater than 0, got 0"),
        (1.5, {"low": 0, "high": 1}, ValueError, r"in \[0, 1\], got 1.5"),
    ],
)
def test_numbers(value, bounds, error, match):
    with pytest.raises(error, match=match):
        _checks.check_number("a", value, **bounds)


def test_bounds_themselves_are_taken():
    _checks.check_int("n", 0, low=0, high=0)
    _checks.check_number("a", 0, low=0, high=1)
    _checks.check_number("a", 1.0, low=0, high=1)
    _checks.check_number("a", 1e-300, above=0)


def test_choices_name_all_and_the_nearest():
    _checks.check_choice("mode", "mean", ["mean", "sum"])
    with pytest.raises(
        ValueError, match=r"mode is 'maen'; it takes 'mean', 'sum'\. Did you mean 'mean'\?"
    ):
        _checks.check_choice("mode", "maen", (name for name in ("mean", "sum")))
    with pytest.raises(ValueError, match=r"it takes 'mean', 'sum'\.$"):
        _checks.check_choice("mode", "xyz", ["mean", "sum"])


def test_near():
    assert _checks.near("kd-mnits", ["kd-mnist", "other"]) == " Did you mean 'kd-mnist'?"
    assert _checks.near("ab", ["abc", "abd"]) == " Did you mean 'abd' or 'abc'?"
    assert _checks.near(3, []) == ""


def test_float_tensors():
    _checks.check_float_tensor("x", torch.zeros(0))
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got ndarray"):
        _checks.check_float_tensor("x", np.zeros(2))
    with pytest.raises(TypeError, match="floating-point numbers, got dtype torch.int64"):
        _checks.check_float_tensor("x", torch.arange(2))
    with pytest.raises(ValueError, match="x contains NaN"):
        _checks.check_float_tensor("x", torch.tensor([torch.nan, torch.inf]))
    with pytest.raises(ValueError, match="x contains infinite values"):
        _checks.check_float_tensor("x", torch.tensor([0.0, -torch.inf]))


def test_one_dtype():
    with pytest.raises(TypeError, match="a and b must have the same dtype, got .*32 and .*64"):
        _checks.check_same_shape("a", torch.zeros(2), "b", torch.zeros(2).double())


def test_targets():
    _checks.check_targets("labels", torch.tensor([0, 2]), n_samples=2, n_classes=3)
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\] for 3 classes"):
            _checks.check_targets("labels", torch.tensor(wrong), n_samples=2, n_classes=3)


class Noisy(TensorDataset):
    """Every tenth image is another one each time."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return (torch.rand_like(image) if index % 10 == 0 else image), label


def test_random_augmentation():
    x, y = torch.rand(60, 4), torch.zeros(60, dtype=torch.int64)
    _checks.refuse_random_augmentation(TensorDataset(x, y))
    with pytest.raises(ValueError, match="random augmentation"):
        _checks.refuse_random_augmentation(Noisy(x, y))
    with pytest.raises(TypeError, match="gives list as the input of sample 0"):
        _checks.refuse_random_augmentation([([1.0], 0)])


class Late(TensorDataset):
    """Images of some classes alone are changed, those from the sixth on, and not every time."""

    def __init__(self, *tensors, period):
        super().__init__(*tensors)
        self.period, self.calls = period, {}

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        self.calls[index] = self.calls.get(index, 0) + 1
        changed = index >= 5 and self.calls[index] % self.period == 0
        return (image + 1 if changed else image), label


@pytest.mark.parametrize("period", [2, 3, 4])
def test_random_augmentation_of_some_samples_some_of_the_time(period):
    x, y = torch.rand(60, 4), torch.zeros(60, dtype=torch.int64)
    with pytest.raises(ValueError, match="another input for sample"):
        _checks.refuse_random_augmentation(Late(x, y, period=period))


def test_each_of_32_samples_is_asked_for_four_times():
    x, y = torch.rand(60, 4), torch.zeros(60, dtype=torch.int64)
    still = Late(x, y, period=10**6)
    _checks.refuse_random_augmentation(still)
    assert len(still.calls) == 32
    assert min(still.calls) == 0
    assert max(still.calls) == 59
    assert {still.calls[i] for i in still.calls if i > 0} == {4}


def test_samples_are_tuples_of_tensors_and_there_are_some():
    x, y = torch.rand(3, 2), torch.zeros(3)
    assert _checks.check_samples(TensorDataset(x, y)) == 3
    for empty in (TensorDataset(x[:0]), iter([x])):
        with pytest.raises(ValueError, match="dataset is empty or has no length"):
            _checks.check_samples(empty)
    with pytest.raises(TypeError, match="tuples with the input first.*it gives Tensor"):
        _checks.check_samples(list(x))
    with pytest.raises(TypeError, match="gives str as the input of sample 0"):
        _checks.check_samples([("a", 1)])


def test_what_is_looked_at_and_what_is_not():
    bad = torch.tensor([torch.nan])
    with pytest.raises(ValueError, match="x contains NaN"):
        _checks.check_finite(torch.tensor(1.0), unseen=[bad], x=bad)
    with pytest.raises(ValueError, match=r"x\[1\] contains NaN"):
        _checks.check_finite(bad, x=[torch.zeros(2), bad])
    with pytest.raises(ValueError, match="not finite though its inputs are"):
        _checks.check_finite(torch.tensor([0.0, torch.inf]), x=torch.zeros(2))
    large = torch.full((9,), 3e38)  # the sum alone overflows
    _checks.check_finite(torch.tensor(1.0), unseen=[large], x=large)
    _checks.check_finite(torch.tensor(1.0), x=bad)  # a look at one number
    with pytest.raises(ValueError, match="x contains NaN"):
        _checks.check_finite(bad.sum(), x=bad)
    _checks.check_finite(torch.zeros((), device="meta"), unseen=[bad], x=bad)
    assert _checks.readable(bad)
    assert not _checks.readable(bad.to("meta"))
    assert not torch.vmap(lambda t: t + _checks.readable(t))(torch.zeros(2)).any()


def test_a_name_without_its_path_is_near():
    names = ["upstage1", "backbone.stage1", "backbone.stage2", "stages", "head"]
    assert _checks.near("stage1", names) == " Did you mean 'backbone.stage1'?"
    assert _checks.near("", names) == ""


def test_shapes_as_text():
    assert _checks.shape_of(torch.zeros(2, 10)) == _checks.shape_of([2, 10]) == "(2, 10)"


def test_nan_is_not_taken_for_random_augmentation():
    inputs = torch.full((3, 2), torch.nan)
    _checks.refuse_random_augmentation(TensorDataset(inputs, torch.zeros(3)))
