"""Decisions: their frequencies, their gradient, no noise at evaluation, and global-k."""

from __future__ import annotations

import pytest
import torch

from tlcourse.adaptive import global_k_loss, gumbel_policy, policy_network
from tlcourse.models import MLP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(logits, n, **settings):
    many = torch.tensor(logits).expand(n, 2)
    return gumbel_policy(many, training=True, generator=seeded(), **settings)


@pytest.mark.parametrize("logits", [[0.0, 0.0], [0.0, 1.0], [2.0, -1.0], [-3.0, 3.0]])
@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_a_million_draws_have_the_frequencies_of_softmax(logits, temperature):
    expected = torch.tensor(logits).softmax(0)[1].item()
    found = draws(logits, 10**6, temperature=temperature).mean().item()
    spread = (expected * (1 - expected) / 10**6) ** 0.5
    assert abs(found - expected) < 4 * spread


def test_decisions_are_exactly_0_or_1():
    for temperature in (0.5, 5.0):
        decisions = draws([0.0, 0.3], 10**5, temperature=temperature)
        assert set(decisions.unique().tolist()) == {0.0, 1.0}


def test_without_training_there_is_no_noise():
    """The authors' test function calls the sampler: two evaluations differ."""
    logits = torch.randn(1000, 3, 2, generator=seeded())
    state = torch.get_rng_state()
    decisions = gumbel_policy(logits, training=False)
    assert torch.equal(decisions, (logits[..., 1] > logits[..., 0]).float())
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(decisions, gumbel_policy(logits, training=True))


def test_at_evaluation_nothing_has_a_gradient():
    assert not gumbel_policy(torch.zeros(2, 2, requires_grad=True), training=False).requires_grad


@pytest.mark.equation("eq-gumbel-policy")
def test_the_gradient_is_that_of_the_soft_decision():
    logits = torch.randn(50, 4, 2, dtype=torch.float64, generator=seeded(1)).requires_grad_()
    weights = torch.randn(50, 4, dtype=torch.float64, generator=seeded(2))
    decisions = gumbel_policy(logits, temperature=2.0, training=True, generator=seeded(3))
    (gradient,) = torch.autograd.grad((weights * decisions).sum(), logits)
    noise = torch.empty_like(logits).exponential_(generator=seeded(3))
    soft = ((logits - noise.log()) / 2.0).softmax(-1)
    slope = weights * soft[..., 0] * soft[..., 1] / 2.0
    torch.testing.assert_close(gradient, torch.stack([-slope, slope], -1).detach())


def test_the_temperature_changes_the_slope_and_not_the_decision():
    def at(temperature):
        logits = torch.zeros(500, 2, requires_grad=True)
        decisions = gumbel_policy(
            logits, temperature=temperature, training=True, generator=seeded()
        )
        return decisions.detach(), torch.autograd.grad(decisions.sum(), logits)[0].abs().median()

    (cold, steep), (warm, gentle), (hot, flat) = at(0.05), at(5.0), at(500.0)
    assert torch.equal(cold, warm)
    assert torch.equal(warm, hot)
    assert steep < flat < gentle  # none away from a tie, or small everywhere


def test_the_default_temperature_is_that_of_the_paper():
    logits = torch.zeros(50, 2, requires_grad=True)
    first, second = (
        torch.autograd.grad(
            gumbel_policy(logits, training=True, generator=seeded(), **settings).sum(), logits
        )[0]
        for settings in ({}, {"temperature": 5.0})
    )
    assert torch.equal(first, second)


