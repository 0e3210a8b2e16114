"""Matching activations against the definition, and its bad input."""

import math

import pytest
import torch

from tlcourse.matching import activation_matching_loss

generator = torch.Generator().manual_seed(0)
A = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=generator)
B = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=generator)
Z = torch.randn(4, 7, dtype=torch.float64, generator=generator)


@pytest.mark.equation("eq-activation-matching")
def test_it_sums_over_units_and_layers_and_averages_over_samples():
    per_sample = [
        sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True))
        for x, y in zip(A, B, strict=True)
    ]
    logits = Z.square().sum().item() / 4
    assert activation_matching_loss([A], [B]).item() == pytest.approx(sum(per_sample) / 4)
    loss = activation_matching_loss([A, Z], [B, torch.zeros_like(Z)])
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sum(per_sample) / 4 + logits)


@pytest.mark.equation("eq-activation-matching")
def test_on_logits_it_is_the_mean_squared_error_times_their_number():
    other = Z.flip(1)
    expected = 7 * torch.nn.functional.mse_loss(Z, other)
    assert torch.isclose(activation_matching_loss(Z, other), expected)
    assert activation_matching_loss(Z, Z).item() == 0.0


def test_the_student_gets_the_gradient_2_a_minus_b_over_n_and_the_teacher_none():
    s, t = A.clone().requires_grad_(), B.clone().requires_grad_()
    activation_matching_loss([s], [t]).backward()
    assert t.grad is None
    assert torch.allclose(s.grad, 2 * (A - B) / 4)


def test_a_student_under_autocast_matches_a_teacher_in_float32():
    torch.manual_seed(0)
    net, x, teacher = torch.nn.Linear(6, 7), torch.randn(4, 6), Z.float()
    with torch.autocast("cpu", torch.bfloat16):
        student = net(x)
        assert student.dtype == torch.bfloat16
        loss = activation_matching_loss(student, teacher)
        loss.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, activation_matching_loss(student.float(), teacher))
    assert torch.equal(loss, activation_matching_loss(teacher, student))  # either side
    assert bool((net.weight.grad != 0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_both_sides_is_summed_in_float32(dtype):
    ones = torch.ones(1, 70_000, dtype=dtype)  # the sum is above the largest float16
    loss = activation_matching_loss(ones, 0 * ones)
    assert loss.dtype == torch.float32
    assert loss.item() == 70_000


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ([A], [B, B], "same number of layers.*got 1 and 2"),
        ([], [], "student is empty"),
        (Z, Z[:2], "must hold the same batch"),
        (Z, Z[:, :3], r"student\[0\] and teacher\[0\] must have the same shape, got \(4, 7\)"),
        ([A], [B[:, :2]], r"same shape.*1 x 1 convolution with 2 outputs"),
        ([A], [B[..., :1]], r"same shape, got \(4, 3, 2, 2\) and \(4, 3, 2, 1\)"),
        (Z * math.nan, Z, r"student\[0\] contains NaN"),
        (Z, Z * math.inf, r"teacher\[0\] contains infinite values"),
    ],
)
def test_bad_values_are_named(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        activation_matching_loss(student, teacher)


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="teacher must be a sequence.*got one Tensor"):
        activation_matching_loss([Z], Z)
    with pytest.raises(TypeError, match=r"teacher\[0\] must hold floating-point numbers"):
        activation_matching_loss(Z, Z.long())
    with pytest.raises(TypeError, match="same dtype"):
        activation_matching_loss(Z, Z.float())
    with pytest.raises(TypeError, match="same dtype, got torch.bfloat16 and torch.float64"):
        activation_matching_loss(Z.bfloat16(), Z)
