"""The accuracy matrix and its measures, against sums written out and their limits."""

import math

import numpy as np
import pytest
import torch

from tlcourse.continual import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    transfer_score,
)

R = torch.tensor(
    [
        [0.90, 0.40, 0.20, 0.30],
        [0.95, 0.80, 0.35, 0.25],
        [0.50, 0.60, 0.85, 0.45],
        [0.40, 0.70, 0.55, 1.00],
    ],
    dtype=torch.float64,
)
LOWER = R.masked_fill(torch.ones(4, 4).triu(1).bool(), math.nan)


@pytest.mark.equation("eq-accuracy-matrix")
def test_the_matrix_is_filled_in_the_order_of_learning():
    calls = []

    def learn(i):
        calls.append(("learn", i))

    def test(j):
        calls.append(("test", j))
        i = max(task for kind, task in calls if kind == "learn")
        return R[i, j].item()

    found = accuracy_matrix(learn, test, 4)
    assert torch.equal(found.nan_to_num(-1), LOWER.nan_to_num(-1))
    assert calls[:5] == [("learn", 0), ("test", 0), ("learn", 1), ("test", 0), ("test", 1)]
    calls.clear()
    assert torch.equal(accuracy_matrix(learn, test, 4, ahead=True), R)


def test_the_numbers_of_numpy_and_torch_are_numbers_too():
    for half in (np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert accuracy_matrix(lambda i: None, lambda j, half=half: half, 1).item() == 0.5
    assert transfer_score(np.array([0.5, 0.7]), np.array([0.25, 0.35])) == 2
    assert average_accuracy([[0.5]]) == 0.5


@pytest.mark.equation("eq-average-accuracy")
def test_average_accuracy_is_the_mean_over_the_tasks_so_far():
    assert average_accuracy(R) == pytest.approx((0.40 + 0.70 + 0.55 + 1.00) / 4)
    assert average_accuracy(R, step=1) == pytest.approx((0.95 + 0.80) / 2)
    assert average_accuracy(R, step=0) == 0.90
    assert average_accuracy(LOWER) == average_accuracy(R)


@pytest.mark.equation("eq-forgetting")
def test_forgetting_is_the_fall_from_the_best():
    # Bests before the last step: task 0 after step 1, task 1 and task 2 after their own.
    expected = ((0.95 - 0.40) + (0.80 - 0.70) + (0.85 - 0.55)) / 3
    assert forgetting(R) == pytest.approx(expected)
    assert forgetting(LOWER) == pytest.approx(expected)
    assert forgetting(R, step=2) == pytest.approx(((0.95 - 0.50) + (0.80 - 0.60)) / 2)
    assert forgetting(R, step=1) == pytest.approx(0.90 - 0.95)  # better than before: negative


def test_forgetting_looks_at_no_result_of_before_a_task_was_learnt():
    lucky = R.clone()
    lucky[0, 1] = 1.0
    assert forgetting(lucky) == forgetting(R)


@pytest.mark.equation("eq-backward-transfer")
def test_backward_transfer_is_the_change_since_a_task_was_learnt():
    expected = ((0.40 - 0.90) + (0.70 - 0.80) + (0.55 - 0.85)) / 3
    assert backward_transfer(R) == pytest.approx(expected)
    assert backward_transfer(LOWER) == pytest.approx(expected)


def test_backward_transfer_is_minus_forgetting_where_each_task_was_best_when_learnt():
    falling = torch.tensor([[0.9, 0.0, 0.0], [0.7, 0.8, 0.0], [0.5, 0.6, 1.0]])
    assert backward_transfer(falling) == pytest.approx(-forgetting(falling))
    assert backward_transfer(R) > -forgetting(R)


@pytest.mark.equation("eq-forward-transfer")
def test_forward_transfer_is_the_head_start_of_later_tasks():
    b = [0.9, 0.30, 0.25, 0.50]
    expected = ((0.40 - 0.30) + (0.35 - 0.25) + (0.45 - 0.50)) / 3
    assert forward_transfer(R, b) == pytest.approx(expected)
    assert forward_transfer(R, [0.0, *b[1:]]) == forward_transfer(R, b)  # the first has no use


def test_no_change_is_0():
    still = torch.full((3, 3), 0.5)
    assert forgetting(still) == backward_transfer(still) == forward_transfer(still, [0.5] * 3) == 0


@pytest.mark.equation("eq-transfer-score")
def test_the_transfer_score_is_the_ratio_of_the_areas():
    assert transfer_score([0.5, 0.7, 0.9], [0.3, 0.5, 0.6]) == pytest.approx(2.1 / 1.4)
    assert transfer_score([0.8], [0.8]) == 1
    assert transfer_score([0.4], [0.8]) == 0.5  # transfer has hurt
    assert transfer_score([0.6, 0.9], [0.1, 0.9]) > 1  # sooner, with the same end


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ({"n_tasks": 0}, ValueError, "n_tasks must be at least 1"),
        ({"n_tasks": 2.0}, TypeError, "n_tasks must be an integer"),
        ({"learn": None}, TypeError, "learn must be a function"),
        ({"test": 0.5}, TypeError, "test must be a function"),
        ({"test": lambda j: 97.0}, ValueError, r"test\(0\) after task 0 must be in \[0, 1\]"),
        ({"test": lambda j: math.nan}, ValueError, "must be finite"),
        (
            {"test": lambda j: None},
            TypeError,
            r"^test\(0\) after task 0 must be a number, got None",
        ),
        ({"test": lambda j: "0.5"}, TypeError, r"^test\(0\) after task 0 .* number, got '0\.5'"),
        ({"test": lambda j: True}, TypeError, r"^test\(0\) after task 0 .* number, got True"),
        ({"test": lambda j: torch.rand(2)}, TypeError, r"^test\(0\) after task 0 .* got tensor"),
    ],
)
def test_bad_input_of_the_matrix(what, error, match):
    arguments = {"learn": lambda i: None, "test": lambda j: 0.5, "n_tasks": 2} | what
    with pytest.raises(error, match=match):
        accuracy_matrix(**arguments)


