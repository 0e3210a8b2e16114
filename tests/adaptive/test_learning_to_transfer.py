"""Learning to transfer: the terms against loops, the gradient, the invariances, and what it gains.

The domains of these tests have six features, of which three are shifted between source and target.
A subspace that leaves the shift out helps; the improvement is known in closed form.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tlcourse.adaptive import Experience, LearningToTransfer
from tlcourse.adaptive.learning_to_transfer import BANDWIDTHS, _mutual_neighbours, _traits

D = 6


def pair(seed, n=40):
    """Return source, target, the shift between them, and a generator."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.zeros(D)
    shift[torch.randperm(D, generator=generator)[:3]] = 3.0
    source = torch.randn(n, D, generator=generator)
    return source, torch.randn(n, D, generator=generator) + shift, shift, generator


def subspace(generator, r=2):
    return torch.linalg.qr(torch.randn(D, r, generator=generator)).Q


def truth(W, shift):
    """Return the improvement: from 1.67 without a shift to 0.35 with all of it in the subspace."""
    return 1 / (0.6 + (W.to(shift).T @ shift).square().sum().item() / 12)


def experience(seed):
    source, target, shift, generator = pair(seed)
    W = subspace(generator)
    return Experience(source, target, W, truth(W, shift))


def past(n=40):
    return [experience(seed) for seed in range(n)]


@cache
def fitted():
    return LearningToTransfer(n_samples=30).fit(past())


@cache
def fitted_to_shuffled():
    experiences = past()
    improvements = [e.improvement for e in experiences]
    random.Random(0).shuffle(improvements)
    shuffled = [replace(e, improvement=i) for e, i in zip(experiences, improvements, strict=True)]
    return LearningToTransfer(n_samples=30).fit(shuffled)


# --- the equations -----------------------------------------------------------------------------


@pytest.mark.equation("eq-l2t-tau")
@pytest.mark.equation("eq-l2t-mmd")
def test_the_terms_are_their_sums():
    """MMD, covariance and scatters by loops over pairs, with the scatter matrices written out."""
    generator = torch.Generator().manual_seed(0)
    n, scale, m = 7, 1.3, 20
    xs, xt = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    W = torch.linalg.qr(torch.randn(4, 2, generator=generator, dtype=torch.float64)).Q
    d, Q, tau = _traits(xs, xt, W, scale, neighbours=2)
    ks, kt = m, m + 3
    zs, zt = xs @ W, xt @ W

    def k(u, v, kernel):
        return math.exp(-float((u - v).square().sum()) / (scale * 2 ** (-8 + kernel / 2)))

    h = {
        kernel: np.array(
            [
                k(zs[i], zs[j], kernel)
                + k(zt[i], zt[j], kernel)
                - k(zs[i], zt[j], kernel)
                - k(zs[j], zt[i], kernel)
                for i, j in itertools.product(range(n), repeat=2)
            ]
        )
        for kernel in (ks, kt)
    }
    assert float(d[ks]) == pytest.approx(h[ks].mean())
    covariance = np.cov(h[ks], h[kt], bias=True)
    found = Q[[ks, kt]][:, [ks, kt]]
    np.testing.assert_allclose(found, covariance)

    local = _mutual_neighbours(xt, 2)
    scatters = {True: torch.zeros(4, 4).double(), False: torch.zeros(4, 4).double()}
    for i, j in itertools.product(range(n), repeat=2):
        difference = (xt[i] - xt[j])[:, None]
        scatters[bool(local[i, j])] += k(zt[i], zt[j], ks) * difference @ difference.T
    ratio = torch.trace(W.T @ scatters[False] @ W) / torch.trace(W.T @ scatters[True] @ W)
    assert float(tau[ks]) == pytest.approx(float(ratio))


