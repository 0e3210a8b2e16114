"""Attention maps and both forms of their loss, against their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.matching import attention_map, attention_transfer_loss, capture
from tlcourse.models import SmallResNet

SIZES = [(5, 6, 4, 4), (5, 3, 2, 3)]  # two layers of a batch of 5


def layers(seed, sizes=SIZES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


@pytest.fixture
def pair():
    student = [a.requires_grad_() for a in layers(0)]
    teacher = layers(1, [(5, 9, 4, 4), (5, 2, 2, 3)])  # other channels
    return student, teacher


def distances(student, teacher, p=2):
    """Return || q_S - q_T ||_2 of every layer and sample, by plain loops."""
    found = []
    for A_S, A_T in zip(student, teacher, strict=True):
        rows = []
        for a_S, a_T in zip(A_S.tolist(), A_T.tolist(), strict=True):
            q = []
            for a in (a_S, a_T):
                height, width = len(a[0]), len(a[0][0])
                flat = [
                    sum(abs(channel[h][w]) ** p for channel in a)
                    for h in range(height)
                    for w in range(width)
                ]
                norm = math.sqrt(sum(value**2 for value in flat))
                q.append([value / norm for value in flat])
            rows.append(math.dist(*q))
        found.append(rows)
    return found


# --- the map ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-attention-map")
@pytest.mark.parametrize("p", [1, 2, 2.0, 3.5, 4])
def test_the_map_is_the_sum_of_powers_over_the_channels(p):
    (A,) = layers(0, [(2, 3, 2, 2)])
    F_A = attention_map(A, p)
    assert F_A.shape == (2, 2, 2)
    for n in range(2):
        for h in range(2):
            for w in range(2):
                expected = sum(abs(A[n, c, h, w].item()) ** p for c in range(3))
                assert F_A[n, h, w].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("eq-attention-map")
def test_the_map_does_not_see_order_or_sign_of_channels_and_large_p_follows_the_strongest():
    (A,) = layers(0, [(2, 6, 4, 4)])
    assert torch.allclose(attention_map(A), attention_map(-A[:, [3, 1, 5, 0, 2, 4]]))
    strongest = A.abs().amax(1)
    assert torch.allclose(attention_map(A, 200.0) ** (1 / 200), strongest, rtol=1e-2)


def test_half_precision_is_summed_in_float32():
    A = torch.full((1, 4096, 1, 1), 0.1, dtype=torch.bfloat16)
    F_A = attention_map(A)
    assert F_A.dtype == torch.float32
    assert F_A.item() == pytest.approx(4096 * A[0, 0, 0, 0].item() ** 2, rel=1e-5)


# --- both forms of the loss ----------------------------------------------------------------------


@pytest.mark.equation("eq-at-paper")
@pytest.mark.parametrize("p", [1, 2, 3])
def test_paper_form_is_the_definition(pair, p):
    expected = 0.7 / 2 * sum(sum(rows) / 5 for rows in distances(*pair, p))
    loss = attention_transfer_loss(*pair, p=p, beta=0.7, mode="paper")
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("eq-at-code")
def test_code_form_averages_squares_over_samples_and_positions_without_a_half(pair):
    found = distances(*pair)
    expected = 1e3 * sum(
        sum(d**2 for d in rows) / 5 / positions
        for rows, positions in zip(found, (4 * 4, 2 * 3), strict=True)
    )
    loss = attention_transfer_loss(*pair, mode="code")
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(attention_transfer_loss(*pair), loss)  # the form that beta = 1e3 belongs to


@pytest.mark.equation("eq-at-code")
def test_code_form_agrees_with_mse_of_normalised_maps(pair):
    """An independent implementation: torch's own mean squared error."""
    expected = sum(
        F.mse_loss(
            F.normalize(s.pow(2).mean(1).flatten(1)), F.normalize(t.pow(2).sum(1).flatten(1))
        )
        for s, t in zip(*pair, strict=True)
    )
    assert torch.isclose(attention_transfer_loss(*pair, beta=1.0, mode="code"), expected)


