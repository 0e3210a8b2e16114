"""The derivation: closed form, high-temperature limit and algebra against each other."""

import itertools
import math

import pytest
import sympy
import torch

from tlcourse.distillation import (
    check_derivation,
    high_temperature_gradient,
    logit_gradient,
    soften,
    symbolic_gradient,
)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(1)
    z = 3 * torch.randn(6, 10, dtype=torch.float64, generator=generator)
    v = 4 * torch.randn(6, 10, dtype=torch.float64, generator=generator)
    return z, v


@pytest.mark.equation("eq-soft-cross-entropy")
@pytest.mark.equation("eq-soft-gradient")
def test_closed_form_is_the_slope_of_the_definition(logits):
    """Central differences of C = -sum_j p_j log q_j, written out with math alone."""
    z, v = logits
    T, h = 4.0, 1e-5
    p = soften(v, T)[0].tolist()

    def C(row):
        weights = [math.exp(value / T) for value in row]
        return -sum(p_j * math.log(w / sum(weights)) for p_j, w in zip(p, weights, strict=True))

    row = z[0].tolist()
    for i, slope in enumerate(logit_gradient(z, v, T)[0].tolist()):
        up, down = list(row), list(row)
        up[i] += h
        down[i] -= h
        assert slope == pytest.approx((C(up) - C(down)) / (2 * h), abs=1e-9)


@pytest.mark.equation("eq-soft-gradient")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0, 1000.0])
def test_closed_form_against_autograd_to_rounding(logits, temperature):
    report = check_derivation(*logits, [temperature])
    assert report.closed_form_error[0] < 1e-12


@pytest.mark.equation("eq-soft-gradient")
def test_gradient_sums_to_zero_over_classes(logits):
    assert logit_gradient(*logits, 3.0).sum(1).abs().max() < 1e-15


@pytest.mark.equation("eq-high-temperature")
def test_high_temperature_error_falls_as_one_over_t(logits):
    report = check_derivation(*logits, [10.0, 100.0, 1000.0, 10000.0])
    errors = report.high_temperature_error
    assert errors[0] < 0.6
    for before, after in itertools.pairwise(errors):
        assert before / after == pytest.approx(10, rel=0.25)  # the next term of the expansion


@pytest.mark.equation("eq-expansion")
def test_first_order_softmax(logits):
    """exp(x) ~ 1 + x turns q_i into (1 + z_i / T) / (K + sum_j z_j / T), to second order."""
    z, _ = logits
    errors = []
    for T in (100.0, 1000.0):
        expanded = (1 + z / T) / (z.shape[1] + (z / T).sum(1, keepdim=True))
        errors.append((expanded - soften(z, T)).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


@pytest.mark.equation("eq-quadratic")
def test_matching_logits_is_the_high_temperature_objective(logits):
    """1 / (K T^2) times the slope of half the squared distance of the zero-meaned logits."""
    z, v = logits
    T, n_classes = 20.0, z.shape[1]
    z = z.requires_grad_()
    distance = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    (slope,) = torch.autograd.grad(0.5 * distance.square().sum() / (n_classes * T**2), z)
    assert torch.allclose(slope, high_temperature_gradient(z.detach(), v, T), atol=1e-15)


def test_high_temperature_gradient_does_not_see_a_rows_mean(logits):
    z, v = logits
    shifted = high_temperature_gradient(z + 5.0, v - 3.0, 4.0)
    assert torch.allclose(shifted, high_temperature_gradient(z, v, 4.0))


@pytest.mark.equation("eq-t-squared")
def test_gradient_norm_falls_as_one_over_t_squared(logits):
    norms = check_derivation(*logits, [100.0, 1000.0]).gradient_norm
    assert norms[0] / norms[1] == pytest.approx(100, rel=0.05)


@pytest.mark.equation("eq-soft-gradient")
@pytest.mark.equation("eq-high-temperature")
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_algebra(n_classes):
    derived = symbolic_gradient(n_classes)
    for gradient, closed_form in zip(derived.gradient, derived.closed_form, strict=True):
        assert sympy.simplify(gradient - closed_form) == 0
    mean = (sum(derived.z) - sum(derived.v)) / n_classes
    for z_i, v_i, limit in zip(derived.z, derived.v, derived.limit, strict=True):
        assert sympy.expand(limit - ((z_i - v_i) - mean) / n_classes) == 0


def test_algebra_agrees_with_the_numbers():
    derived = symbolic_gradient(3)
    z, v, T = [1.0, -2.0, 0.5], [0.0, 1.0, 3.0], 2.0
    values = dict(zip((*derived.z, *derived.v, derived.T), (*z, *v, T), strict=True))
    expected = logit_gradient(
        torch.tensor([z], dtype=torch.float64), torch.tensor([v], dtype=torch.float64), T
    )
    numbers = [float(g.subs(values)) for g in derived.gradient]
    assert numbers == pytest.approx(expected[0].tolist(), rel=1e-12)


def test_report_is_a_table_with_a_row_per_temperature(logits):
    frame = check_derivation(*logits, [1.0, 2.0]).frame()
    assert frame["temperature"].tolist() == [1.0, 2.0]
    assert len(frame) == 2


def test_bad_input(logits):
    z, v = logits
    with pytest.raises(ValueError, match="same shape"):
        logit_gradient(z, v[:3], 1.0)
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        high_temperature_gradient(z, v, -1.0)
    with pytest.raises(ValueError, match="teacher_logits contains NaN"):
        high_temperature_gradient(z, v * math.nan, 1.0)
    with pytest.raises(ValueError, match="temperatures is empty"):
        check_derivation(z, v, [])
    with pytest.raises(ValueError, match="compare a student with its teacher"):
        check_derivation(v, v, [1.0])
    for n_classes in (1, 7):
        with pytest.raises(ValueError, match=r"n_classes must be in \[2, 6\]"):
            symbolic_gradient(n_classes)
    with pytest.raises(TypeError, match="n_classes must be an integer"):
        symbolic_gradient(2.0)