def test_neighbours_are_mutual_and_not_oneself():
    x = torch.tensor([[0.0], [1.0], [2.1], [9.0]])
    found = _mutual_neighbours(x, 1)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = True  # 2.1's nearest is 1, and 9's is 2.1, but not back
    assert torch.equal(found, expected)


def test_the_kernels_are_those_of_the_paper():
    assert len(BANDWIDTHS) == 33
    assert BANDWIDTHS[[0, 1, 16, 32]].tolist() == pytest.approx([2**-8, 2**-7.5, 1, 2**8])


def test_the_scale_is_the_median_over_all_experiences():
    experiences = past(3)
    l2t = LearningToTransfer().fit(experiences)
    squared = []
    for e in experiences:
        z = torch.cat([e.source, e.target]).double() @ e.W.double()
        squared += [(z[i] - z[j]).square().sum() for i, j in itertools.combinations(range(80), 2)]
    assert l2t.scale == pytest.approx(float(torch.stack(squared).median()))


@pytest.mark.equation("eq-l2t-f")
def test_f_is_the_equation():
    l2t = fitted()
    e = experience(100)
    source, target, W = (t.double() for t in (e.source, e.target, e.W))
    thinned = l2t._pair(source, target, W)
    d, Q, tau = _traits(*thinned, l2t.scale, 5)
    beta = l2t.beta
    inverse = d @ beta + l2t.lam * beta @ Q @ beta + l2t.mu / (beta @ tau) + l2t.b
    torch.testing.assert_close(l2t.improvement(W, source, target), 1 / inverse)


@pytest.mark.equation("eq-l2t-loss")
def test_the_fit_is_a_minimum_of_the_loss():
    """No step along a parameter that the bounds allow makes the loss smaller."""
    experiences = past(12)
    l2t = LearningToTransfer(n_samples=20, regularisation=1e-2).fit(experiences)
    wanted = torch.tensor([1 / e.improvement for e in experiences]).double()
    traits = [_traits(*l2t._pair(e.source, e.target, e.W), l2t.scale, 5) for e in experiences]

    def loss(beta, lam, mu, b):
        inverse = torch.stack(
            [d @ beta + lam * beta @ Q @ beta + mu / (beta @ tau) + b for d, Q, tau in traits]
        )
        size = (inverse - wanted).abs()
        huber = torch.where(size < 1, size**2 / 2, size - 0.5).mean()
        return huber + 1e-2 * (beta.square().sum() + lam**2 + mu**2)

    at = [l2t.beta, l2t.lam, l2t.mu, l2t.b]
    least = loss(*at)
    for part, step in itertools.product(range(4), (-1e-3, 1e-3)):
        moved = [*at]
        moved[part] = (moved[part] + step).clamp(min=1e-12 if part < 3 else 1e-2)
        assert loss(*moved) >= least - 1e-6


def test_what_is_learnt_keeps_f_finite():
    for l2t in (fitted(), fitted_to_shuffled()):
        assert bool((l2t.beta >= 0).all())
        assert l2t.beta.max() > 0
        assert l2t.lam >= 0
        assert l2t.mu >= 0
        assert l2t.b > 0


def test_improvements_beyond_the_bound_leave_f_finite():
    """Every transfer helped ten thousand times: 1 / f is not allowed to reach 0."""
    l2t = LearningToTransfer(n_samples=20).fit([replace(e, improvement=1e4) for e in past(4)])
    e = experience(0)
    assert 50 < float(l2t.improvement(e.W, e.source, e.target)) <= 100


# --- the gradient, and the invariances ---------------------------------------------------------


def test_the_gradient_in_W():
    source, target, _, generator = pair(50, n=15)
    W = subspace(generator).double().requires_grad_()
    l2t = fitted()
    assert torch.autograd.gradcheck(lambda W: l2t.improvement(W, source, target), W)