def test_in_the_code_form_beta_weighs_maps_of_different_sizes_differently():
    """The same picture on 4 times as many positions: a quarter of the loss, not the same."""
    student, teacher = layers(0, [(3, 2, 4, 4)]), layers(1, [(3, 2, 4, 4)])
    large_s, large_t = ([a[0].repeat(1, 1, 2, 2)] for a in (student, teacher))
    small = {m: attention_transfer_loss(student, teacher, mode=m) for m in ("paper", "code")}
    large = {m: attention_transfer_loss(large_s, large_t, mode=m) for m in ("paper", "code")}
    assert torch.isclose(large["paper"], small["paper"])
    assert torch.isclose(4 * large["code"], small["code"])


@pytest.mark.equation("eq-beta-match")
def test_both_forms_push_alike_at_the_matching_beta():
    """At the distance d of one map, beta_paper = 4 beta_code d / (H W) gives one gradient."""
    (A,), (B,) = layers(0, [(1, 3, 4, 4)]), layers(1, [(1, 3, 4, 4)])
    ((d,),) = distances([A], [B])
    gradients = []
    for mode, beta in (("paper", 4 * 1e3 * d / 16), ("code", 1e3)):
        A.requires_grad_()
        loss = attention_transfer_loss([A], [B], beta=beta, mode=mode)
        gradients.append(torch.autograd.grad(loss, A)[0])
    assert torch.allclose(*gradients, rtol=1e-10)


def test_the_paper_forms_push_does_not_fade_near_agreement():
    (A,), (direction,) = layers(0, [(4, 3, 4, 4)]), layers(1, [(4, 3, 4, 4)])
    norms = {"paper": [], "code": []}
    for mode, found in norms.items():
        for distance in (1e-2, 1e-4):
            S = (A + distance * direction).requires_grad_()
            loss = attention_transfer_loss([S], [A], mode=mode)
            found.append(torch.autograd.grad(loss, S)[0].norm())
    assert norms["paper"][1] / norms["paper"][0] == pytest.approx(1.0, rel=0.05)
    assert norms["code"][1] / norms["code"][0] == pytest.approx(1e-2, rel=0.05)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_agreement_gives_zero_and_a_finite_gradient(mode):
    (A,) = layers(0, [(4, 3, 4, 4)])
    S = (2 * A).requires_grad_()  # normalised maps do not see the scale
    loss = attention_transfer_loss([S], [A], mode=mode)
    assert loss.item() == pytest.approx(0.0, abs=1e-10)
    S = A.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(attention_transfer_loss([S], [A], mode=mode), S)
    assert torch.equal(gradient, torch.zeros_like(A))


@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("p", [1, 2, 3.5, 4, 8])
def test_small_activations_do_not_bring_the_scale_back(mode, p):
    """Their p-th powers fall below the least norm by which F.normalize divides."""
    (A,), (B,) = layers(0, [(4, 3, 8, 8)], torch.float32), layers(1, [(4, 3, 8, 8)], torch.float32)
    settings = {"p": p, "mode": mode, "beta": 1.0}
    assert attention_transfer_loss([1e-9 * A], [1e-3 * A], **settings).item() < 1e-6
    assert attention_transfer_loss([1e-3 * A], [1e-9 * A], **settings).item() < 1e-6
    assert math.isfinite(attention_transfer_loss([1e-21 * A], [1e-22 * A], **settings))
    *small, large = (
        attention_transfer_loss([scale * A], [B], **settings).item()
        for scale in (1e-15, 1e-9, 1e-7, 1e-5, 1e5, 1.0)
    )
    assert small == pytest.approx([large] * len(small), rel=1e-4)


def test_gradcheck_where_each_sample_is_scaled(pair):
    (_, student), (_, teacher) = pair
    assert torch.autograd.gradcheck(
        lambda s: attention_transfer_loss([s], [teacher], p=4, beta=2.0), student
    )


