"""The discrepancy against closed forms, its estimators against each other, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tlcourse.adaptation import (
    gaussian_kernel,
    median_bandwidth,
    mmd2,
    optimal_kernel_weights,
)

D = 3


def draw(n, *, mean=0.0, scale=1.0, seed=0, d=D):
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def expected_kernel(width, gap, s, t, d=D):
    """E k(x, y) for x ~ N(a, s^2 I), y ~ N(b, t^2 I) with |a - b|^2 = gap."""
    total = width + 2 * s**2 + 2 * t**2
    return (width / total) ** (d / 2) * math.exp(-gap / total)


def population(width, shift, s, t):
    gap = D * shift**2
    return (
        expected_kernel(width, 0, s, s)
        + expected_kernel(width, 0, t, t)
        - 2 * expected_kernel(width, gap, s, t)
    )


@pytest.mark.equation("eq-gaussian-kernel")
def test_the_kernel_is_its_formula_for_every_pair():
    x, y = draw(4), draw(6, seed=1)
    kernel = gaussian_kernel(x, y, 2.5)
    for i in range(4):
        for j in range(6):
            want = math.exp(-sum((x[i, k] - y[j, k]).item() ** 2 for k in range(D)) / 2.5)
            assert kernel[i, j].item() == pytest.approx(want, rel=1e-12)


@pytest.mark.equation("eq-mmd-gaussians")
@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
def test_estimates_are_spread_about_the_closed_form_for_two_gaussians(estimator):
    """Over redraws the mean is the population's value, within its own error; no bias is left."""
    width, shift, s, t = 4.0, 0.5, 1.0, 1.5
    values = [
        mmd2(
            draw(40, scale=s, seed=2 * i),
            draw(40, mean=shift, scale=t, seed=2 * i + 1),
            width,
            estimator=estimator,
        ).item()
        for i in range(400)
    ]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - population(width, shift, s, t)) < 4 * error
    assert error < 0.1 * population(width, shift, s, t)


@pytest.mark.equation("eq-mmd")
@pytest.mark.equation("eq-mmd-biased")
def test_the_biased_form_is_the_unbiased_one_with_the_diagonals():
    x, y = draw(10), draw(15, mean=0.3, seed=1)
    off = {}
    for name, z in {"x": x, "y": y}.items():
        kernel = gaussian_kernel(z, z, 3.0)
        n = len(z)
        off[name] = (kernel.sum() - n) / (n * (n - 1))
        assert kernel.mean().item() == pytest.approx(((n - 1) * off[name] + 1).item() / n)
    across = gaussian_kernel(x, y, 3.0).mean()
    unbiased = off["x"] + off["y"] - 2 * across
    assert mmd2(x, y, 3.0).item() == pytest.approx(unbiased.item(), abs=1e-14)
    biased = (9 * off["x"] + 1) / 10 + (14 * off["y"] + 1) / 15 - 2 * across
    assert mmd2(x, y, 3.0, estimator="biased").item() == pytest.approx(biased.item(), abs=1e-14)
    assert biased >= 0


def test_the_same_distribution_twice_has_mean_0_and_not_2_over_n():
    values = [mmd2(draw(8, seed=2 * i), draw(8, seed=2 * i + 1), 4.0).item() for i in range(600)]
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error < 2 / 8 / 4


@pytest.mark.equation("eq-mmd-linear")
def test_the_linear_form_is_the_mean_over_disjoint_quadruples():
    x, y = draw(7), draw(7, mean=1, seed=1)

    def k(u, v):
        return math.exp(-((u - v) ** 2).sum().item() / 2.0)

    h = [
        k(x[i], x[i + 1]) + k(y[i], y[i + 1]) - k(x[i], y[i + 1]) - k(x[i + 1], y[i])
        for i in (0, 2, 4)  # the seventh is left out
    ]
    assert mmd2(x, y, 2.0, estimator="linear").item() == pytest.approx(sum(h) / 3, rel=1e-12)


def test_the_linear_terms_are_independent():
    """The variance over redraws is that of the terms over their number; cyclic pairs are not so."""
    values, within = [], []
    for i in range(400):
        x, y = draw(40, seed=2 * i), draw(40, seed=2 * i + 1)
        terms = torch.stack(
            [mmd2(x[j : j + 4], y[j : j + 4], 4.0, estimator="linear") for j in range(0, 40, 4)]
        )
        values.append(mmd2(x, y, 4.0, estimator="linear").item())
        assert values[-1] == pytest.approx(terms.mean().item())
        within.append(terms.var().item() / len(terms))
    assert np.var(values) == pytest.approx(np.mean(within), rel=0.25)


@pytest.mark.equation("eq-multi-kernel")
@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_kernels_are_summed_with_their_weights_by_default_all_alike(estimator):
    x, y = draw(12), draw(12, mean=0.5, seed=1)
    one, two = (mmd2(x, y, w, estimator=estimator) for w in (1.0, 8.0))
    both = mmd2(x, y, [1.0, 8.0], weights=[0.25, 2.0], estimator=estimator)
    assert both.item() == pytest.approx((0.25 * one + 2 * two).item())
    assert mmd2(x, y, [1.0, 8.0], estimator=estimator).item() == pytest.approx(
        ((one + two) / 2).item()
    )


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_the_gradient_is_that_of_the_formula(estimator):
    x, y = draw(6).requires_grad_(), draw(6, mean=1, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: mmd2(x, y, [1.0, 5.0], estimator=estimator), (x, y)
    )


def test_equal_points_have_a_finite_gradient():
    x = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)
    for estimator in ("unbiased", "biased", "linear"):
        (slope,) = torch.autograd.grad(mmd2(x, draw(5, d=2), 1.0, estimator=estimator), x)
        assert torch.isfinite(slope).all()


