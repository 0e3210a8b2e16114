"""Uncertainty weighting: the formula, both optima, known noise levels, and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tlcourse.multitask import UncertaintyWeighting, optimal_log_variances


def descend(kind: str, loss: float) -> float:
    """Return the log variance that gradient descent finds for a loss that stays."""
    weighting = UncertaintyWeighting([kind]).double()
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(2_000):
        optimizer.zero_grad()
        weighting([torch.tensor(loss, dtype=torch.float64)]).backward()
        optimizer.step()
    return weighting.log_variances.item()


@pytest.mark.equation("eq-uncertainty-loss")
def test_the_sum_by_hand():
    weighting = UncertaintyWeighting(["regression", "classification", "regression"]).double()
    s = [0.3, -1.2, 2.0]
    weighting.log_variances.data.copy_(torch.tensor(s))
    L = [0.7, 1.9, 30.0]
    expected = (
        0.5 * math.exp(-s[0]) * L[0]
        + 0.5 * s[0]
        + math.exp(-s[1]) * L[1]
        + 0.5 * s[1]
        + 0.5 * math.exp(-s[2]) * L[2]
        + 0.5 * s[2]
    )
    total = weighting([torch.tensor(v, dtype=torch.float64) for v in L])
    assert total.item() == pytest.approx(expected, rel=1e-7)
    assert weighting.weights.tolist() == pytest.approx(
        [0.5 * math.exp(-s[0]), math.exp(-s[1]), 0.5 * math.exp(-s[2])], rel=1e-6
    )
    assert weighting.deviations.tolist() == pytest.approx([math.exp(v / 2) for v in s], rel=1e-6)


@pytest.mark.equation("eq-optimal-log-variance")
@pytest.mark.parametrize("loss", [0.02, 1.0, 40.0])
def test_regression_settles_at_the_log_of_the_loss(loss):
    assert descend("regression", loss) == pytest.approx(math.log(loss), abs=1e-6)
    assert optimal_log_variances([loss], ["regression"]) == [math.log(loss)]


@pytest.mark.equation("eq-optimal-log-variance")
@pytest.mark.parametrize("loss", [0.02, 0.5, 2.3])
def test_classification_settles_at_the_log_of_twice_the_loss(loss):
    assert descend("classification", loss) == pytest.approx(math.log(2 * loss), abs=1e-6)
    assert optimal_log_variances([loss], ["classification"]) == [math.log(2 * loss)]


def test_a_negative_total_is_right():
    """At its optimum the term of a small squared error is (1 + log L) / 2, below 0 for L < 1/e."""
    weighting = UncertaintyWeighting(["regression"]).double()
    L = torch.tensor(1e-4, dtype=torch.float64)
    weighting.log_variances.data.fill_(math.log(1e-4))
    assert weighting([L]).item() == pytest.approx(0.5 + 0.5 * math.log(1e-4), rel=1e-9)
    assert weighting([L]).item() < -4


@pytest.mark.equation("eq-noise-recovered")
def test_known_noise_levels_are_recovered_while_the_functions_are_learned():
    """Two regressions of 3 and 1 dimensions with noise of 2 and 0.05, one network, one descent."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4_000, 5, generator=generator)
    true = [torch.randn(5, 3, generator=generator), torch.randn(5, 1, generator=generator)]
    sigma = [2.0, 0.05]
    y = [
        x @ w + s * torch.randn(4_000, w.shape[1], generator=generator)
        for w, s in zip(true, sigma, strict=True)
    ]
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    weighting = UncertaintyWeighting(["regression", "regression"])
    optimizer = torch.optim.Adam([*model.parameters(), *weighting.parameters()], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.998)
    for _ in range(2_500):
        optimizer.zero_grad()
        f = model(x)
        losses = [nn.functional.mse_loss(f[:, :3], y[0]), nn.functional.mse_loss(f[:, 3:], y[1])]
        weighting(losses).backward()
        optimizer.step()
        schedule.step()
    assert weighting.deviations.tolist() == pytest.approx(sigma, rel=0.05)
    residual = [loss.item() ** 0.5 for loss in losses]
    assert weighting.deviations.tolist() == pytest.approx(residual, rel=1e-3)


def test_trap_a_sum_over_dimensions_gives_another_noise_level():
    """With L summed over D = 4 dimensions, sigma comes out sqrt(D) times too high."""
    noise = 0.3
    assert math.exp(descend("regression", 4 * noise**2) / 2) == pytest.approx(2 * noise, rel=1e-6)
    assert math.exp(descend("regression", noise**2) / 2) == pytest.approx(noise, rel=1e-6)


def test_a_mean_per_dimension_does_not_hang_on_the_number_of_dimensions():
    generator = torch.Generator().manual_seed(0)
    for dimensions in (1, 7):
        error = 0.4 * torch.randn(20_000, dimensions, generator=generator)
        L = error.pow(2).mean().item()
        assert math.exp(descend("regression", L) / 2) == pytest.approx(0.4, rel=0.02)


def test_gradients_reach_the_losses_with_their_weights():
    weighting = UncertaintyWeighting(["regression", "classification"])
    weighting.log_variances.data.copy_(torch.tensor([1.0, -2.0]))
    L = [torch.tensor(3.0, requires_grad=True), torch.tensor(0.4, requires_grad=True)]
    weighting(L).backward()
    assert [loss.grad.item() for loss in L] == pytest.approx(weighting.weights.tolist())
    assert weighting.log_variances.grad.tolist() == pytest.approx(
        [-0.5 * math.exp(-1) * 3 + 0.5, -math.exp(2) * 0.4 + 0.5]
    )