def test_with_p_2_the_scaling_changes_no_digit(pair):
    student, teacher = ([t.detach().float() for t in ts] for ts in pair)
    Q = [[F.normalize(t.square().sum(1).flatten(1)) for t in ts] for ts in (student, teacher)]
    expected = sum(
        torch.linalg.vector_norm(s - t, dim=1).mean() / 2 for s, t in zip(*Q, strict=True)
    )
    assert torch.equal(attention_transfer_loss(student, teacher, beta=1.0, mode="paper"), expected)


@pytest.mark.parametrize("mode", ["paper", "code"])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_maps_of_zeros_give_finite_numbers(mode, p):
    S = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = attention_transfer_loss([S], [torch.ones(2, 1, 4, 4)], p=p, mode=mode)
    loss.backward()
    assert bool(torch.isfinite(S.grad).all())


def test_the_limits_of_beta(pair):
    assert attention_transfer_loss(*pair, beta=0.0).item() == 0.0
    one, many = (attention_transfer_loss(*pair, beta=b) for b in (1.0, 1e6))
    assert torch.isclose(1e6 * one, many)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_gradcheck(pair, mode):
    student, teacher = pair
    assert torch.autograd.gradcheck(
        lambda *s: attention_transfer_loss(s, teacher, beta=2.0, mode=mode), tuple(student)
    )


# --- different sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_the_larger_map_is_averaged_down_to_the_smaller(mode):
    (small,), (large,) = layers(0, [(3, 5, 2, 2)]), layers(1, [(3, 7, 4, 4)])
    m = attention_map(large)
    quarters = [m[:, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2] for h in (0, 1) for w in (0, 1)]
    pooled = torch.stack([q.mean((1, 2)) for q in quarters], 1).reshape(3, 1, 2, 2)
    expected = attention_transfer_loss([small], [pooled.sqrt()], mode=mode)
    assert torch.isclose(attention_transfer_loss([small], [large], mode=mode), expected)
    assert torch.isclose(attention_transfer_loss([large], [small], mode=mode), expected)


def test_each_side_goes_down_to_its_own_smaller_size():
    (a,), (b,) = layers(0, [(3, 5, 2, 6)]), layers(1, [(3, 5, 4, 3)])
    loss = attention_transfer_loss([a], [b], beta=1.0, mode="code")
    maps = [F.adaptive_avg_pool2d(attention_map(t), (2, 3)).flatten(1) for t in (a, b)]
    assert torch.isclose(loss, F.mse_loss(*map(F.normalize, maps)))


# --- gradients and frozen state -------------------------------------------------------------------


def test_only_the_student_gets_a_gradient(pair):
    student, teacher = pair
    for t in teacher:
        t.requires_grad_()
    for mode in ("paper", "code"):
        attention_transfer_loss(student, teacher, mode=mode).backward()
    assert all(t.grad is None for t in teacher)
    assert all(bool((s.grad != 0).all()) for s in student)


def test_training_moves_the_student_and_leaves_every_byte_of_the_teacher():
    torch.manual_seed(0)
    teacher, student = SmallResNet(10, width=4).eval(), SmallResNet(10, width=2)
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(student.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    stages = [f"backbone.stage{i}" for i in (1, 2, 3)]
    x = torch.rand(16, 1, 32, 32)
    losses = []
    for _ in range(12):
        with capture(teacher, stages) as A_T, capture(student, stages) as A_S:
            with torch.no_grad():
                teacher(x)
            student(x)
        loss = attention_transfer_loss(list(A_S.values()), list(A_T.values()), mode="code")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())


def test_float32_stays_close_to_float64(pair):
    for mode in ("paper", "code"):
        double = attention_transfer_loss(*pair, mode=mode)
        single = attention_transfer_loss(*([t.float() for t in ts] for ts in pair), mode=mode)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(double.item(), rel=1e-5)


def test_half_precision_activations_give_a_float32_loss(pair):
    half = [[t.detach().bfloat16() for t in ts] for ts in pair]
    loss = attention_transfer_loss(*half, mode="code")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        attention_transfer_loss(*pair, mode="code").item(), rel=0.02
    )


