"""The likelihood derivation: densities, the remainder that is approximated, and its error."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from torch.distributions import Categorical, Normal

from tlcourse.multitask import (
    UncertaintyWeighting,
    check_likelihood,
    classification_nll,
    regression_nll,
    remainder,
    symbolic_likelihood,
)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(2)
    f = 2 * torch.randn(7, 5, dtype=torch.float64, generator=generator)
    c = torch.randint(5, (7,), generator=generator)
    return f, c


@pytest.mark.equation("eq-weighted-sum")
def test_a_weighted_sum_pulls_between_two_targets_by_its_weights():
    """min_w w1 (w - 1)^2 + w2 (w + 1)^2 lies at (w1 - w2) / (w1 + w2)."""
    for w1, w2 in ((1.0, 1.0), (100.0, 1.0)):
        w = torch.zeros((), dtype=torch.float64, requires_grad=True)
        total = w1 * (w - 1) ** 2 + w2 * (w + 1) ** 2
        (slope,) = torch.autograd.grad(total, w)
        optimum = -slope.item() / (2 * (w1 + w2))
        assert optimum == pytest.approx((w1 - w2) / (w1 + w2))


@pytest.mark.equation("eq-likelihoods")
@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_both_losses_are_likelihoods_of_torch_s_distributions(logits, sigma):
    f, c = logits
    y = f + 1
    density = -Normal(f, sigma).log_prob(y).mean() - 0.5 * math.log(2 * math.pi)
    assert regression_nll(f, y, sigma).item() == pytest.approx(density.item(), rel=1e-12)
    mass = -Categorical(logits=f / sigma**2).log_prob(c).mean()
    assert classification_nll(f, c, sigma).item() == pytest.approx(mass.item(), rel=1e-12)


@pytest.mark.equation("eq-regression-nll")
@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_regression_is_the_weighted_squared_error(sigma):
    f, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    L = ((y - f) ** 2).sum().item() / 12
    expected = L / (2 * sigma**2) + math.log(sigma)
    assert regression_nll(f, y, sigma).item() == pytest.approx(expected, rel=1e-12)
    weighting = UncertaintyWeighting(["regression"]).double()
    weighting.log_variances.data.fill_(2 * math.log(sigma))
    total = weighting([torch.tensor(L, dtype=torch.float64)])
    assert total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("eq-joint-likelihood")
def test_independent_tasks_add_up(logits):
    """-log p(y1, y2) with torch's distributions is the sum of both terms, up to a constant."""
    f, c = logits
    y = f[:, 0] + 0.5
    joint = -Normal(f[:, 0], 0.7).log_prob(y).mean()
    joint = joint - Categorical(logits=f / 1.3**2).log_prob(c).mean()
    ours = regression_nll(f[:, 0], y, 0.7) + classification_nll(f, c, 1.3)
    assert (joint - ours).item() == pytest.approx(0.5 * math.log(2 * math.pi), rel=1e-12)


@pytest.mark.equation("eq-classification-nll")
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 30.0])
def test_classification_is_the_weighted_cross_entropy_and_a_remainder(logits, sigma):
    f, c = logits
    L = classification_nll(f, c, 1.0).item()
    R = (f / sigma**2).exp().sum(1).log() - f.exp().sum(1).log() / sigma**2
    exact = classification_nll(f, c, sigma).item()
    assert exact == pytest.approx(L / sigma**2 + R.mean().item(), rel=1e-12)
    assert remainder(f, sigma).item() == pytest.approx(R.mean().item(), rel=1e-9, abs=1e-12)


@pytest.mark.equation("eq-sigma-approximation")
def test_the_remainder_and_log_sigma_meet_at_one_and_part_for_large_sigma(logits):
    f, c = logits
    assert remainder(f, 1.0).item() == pytest.approx(0, abs=1e-12)
    assert remainder(f, 1e3).item() == pytest.approx(math.log(5), rel=1e-3)
    assert classification_nll(f, c, 1e3).item() == pytest.approx(math.log(5), rel=1e-3)
    report = check_likelihood(f, c, [1.0, 2.0, 1e3])
    assert report.error[0] == pytest.approx(0, abs=1e-12)
    assert report.error[2] == pytest.approx(math.log(1e3) - math.log(5), rel=1e-2)
    assert report.approximate[1] == pytest.approx(report.exact[1] + report.error[1], rel=1e-12)