def test_turning_W_changes_nothing():
    source, target, _, generator = pair(51)
    W = subspace(generator, r=3).double()
    turned = W @ torch.linalg.qr(torch.randn(3, 3, generator=generator).double()).Q
    l2t = fitted()
    f, g = (l2t.improvement(w, source, target) for w in (W, turned))
    torch.testing.assert_close(f, g)
    other = subspace(generator, r=3)
    assert abs(f - l2t.improvement(other, source, target)) > 1e-4


def test_f_is_finite_for_every_orthonormal_W():
    source, target, _, generator = pair(52)
    source[:, 0] = target[:, 0] = 1.0  # and the axis along which all samples are one point
    l2t = fitted()
    spaces = [subspace(generator, r) for r in (1, 2, 6) for _ in range(50)]
    for W in [*spaces, torch.eye(D)[:, :1], torch.eye(D)]:
        W = W.double().requires_grad_()
        for s, t in (
            (source, target),
            (source, source),
            (1e3 * source, target),
            (source, 0 * target),
        ):
            f = l2t.improvement(W, s, t)
            f.backward()
            assert bool(torch.isfinite(f))
            assert 0 < f <= 100
            assert bool(torch.isfinite(W.grad).all())


def test_the_order_of_the_samples_and_the_dtype_of_the_input_do_not_matter():
    source, target, _, generator = pair(53, n=20)
    W, l2t = subspace(generator), fitted()
    f = l2t.improvement(W, source, target)
    assert f.dtype == torch.float64
    torch.testing.assert_close(l2t.improvement(W.double(), source.double(), target.double()), f)


def test_the_callers_random_state_and_tensors_are_left_alone():
    source, target, _, generator = pair(54)
    W, state = subspace(generator), torch.get_rng_state()
    kept = source.clone(), target.clone(), W.clone()
    found = fitted().infer(source, target)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(kept, (source, target, W), strict=True))
    assert torch.equal(found, fitted().infer(source, target))


# --- what it gains -----------------------------------------------------------------------------


def chosen_by(l2t, seed, n=6):
    """Return the true improvement of the best of n subspaces by f, and of their mean and best."""
    source, target, shift, generator = pair(seed)
    candidates = [subspace(generator) for _ in range(n)]
    best = max(candidates, key=lambda W: float(l2t.improvement(W, source, target)))
    all_true = [truth(W, shift) for W in candidates]
    return truth(best, shift), sum(all_true) / n, max(all_true)


def test_it_predicts_transfers_that_it_has_not_seen():
    new = [experience(seed) for seed in range(1000, 1030)]
    predicted = [float(fitted().improvement(e.W, e.source, e.target)) for e in new]
    assert np.corrcoef(predicted, [e.improvement for e in new])[0, 1] > 0.9


def test_its_choice_beats_never_and_always_the_same():
    choices = np.array([chosen_by(fitted(), seed) for seed in range(2000, 2020)])
    mine, same, hindsight = choices.mean(0)
    assert mine > max(1.0, same) + 0.15  # never to transfer has an improvement of 1
    assert mine > hindsight - 0.05


def test_shuffled_experiences_gain_nothing():
    choices = np.array([chosen_by(fitted_to_shuffled(), seed) for seed in range(2000, 2020)])
    mine, same, _ = choices.mean(0)
    assert mine < max(1.0, same)
    assert abs(mine - same) < 0.2


def test_infer_finds_a_subspace_without_the_shift():
    for seed in (3000, 3001):
        source, target, shift, _ = pair(seed)
        W = fitted().infer(source, target)
        assert W.shape == (D, 2)
        torch.testing.assert_close(W.T @ W, torch.eye(2).double())
        assert truth(W, shift) > 1.5


def test_infer_is_at_least_as_good_as_its_starts():
    source, target, _, generator = pair(3002)
    l2t, starts = fitted(), [subspace(generator) for _ in range(3)]
    W = l2t.infer(source, target, starts=starts)
    f = l2t.improvement(W, source, target)
    assert all(f >= l2t.improvement(start, source, target) - 1e-9 for start in starts)
    assert l2t.infer(source, target, n_components=4).shape == (D, 4)