def test_a_loss_in_other_units_changes_its_weight_and_not_the_gradient():
    """Offsets in millimetres instead of metres: at the optimum the network cannot tell."""
    for unit in (1.0, 1000.0):
        error = torch.tensor(0.2 * unit, dtype=torch.float64, requires_grad=True)
        weighting = UncertaintyWeighting(["regression"]).double()
        (s,) = optimal_log_variances([error.item() ** 2], ["regression"])
        weighting.log_variances.data.fill_(s)
        weighting([error**2]).backward()
        assert error.grad.item() * unit == pytest.approx(5.0)


def test_the_levels_are_saved_and_the_constants_are_not():
    assert list(UncertaintyWeighting(["regression"]).state_dict()) == ["log_variances"]


def test_weights_and_deviations_are_numbers_to_look_at():
    weighting = UncertaintyWeighting(["regression", "classification"])
    assert not weighting.weights.requires_grad
    assert not weighting.deviations.requires_grad


def test_the_levels_come_to_the_losses():
    """Losses on a GPU need no level moved there by hand."""
    losses = [torch.tensor(0.5, device="meta"), torch.tensor(1.0, device="meta")]
    assert UncertaintyWeighting(["regression", "classification"])(losses).is_meta


def test_stacked_losses_and_losses_of_shape_one():
    weighting = UncertaintyWeighting(["regression", "classification"])
    expected = weighting([torch.tensor(2.0), torch.tensor(3.0)])
    assert torch.equal(weighting(torch.tensor([2.0, 3.0])), expected)
    assert torch.equal(weighting([torch.tensor([2.0]), torch.tensor([[3.0]])]), expected)


@pytest.mark.parametrize(
    ("kinds", "error", "message"),
    [
        ([], ValueError, "kinds is empty"),
        ("regression", TypeError, "kinds must be a list"),
        (
            ["regression", "clasification"],
            ValueError,
            r"kinds\[1\] is 'clasification'; it takes 'regression' or 'classification'\. "
            r"Did you mean 'classification'",
        ),
        ([None], ValueError, r"kinds\[0\] is None; it takes 'regression' or 'classification'"),
        (3, TypeError, "kinds must be a list"),
    ],
)
def test_bad_kinds(kinds, error, message):
    with pytest.raises(error, match=message):
        UncertaintyWeighting(kinds)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ([torch.tensor(1.0)], ValueError, r"one for each of the 2 tasks \(regression, .*got 1"),
        ([torch.tensor(1.0)] * 3, ValueError, "got 3"),
        ([torch.tensor(1.0), 2.0], TypeError, r"losses\[1\] must be a torch.Tensor, got float"),
        (
            [torch.ones(4), torch.tensor(1.0)],
            ValueError,
            r"losses\[0\] must be a scalar, got shape \(4,\)\. Take the mean",
        ),
        ([torch.tensor(1), torch.tensor(1.0)], TypeError, r"losses\[0\] .* got dtype torch.int64"),
        (
            [torch.tensor(1.0), torch.tensor(float("nan"))],
            ValueError,
            r"losses\[1\] \(classification\) is nan",
        ),
        ([torch.tensor(float("inf")), torch.tensor(1.0)], ValueError, r"losses\[0\] .* is inf"),
        (
            [torch.tensor(1.0), torch.tensor(-0.5)],
            ValueError,
            r"losses\[1\] \(classification\) is -0.5: .* never below 0, .* the losses themselves",
        ),
        (torch.tensor(1.0), TypeError, "losses must be a list with a scalar tensor .* one number"),
        (1.0, TypeError, "losses must be a list with a scalar tensor for every task"),
    ],
)
def test_bad_losses(losses, error, message):
    with pytest.raises(error, match=message):
        UncertaintyWeighting(["regression", "classification"])(losses)


def test_a_loss_below_0_is_named_and_not_the_levels_that_it_drives_away():
    weighting = UncertaintyWeighting(["regression"])
    weighting.log_variances.data.fill_(-200.0)
    with pytest.raises(ValueError, match=r"losses\[0\] \(regression\) is -1.0"):
        weighting([torch.tensor(-1.0)])
    assert weighting.double()([torch.tensor(0.0)]).item() == -100  # 0 is no loss below 0


def test_levels_that_ran_away_are_named():
    weighting = UncertaintyWeighting(["regression"])
    weighting.log_variances.data.fill_(-200.0)
    with pytest.raises(ValueError, match=r"log_variances are \[-200.0\]: .* lower learning rate"):
        weighting([torch.tensor(1.0)])


@pytest.mark.parametrize("loss", [0.0, -1.0, float("nan")])
def test_bad_losses_for_the_optimum(loss):
    with pytest.raises(ValueError, match=r"losses\[0\] must be finite and greater than 0"):
        optimal_log_variances([loss], ["regression"])


def test_the_optimum_takes_a_loss_for_every_kind():
    with pytest.raises(ValueError, match="one for each of 1 kinds, got 2"):
        optimal_log_variances([1.0, 2.0], ["regression"])