@pytest.mark.equation("eq-approximation-error")
def test_the_error_is_first_order_with_the_slope_that_the_entropy_gives(logits):
    f, c = logits
    steps = [1e-2, 1e-3, 1e-4]
    report = check_likelihood(f, c, [1 + h for h in steps])
    p = torch.softmax(f, 1)
    assert report.entropy == pytest.approx(Categorical(probs=p).entropy().mean().item(), rel=1e-9)
    ratios = [e / h for e, h in zip(report.error, steps, strict=True)]
    assert ratios[-1] == pytest.approx(1 - 2 * report.entropy, abs=1e-3)
    missing = [abs(e - o) for e, o in zip(report.error, report.first_order, strict=True)]
    assert missing[0] / missing[1] == pytest.approx(100, rel=0.1)  # what is left is second order
    assert len(report.frame()) == 3


@pytest.mark.equation("eq-approximation-error")
def test_the_first_order_vanishes_where_the_entropy_is_a_half():
    f = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    low, high = 0.0, 20.0
    for _ in range(80):  # bisection for the scale at which H = 1/2
        scale = (low + high) / 2
        H = Categorical(logits=scale * f).entropy().item()
        low, high = (scale, high) if H > 0.5 else (low, scale)
    report = check_likelihood(scale * f, torch.tensor([0]), [1.001])
    assert abs(report.error[0]) < 3e-6


@pytest.mark.equation("eq-regression-nll")
@pytest.mark.equation("eq-classification-nll")
@pytest.mark.equation("eq-approximation-error")
@pytest.mark.equation("eq-optimal-log-variance")
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_algebra(n_classes):
    derived = symbolic_likelihood(n_classes)
    assert sympy.simplify(derived.regression - sympy.log(2 * sympy.pi) / 2) == 0
    assert derived.classification == (0,) * n_classes
    assert derived.remainder_at_one == 0
    assert sympy.simplify(derived.slope_at_one - 2 * derived.entropy) == 0
    assert derived.remainder_far == sympy.log(n_classes)
    assert derived.regression_optimum == sympy.log(derived.L)
    assert sympy.simplify(derived.classification_optimum - sympy.log(2 * derived.L)) == 0
    values = dict(zip(derived.f, (0.3, -1.0, 2.0), strict=False)) | {derived.sigma: 1.7}
    f = torch.tensor([[0.3, -1.0, 2.0][:n_classes]], dtype=torch.float64)
    assert float(derived.remainder.subs(values)) == pytest.approx(remainder(f, 1.7).item())


@pytest.mark.parametrize("n_classes", [1, 7])
def test_algebra_of_other_sizes(n_classes):
    with pytest.raises(ValueError, match=r"n_classes must be in \[2, 6\]"):
        symbolic_likelihood(n_classes)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_bad_sigma(logits, sigma):
    f, c = logits
    for call in (
        lambda: regression_nll(f, f, sigma),
        lambda: classification_nll(f, c, sigma),
        lambda: remainder(f, sigma),
        lambda: check_likelihood(f, c, [sigma]),
    ):
        with pytest.raises(ValueError, match="sigma must be"):
            call()


@pytest.mark.parametrize("sigma", [1e-20, 1e-200])
def test_a_sigma_that_overflows_the_logits(logits, sigma):
    f, c = logits
    for call in (
        lambda: classification_nll(f.float(), c, sigma),
        lambda: remainder(f.float(), sigma),
    ):
        with pytest.raises(ValueError, match=r"sigma\^2 overflows torch.float32. Take a larger"):
            call()


def test_bad_tensors(logits):
    f, c = logits
    with pytest.raises(TypeError, match="outputs must be a torch.Tensor, got list"):
        regression_nll([1.0], [1.0], 1.0)
    with pytest.raises(ValueError, match=r"outputs and targets are empty, \(0, 5\)"):
        regression_nll(f[:0], f[:0], 1.0)
    with pytest.raises(ValueError, match="outputs and targets must have the same shape"):
        regression_nll(f, f[:, :2], 1.0)
    with pytest.raises(ValueError, match="outputs contains NaN"):
        regression_nll(f * float("nan"), f, 1.0)
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 4\]"):
        classification_nll(f, c + 5, 1.0)
    with pytest.raises(ValueError, match="logits contains infinite"):
        remainder(f / 0, 1.0)
    with pytest.raises(ValueError, match="sigmas is empty"):
        check_likelihood(f, c, [])
    with pytest.raises(TypeError, match=r"sigmas must be a list of numbers, .* write \[1.0\]"):
        check_likelihood(f, c, 1.0)


def test_half_precision_is_divided_and_summed_in_float32():
    logits = (20 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).half()
    found = remainder(logits, 0.02)  # in float16, 40 / sigma^2 is infinite
    assert found.dtype == torch.float32
    assert torch.equal(found, remainder(logits.float(), 0.02))