@pytest.mark.parametrize(
    "measure",
    [average_accuracy, forgetting, backward_transfer, lambda m: forward_transfer(m, [0.5] * 2)],
)
@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        (torch.rand(2, 3), r"must have shape \(M, M\), .* got \(2, 3\)"),
        (torch.rand(2), r"must have shape \(M, M\)"),
        (torch.rand(0, 0), r"must have shape \(M, M\)"),
        (torch.full((2, 2), math.nan), "contains NaN on or below the diagonal"),
        (torch.tensor([[90.0, 0.0], [40.0, 80.0]]), "Divide per cents by 100"),
        (torch.tensor([[-0.1, 0.0], [0.4, 0.8]]), r"accuracies in \[0, 1\]"),
    ],
)
def test_bad_matrices(measure, matrix, match):
    with pytest.raises(ValueError, match=match):
        measure(matrix)


@pytest.mark.parametrize("matrix", [None, "0.5", [[0.5], [0.5, 0.5]]])
def test_a_matrix_that_is_none(matrix):
    with pytest.raises(TypeError, match=r"^matrix must be a tensor of accuracies, \(M, M\), got"):
        average_accuracy(matrix)


def test_bad_steps():
    with pytest.raises(ValueError, match=r"step must be in \[-4, 3\], got 4"):
        average_accuracy(R, step=4)
    with pytest.raises(TypeError, match="step must be an integer"):
        forgetting(R, step=1.0)
    with pytest.raises(ValueError, match="nothing to forget after the first task"):
        forgetting(R, step=0)


def test_one_task_has_no_transfer():
    with pytest.raises(ValueError, match="^Backward transfer is measured between tasks"):
        backward_transfer(R[:1, :1])
    with pytest.raises(ValueError, match="^Forward transfer is measured between tasks"):
        forward_transfer(R[:1, :1], [0.5])


def test_bad_input_of_forward_transfer():
    with pytest.raises(ValueError, match="untrained must be 4 accuracies, one a task; got 3"):
        forward_transfer(R, [0.5] * 3)
    with pytest.raises(ValueError, match=r"untrained\[2\] must be in \[0, 1\]"):
        forward_transfer(R, [0.5, 0.5, 50.0, 0.5])
    with pytest.raises(TypeError, match=r"^untrained must be a sequence .* got 0\.1 \(float\)"):
        forward_transfer(R, 0.1)
    with pytest.raises(ValueError, match=r"NaN above the diagonal: .*ahead=True"):
        forward_transfer(LOWER, [0.5] * 4)


@pytest.mark.parametrize(
    ("curve", "baseline", "error", "match"),
    [
        ([0.5], [0.5, 0.6], ValueError, "same number of points, at least 1; got 1 and 2"),
        ([], [], ValueError, "at least 1"),
        ([-0.5], [0.5], ValueError, r"curve\[0\] must be at least 0"),
        ([0.5], [math.nan], ValueError, r"baseline\[0\] must be finite"),
        ([0.5], [0.0], ValueError, "baseline is 0 at all points"),
        (["a"], [0.5], TypeError, r"curve\[0\] must be a number"),
        (0.5, 0.4, TypeError, r"^curve must be a sequence of numbers, .* got 0\.5 \(float\)"),
        ([0.5], 0.4, TypeError, r"^baseline must be a sequence of numbers, .* got 0\.4 \(float\)"),
        (np.array(0.5), [0.4], TypeError, r"^curve must be a sequence of numbers"),
        ([0.5], None, TypeError, r"^baseline must be a sequence of numbers"),
    ],
)
def test_bad_input_of_the_transfer_score(curve, baseline, error, match):
    with pytest.raises(error, match=match):
        transfer_score(curve, baseline)