def test_infer_returns_the_best_of_its_ends(monkeypatch):
    """With a search that does not move, the ends are the starts."""
    source, target, shift, _ = pair(3003)
    monkeypatch.setattr("tlcourse.adaptive.learning_to_transfer._minimise", lambda _f, A: A)
    l2t = fitted()
    unshifted = torch.eye(D)[:, shift == 0][:, :2]
    W = l2t.infer(source, target, starts=[torch.eye(D)[:, shift > 0][:, :2], unshifted])
    torch.testing.assert_close(W @ W.T, (unshifted @ unshifted.T).double())


def test_domains_of_unequal_size_and_of_more_samples_than_are_used():
    source, target, shift, generator = pair(60, n=200)
    W = subspace(generator)
    l2t = fitted()
    f = float(l2t.improvement(W, source[:25], target))
    assert math.isfinite(f)
    # Sorted domains: what is used is drawn from all of them, not their beginning.
    order = source[:, 0].argsort()
    sorted_f = float(l2t.improvement(W, source[order], target[target[:, 0].argsort()]))
    assert sorted_f == pytest.approx(truth(W, shift), abs=0.3)


# --- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_experiences(n):
    with pytest.raises(ValueError, match=f"at least 2 experiences to compare, got {n}"):
        LearningToTransfer().fit(past(n))


@pytest.mark.parametrize("improvement", [0.0, -0.1, float("nan"), float("inf")])
def test_wrong_improvements(improvement):
    experiences = past(3)
    experiences[1] = replace(experiences[1], improvement=improvement)
    with pytest.raises(ValueError, match=r"experiences\[1\]\.improvement must be"):
        LearningToTransfer().fit(experiences)


def test_before_fit():
    e = experience(0)
    with pytest.raises(RuntimeError, match=r"Call fit\(experiences\) first"):
        LearningToTransfer().improvement(e.W, e.source, e.target)
    with pytest.raises(RuntimeError, match=r"Call fit\(experiences\) first"):
        LearningToTransfer().infer(e.source, e.target)


@pytest.mark.parametrize(
    "W", [torch.eye(D - 1)[:, :2], torch.eye(D).repeat(1, 2), torch.eye(D)[:, :0]]
)
def test_W_of_a_wrong_shape(W):
    e = experience(0)
    with pytest.raises(ValueError, match=r"W \(D, r\) must go together, with r from 1 to D"):
        fitted().improvement(W, e.source, e.target)
    with pytest.raises(ValueError, match=r"must go together"):
        LearningToTransfer().fit([e, replace(e, W=W)])


def test_other_wrong_domains():
    e, l2t = experience(0), fitted()
    with pytest.raises(ValueError, match=r"W must have two dimensions, got shape \(6,\)"):
        l2t.improvement(e.W[:, 0], e.source, e.target)
    with pytest.raises(ValueError, match="target contains NaN"):
        l2t.improvement(e.W, e.source, e.target * torch.nan)
    with pytest.raises(TypeError, match="source must be a torch.Tensor, got ndarray"):
        l2t.infer(e.source.numpy(), e.target)
    with pytest.raises(ValueError, match="at least 2 samples, got 40 and 1"):
        l2t.improvement(e.W, e.source, e.target[:1])
    with pytest.raises(ValueError, match=r"n_components must be in \[1, 6\], got 7"):
        l2t.infer(e.source, e.target, n_components=7)
    with pytest.raises(ValueError, match=r"must go together"):
        l2t.infer(e.source, e.target, starts=[torch.eye(D + 1)[:, :2]])


@pytest.mark.parametrize(
    ("setting", "value"), [("n_samples", 1), ("neighbours", 0), ("regularisation", -1.0)]
)
def test_wrong_settings(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be at least"):
        LearningToTransfer(**{setting: value})