# --- bad input ------------------------------------------------------------------------------------

S, T = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 4, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        ([S, S], [T], {}, "same number of layers.*got 2 and 1"),
        ([], [], {}, "student is empty"),
        ([S], [], {}, "teacher is empty"),
        ([S], [T[:1]], {}, r"student\[0\] and teacher\[0\] must hold the same batch.*\(1, 5, 4, 4"),
        ([S[:0]], [T[:0]], {}, "must hold the same batch of 1 sample or more"),
        ([S, S[0]], [T, T[0]], {}, r"student\[1\] and teacher\[1\] must hold the same batch"),
        ([S, S[:, 0]], [T, T], {}, r"student\[1\] must have shape \(N, C, H, W\).*\(2, 4, 4\)"),
        ([S], [T.flatten(1)], {}, r"teacher\[0\] must have shape \(N, C, H, W\).*got \(2, 80\)"),
        ([S[:, :0]], [T], {}, r"student\[0\] must have shape \(N, C, H, W\), none of them 0"),
        ([S], [T], {"mode": "papr"}, "mode is 'papr'; it takes 'code', 'paper'. Did you .*'paper'"),
        ([S], [T], {"mode": None}, "mode is None; it takes 'code', 'paper'"),
        ([S], [T], {"beta": -1.0}, "beta must be at least 0, got -1"),
        ([S], [T], {"beta": math.inf}, "beta must be finite, got inf"),
        ([S], [T], {"p": 0.5}, "p must be at least 1, got 0.5"),
        ([S], [T], {"p": math.nan}, "p must be finite, got nan"),
        ([S, S * math.nan], [T, T], {}, r"student\[1\] contains NaN"),
        ([S], [T * math.nan], {}, r"teacher\[0\] contains NaN"),
        ([S], [T * math.inf], {"mode": "code"}, r"teacher\[0\] contains infinite values"),
        ([S * 1e30], [T], {}, "not finite though its inputs are: it overflows torch.float32"),
    ],
)
def test_bad_values_are_named(student, teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        attention_transfer_loss(student, teacher, **settings)


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "message"),
    [
        (S, [T], {}, r"student must be a sequence of activations, got one Tensor of shape \(2, 3"),
        ([S], {"a": T}, {}, r"got a dict. Pass list\(activations.values\(\)\)"),
        ([S], 3, {}, r"teacher must be a sequence of activations, got int\.$"),
        ({"a": S}.values(), [T], {}, r"got dict_values. Pass a list of them: list\(...\)"),
        (["a"], [T], {}, r"student\[0\] must be a torch.Tensor, got str"),
        ([S.long()], [T], {}, r"student\[0\] must hold floating-point numbers"),
        ([S], [T.double()], {}, "same dtype, got torch.float32 and torch.float64"),
        ([S], [T], {"beta": "1"}, "beta must be a number, got '1'"),
        ([S], [T], {"p": True}, "p must be a number, got True"),
    ],
)
def test_bad_types_are_named(student, teacher, settings, message):
    with pytest.raises(TypeError, match=message):
        attention_transfer_loss(student, teacher, **settings)


def test_captured_activations_passed_as_they_are_say_what_to_do():
    net = nn.Sequential(nn.Conv2d(1, 2, 3))
    with capture(net, ["0"]) as activations:
        net(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError, match=r"got a Activations. Pass list\(activations.values"):
        attention_transfer_loss(activations, [S])


def test_map_names_bad_input():
    with pytest.raises(ValueError, match=r"activations must have shape \(N, C, H, W\)"):
        attention_map(S[0])
    with pytest.raises(ValueError, match="activations contains NaN"):
        attention_map(S * math.nan)
    with pytest.raises(ValueError, match="p must be at least 1"):
        attention_map(S, 0)
    with pytest.raises(TypeError, match="activations must be a torch.Tensor, got list"):
        attention_map(S.tolist())