def test_noise_comes_from_the_generator_that_is_given():
    logits = torch.zeros(100, 2)
    state = torch.get_rng_state()
    a, b = (gumbel_policy(logits, training=True, generator=seeded(7)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    c, d = (gumbel_policy(logits, training=True) for _ in range(2))
    assert not torch.equal(c, d)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    logits = torch.zeros(20_000, 2, dtype=dtype, requires_grad=True)
    decisions = gumbel_policy(logits, training=True, generator=seeded())
    assert decisions.dtype == dtype
    assert abs(decisions.float().mean().item() - 0.5) < 0.015
    decisions.sum().backward()
    assert bool(torch.isfinite(logits.grad).all())
    wide = logits.detach().to(torch.promote_types(dtype, torch.float32))
    same = gumbel_policy(wide, training=True, generator=seeded())
    assert torch.equal(decisions.detach().to(wide), same)  # half precision draws as float32 does


def test_whole_graph_compilation():
    def both(logits):
        return gumbel_policy(logits, training=True), gumbel_policy(logits, training=False)

    compiled = torch.compile(both, fullgraph=True, backend="eager")
    drawn, likelier = compiled(torch.tensor([[0.0, 1.0]]).expand(5000, 2))
    assert 0.65 < drawn.mean().item() < 0.8
    assert bool((likelier == 1).all())


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_wrong_temperatures(temperature):
    with pytest.raises(ValueError, match="temperature must be"):
        gumbel_policy(torch.zeros(3, 2), temperature=temperature, training=True)


def test_wrong_logits():
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 2\).*got \(3, 12\)"):
        gumbel_policy(torch.zeros(3, 12), training=True)
    with pytest.raises(ValueError, match="logits contains NaN"):
        gumbel_policy(torch.tensor([[0.0, torch.nan]]), training=False)
    with pytest.raises(TypeError, match="logits must hold floating-point numbers"):
        gumbel_policy(torch.zeros(3, 2, dtype=torch.int64), training=True)


# --- global-k ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-global-k")
def test_global_k_is_its_equation():
    decisions = (torch.rand(400, 5, generator=seeded(), dtype=torch.float64) < 0.6).double()
    decisions[:, 0] = 0.0
    decisions[7, 0] = 1.0  # one sample alone
    v = decisions.mean(0)
    expected = 0.3 * (v.sum() - 2) ** 2 - 0.7 * (v * v.log()).sum()
    found = global_k_loss(decisions, 2, k_weight=0.3, entropy_weight=0.7)
    torch.testing.assert_close(found, expected)
    default = global_k_loss(decisions, 2)
    torch.testing.assert_close(default, (v.sum() - 2) ** 2 - (v * v.log()).sum())


def test_global_k_is_least_where_all_samples_tune_the_same_k_blocks():
    same = torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(8, 4)
    assert global_k_loss(same, 2) == 0
    assert global_k_loss(same, 3) == 1
    mixed = torch.cat([same[:4], 1 - same[:4]])  # 2 blocks each, but not the same ones
    assert global_k_loss(mixed, 2, entropy_weight=0.0) == 0
    assert global_k_loss(mixed, 2) > 0.5


def test_global_k_has_a_finite_gradient_where_no_sample_tunes_a_block():
    decisions = torch.zeros(4, 3, requires_grad=True)
    global_k_loss(decisions, 1).backward()
    assert bool(torch.isfinite(decisions.grad).all())
    decisions.grad = None
    global_k_loss(decisions, 0, k_weight=0.0).backward()
    assert bool((decisions.grad > 0).all())  # and none is to begin


def test_global_k_makes_a_policy_of_k_blocks():
    logits = torch.zeros(5, 2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(300):
        decisions = gumbel_policy(
            logits.expand(64, 5, 2), temperature=1.0, training=True, generator=seeded(step)
        )
        optimizer.zero_grad()
        global_k_loss(decisions, 2).backward()
        optimizer.step()
    v = logits.softmax(-1)[:, 1]
    assert gumbel_policy(logits, training=False).sum() == 2
    assert bool(((v < 0.1) | (v > 0.9)).all())


def test_wrong_global_k():
    decisions = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"k must be in \[0, 3\], got 4"):
        global_k_loss(decisions, 4)
    with pytest.raises(ValueError, match=r"shape \(N, L\).*got \(3,\)"):
        global_k_loss(decisions[0], 1)
    with pytest.raises(ValueError, match=r"shape \(N, L\).*got \(0, 3\)"):
        global_k_loss(decisions[:0], 1)
    for name in ("k_weight", "entropy_weight"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0"):
            global_k_loss(decisions, 1, **{name: -1.0})


# --- the policy network ------------------------------------------------------------------------


@pytest.mark.equation("eq-policy-start")
@pytest.mark.parametrize("start", [0.5, 0.9, 0.02])
def test_a_policy_begins_with_the_probability_that_is_asked_for(start):
    agent = policy_network(MLP((4, 8, 2)).backbone, 3, start=start)
    assert agent.head.bias.view(3, 2).softmax(-1)[:, 1].tolist() == pytest.approx([start] * 3)
    assert agent.head.weight.abs().sum() > 0  # or the backbone would get no gradient


def test_a_policy_takes_the_backbone_as_it_is():
    backbone = MLP((4, 8, 2)).backbone
    assert policy_network(backbone, 3).backbone is backbone


@pytest.mark.parametrize("start", [0.0, 1.0, 1.5])
def test_wrong_starts(start):
    with pytest.raises(ValueError, match="start must be"):
        policy_network(MLP((4, 8, 2)).backbone, 3, start=start)


def test_a_policy_without_decisions():
    with pytest.raises(ValueError, match="n_decisions must be at least 1, got 0"):
        policy_network(MLP((4, 8, 2)).backbone, 0)