def test_rounding_never_lifts_a_kernel_above_1():
    x = 100 * draw(200, d=50).float()
    assert gaussian_kernel(x, x, 1e-6).max() <= 1


def test_far_from_the_origin_rounding_does_not_eat_the_distance():
    x, y = draw(50).float(), draw(50, mean=1, seed=1).float()
    near = mmd2(x.double(), y.double(), 3.0).item()
    assert mmd2(x + 1000, y + 1000, 3.0).item() == pytest.approx(near, abs=1e-3)


def test_the_order_of_the_samples_is_nothing_to_the_quadratic_forms():
    x, y = draw(9), draw(9, mean=1, seed=1)
    mixed = mmd2(x.flip(0), y.roll(3, 0), 2.0)
    assert mixed.item() == pytest.approx(mmd2(x, y, 2.0).item())
    assert mmd2(y, x, 2.0).item() == pytest.approx(mmd2(x, y, 2.0).item())


def test_the_median_leaves_the_diagonal_out():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [7.0]])
    pairs = [1.0, 9.0, 49.0, 4.0, 36.0, 16.0]
    assert (
        median_bandwidth(x, y) == sorted(pairs)[2]
    )  # torch takes the lower of the two middle ones
    assert median_bandwidth(10 * x, 10 * y) == 100 * sorted(pairs)[2]


@pytest.mark.equation("eq-kernel-choice")
def test_the_weights_solve_the_programme():
    """Against a solver of another kind, and by the conditions of the optimum."""
    from scipy.optimize import minimize

    x, y = draw(300), draw(300, mean=0.7, seed=1)
    widths, eps = [0.5, 2.0, 8.0, 32.0], 1e-3
    found = optimal_kernel_weights(x, y, widths, eps=eps).numpy()
    columns = []
    for w in widths:
        terms = [
            mmd2(x[[i, i + 1, i, i + 1]], y[[i, i + 1, i, i + 1]], w, estimator="linear").item()
            for i in range(0, 300, 2)
        ]
        columns.append(terms)
    h = np.array(columns).T
    d, Q = h.mean(0), np.cov(h.T, bias=True) + eps * np.eye(4)
    solved = minimize(
        lambda b: b @ Q @ b,
        np.full(4, 1 / d.sum()),
        jac=lambda b: 2 * Q @ b,
        bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda b: b @ d - 1, "jac": lambda b: d},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    ).x
    np.testing.assert_allclose(found, solved / solved.sum(), atol=2e-3)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    power = [d @ b / math.sqrt(b @ Q @ b) for b in (found, *np.eye(4), np.ones(4))]
    assert power[0] == max(power)


def test_where_no_kernel_sees_a_difference_the_best_single_one_is_said():
    x = draw(8)
    x[1::2] = x[::2] + 5  # partners far apart
    y = x.clone()
    y[1::2], y[::2] = x[1::2] + 0.01, x[::2] + 0.01
    y = y.view(4, 2, D).flip(1).reshape(8, D)  # crossed partners are near: every h below 0
    with pytest.warns(UserWarning, match="No kernel sees a difference"):
        weights = optimal_kernel_weights(x, y, [1.0, 4.0])
    assert sorted(weights.tolist()) == [0.0, 1.0]


def test_a_million_samples_pass_through_the_linear_form():
    x = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(0))
    y = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(1))
    assert abs(mmd2(x, y, 2.0, estimator="linear").item()) < 0.003


X, Y = draw(8), draw(8, seed=1)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: mmd2(X[:3], Y, 1.0), ValueError, "x must have at least 4 samples, got 3"),
        (lambda: mmd2(X, Y[:, :2], 1.0), ValueError, "same features"),
        (lambda: mmd2(X[None], Y, 1.0), ValueError, r"x must have shape \(n, D\)"),
        (lambda: mmd2(X, Y[:6], 1.0, estimator="linear"), ValueError, "equally many"),
        (lambda: mmd2(X, Y, 0.0), ValueError, "above 0"),
        (lambda: mmd2(X, Y, [1.0, math.inf]), ValueError, "above 0"),
        (lambda: mmd2(X, Y, []), ValueError, "bandwidths is empty"),
        (lambda: mmd2(X, Y, [1.0], weights=[0.5, 0.5]), ValueError, "one entry for each"),
        (lambda: mmd2(X, Y, [1.0], weights=[0.0]), ValueError, "not all 0"),
        (lambda: mmd2(X, Y, [1.0], weights=[-1.0]), ValueError, "at least 0"),
        (lambda: mmd2(X, Y, 1.0, estimator="cyclic"), ValueError, "estimator is 'cyclic'"),
        (lambda: mmd2(X * math.nan, Y, 1.0), ValueError, "x contains NaN"),
        (lambda: mmd2(X, Y.int(), 1.0), TypeError, "y must hold floating-point"),
        (lambda: mmd2(X, Y.float(), 1.0), TypeError, "same dtype"),
        (lambda: median_bandwidth(torch.ones(4, 2), torch.ones(4, 2)), ValueError, "constant"),
        (lambda: median_bandwidth(X, Y * math.nan), ValueError, "y contains NaN"),
        (lambda: optimal_kernel_weights(X, Y, [1.0], eps=0.0), ValueError, "eps"),
        (lambda: optimal_kernel_weights(X, Y[:6], [1.0]), ValueError, "equally many"),
        (lambda: gaussian_kernel(X, Y, -1.0), ValueError, "above 0"),
    ],
)
def test_bad_input_is_named(call, error, said):
    with pytest.raises(error, match=said):
        call()
