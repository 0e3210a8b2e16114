"""The distillation loss against its definition, its limits, and the mistakes made in public."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.distillation import distillation_loss, logit_gradient, soften

N, K = 7, 10


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(N, K, dtype=torch.float64, generator=generator)
    teacher = 5 * torch.randn(N, K, dtype=torch.float64, generator=generator)
    targets = torch.randint(K, (N,), generator=generator)
    return student.requires_grad_(), teacher, targets


def gradient(loss, logits):
    (grad,) = torch.autograd.grad(loss, logits)
    return grad


# --- the softened softmax ----------------------------------------------------------------------


@pytest.mark.equation("eq-soft-targets")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soften_is_the_definition(logits, temperature):
    z, _, _ = logits
    for row, probabilities in zip(z.tolist(), soften(z, temperature).tolist(), strict=True):
        weights = [math.exp(value / temperature) for value in row]
        assert probabilities == pytest.approx([w / sum(weights) for w in weights], rel=1e-12)


@pytest.mark.equation("eq-soft-targets")
def test_soften_runs_from_the_indicator_of_the_largest_logit_to_the_uniform(logits):
    z, _, _ = logits
    assert torch.equal(soften(z, 1e-3).round(), F.one_hot(z.argmax(1), K).double())
    assert torch.allclose(soften(z, 1e6), torch.full_like(z, 1 / K), atol=1e-5)
    entropy = [torch.special.entr(soften(z, T)).sum(1) for T in (1.0, 2.0, 4.0, 8.0)]
    assert all(bool((b > a).all()) for a, b in itertools.pairwise(entropy))


def test_soften_does_not_overflow():
    assert soften(torch.tensor([[1e4, -1e4]]), 0.01).tolist() == [[1.0, 0.0]]


# --- the loss ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-distillation-loss")
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_loss_is_the_definition(logits, temperature, alpha):
    z, v, y = logits
    q, q_T, p_T = (soften(a, T).tolist() for a, T in ((z, 1.0), (z, temperature), (v, temperature)))
    expected = sum(
        -(1 - alpha) * math.log(q[n][y[n]])
        - alpha * temperature**2 * sum(p_T[n][k] * math.log(q_T[n][k]) for k in range(K))
        for n in range(N)
    )
    loss = distillation_loss(z, v, y, temperature=temperature, alpha=alpha)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected / N, rel=1e-12)


@pytest.mark.equation("eq-distillation-loss")
def test_alpha_weighs_the_soft_term(logits):
    z, v, y = logits
    hard = F.cross_entropy(z, y)
    soft = distillation_loss(z, v, temperature=4.0)
    assert torch.equal(distillation_loss(z, v, y, alpha=0.0), hard)
    assert torch.equal(distillation_loss(z, v, y, alpha=1.0), soft)
    assert not torch.isclose(hard, soft)


@pytest.mark.equation("eq-kl-entropy")
def test_kl_subtracts_the_teachers_entropy_and_keeps_the_gradient(logits):
    z, v, y = logits
    for temperature in (1.0, 20.0):
        ce = distillation_loss(z, v, y, temperature=temperature)
        kl = distillation_loss(z, v, y, temperature=temperature, divergence="kl")
        p_T = soften(v, temperature)
        entropy = -(p_T * p_T.log()).sum(1).mean()
        assert torch.isclose(ce - kl, 0.9 * temperature**2 * entropy, rtol=1e-12)
        assert torch.allclose(gradient(ce, z), gradient(kl, z), rtol=1e-12, atol=1e-15)


@pytest.mark.equation("eq-kl-entropy")
def test_kl_is_zero_exactly_when_student_and_teacher_agree(logits):
    _, v, _ = logits
    shifted = v + torch.arange(N).double()[:, None]  # a softmax does not see a row's mean
    agree = distillation_loss(shifted, v, divergence="kl", reduction="none")
    assert agree.abs().max() < 1e-12
    assert distillation_loss(v.flip(1), v, divergence="kl") > 0.1


def test_reduction_none_is_a_loss_per_sample(logits):
    z, v, y = logits
    for divergence in ("ce", "kl"):
        rows = distillation_loss(z, v, y, reduction="none", divergence=divergence)
        assert rows.shape == (N,)
        assert torch.isclose(rows.mean(), distillation_loss(z, v, y, divergence=divergence))
        alone = distillation_loss(z[2:3], v[2:3], y[2:3], divergence=divergence)
        assert torch.isclose(rows[2], alone)


def test_loss_agrees_with_torch_kl_div(logits):
    """An independent implementation of the soft term: nn.KLDivLoss with the right reduction."""
    z, v, _ = logits
    T = 4.0
    kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(z / T, 1), F.softmax(v / T, 1))
    assert torch.isclose(distillation_loss(z, v, temperature=T, divergence="kl"), T**2 * kl)


def test_float32_stays_close_to_float64(logits):
    z, v, y = logits
    for T in (1.0, 20.0):
        double = distillation_loss(z, v, y, temperature=T)
        single = distillation_loss(z.float(), v.float(), y, temperature=T)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(double.item(), rel=1e-5)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", [{}, {"divergence": "kl"}, {"reduction": "none"}])
def test_half_precision_is_computed_in_float32(logits, half, settings):
    z, v, y = logits
    z, v = z.detach().to(half), v.to(half)
    expected = distillation_loss(z.float(), v.float(), y, **settings)
    assert expected.dtype == torch.float32
    for pair in ((z, v), (z, v.float()), (z.float(), v)):
        assert torch.equal(distillation_loss(*pair, y, **settings), expected)


def test_it_works_under_autocast():
    """Mixed precision: the student answers in bfloat16, the teacher's logits are cached."""
    torch.manual_seed(0)
    student, x = nn.Linear(6, K), torch.rand(N, 6)
    v, y = torch.randn(N, K), torch.arange(N) % K
    with torch.autocast("cpu", torch.bfloat16):
        z = student(x)
        loss = distillation_loss(z, v, y)
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(distillation_loss(student(x), v, y).item(), rel=0.01)
    loss.backward()
    assert bool((student.weight.grad != 0).any())


# --- gradients ---------------------------------------------------------------------------------


def test_the_student_gets_a_gradient_and_the_teacher_none(logits):
    z, v, y = logits
    v = v.clone().requires_grad_()
    for divergence in ("ce", "kl"):
        distillation_loss(z, v, y, divergence=divergence).backward()
    assert v.grad is None
    assert z.grad is not None
    assert bool((z.grad != 0).all())


def test_gradcheck(logits):
    z, v, y = logits
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, v, y), (z,))


@pytest.mark.equation("eq-t-squared")
def test_t_squared_keeps_the_gradient_on_one_scale(logits):
    z, v, _ = logits
    norms = [gradient(distillation_loss(z, v, temperature=T), z).norm() for T in (50.0, 500.0)]
    bare = [gradient(distillation_loss(z, v, temperature=T), z).norm() / T**2 for T in (50, 500)]
    assert norms[1] / norms[0] == pytest.approx(1.0, rel=0.05)
    assert bare[0] / bare[1] == pytest.approx(100.0, rel=0.05)


# --- the mistakes made in public ---------------------------------------------------------------


def test_mistake_forgotten_t_squared(logits):
    """Without T^2 the soft term all but vanishes at T = 20: the mix is not the one asked for."""
    z, v, y = logits
    T, alpha = 20.0, 0.9
    wrong = (1 - alpha) * F.cross_entropy(z, y) + alpha * F.cross_entropy(z / T, soften(v, T))
    soft_part = gradient(alpha * F.cross_entropy(z / T, soften(v, T)), z).norm()
    assert soft_part < 0.02 * gradient((1 - alpha) * F.cross_entropy(z, y), z).norm() / (1 - alpha)
    right = distillation_loss(z, v, y, temperature=T, alpha=alpha)
    assert not torch.allclose(gradient(right, z), gradient(wrong, z), rtol=0.5)


@pytest.mark.equation("eq-kldiv-mean")
def test_mistake_kldiv_averaged_over_classes(logits):
    """nn.KLDivLoss's default divides by N K, not by N: K times too small."""
    z, v, _ = logits
    T = 4.0
    with pytest.warns(UserWarning, match="batchmean"):
        wrong = nn.KLDivLoss()(F.log_softmax(z / T, 1), F.softmax(v / T, 1))
    right = distillation_loss(z, v, temperature=T, divergence="kl") / T**2
    assert torch.isclose(right, K * wrong)


def test_mistake_teacher_compared_with_itself(logits):
    """The loss of a teacher against itself has no gradient: nothing is learnt, and nothing shows.

    The cross-entropy is not 0 (it is the teacher's entropy), so a falling loss cannot tell; "kl" is
    0 at once, and the gradient vanishes.
    """
    _, v, _ = logits
    v = v.clone().requires_grad_()
    ce = distillation_loss(v, v, temperature=4.0)
    assert ce > 1.0
    assert gradient(ce, v).abs().max() < 1e-12
    assert distillation_loss(v, v, divergence="kl").abs() < 1e-12


def test_loss_gradient_is_the_closed_form(logits):
    """T^2 (q - p) / T / N: the whole soft term, on its way back."""
    z, v, _ = logits
    for T in (1.0, 4.0, 20.0):
        expected = T**2 * logit_gradient(z.detach(), v, T) / N
        assert torch.allclose(gradient(distillation_loss(z, v, temperature=T), z), expected)


# --- bad input ---------------------------------------------------------------------------------

Z, V, Y = torch.zeros(4, 3), torch.ones(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((Z, torch.ones(4, 5), Y), {}, r"same shape, got \(4, 3\) and \(4, 5\)"),
        ((Z, torch.ones(3, 3), Y), {}, r"same shape, got \(4, 3\) and \(3, 3\)"),
        ((Z[0], V[0], Y[:1]), {}, r"student_logits must have shape \(N, K\).*got \(3,\)"),
        ((Z[:0], V[:0], Y[:0]), {}, r"student_logits is empty"),
        ((Z[:, :1], V[:, :1], Y * 0), {}, "at least 2 classes"),
        ((Z, V, Y[:2]), {}, r"targets must have shape \(4,\), got \(2,\)"),
        ((Z, V, Y + 1), {}, r"targets must lie in \[0, 2\] for 3 classes, got values from 1 to 3"),
        ((Z, V, Y - 100), {}, r"targets must lie in \[0, 2\].*from -100"),
        ((Z, V, Y), {"temperature": 0.0}, "temperature must be greater than 0, got 0"),
        ((Z, V, Y), {"temperature": -2.0}, "temperature must be greater than 0, got -2"),
        ((Z, V, Y), {"temperature": math.nan}, "temperature must be finite, got nan"),
        ((Z, V, Y), {"temperature": math.inf}, "temperature must be finite, got inf"),
        ((Z, V, Y), {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ((Z, V, Y), {"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        ((Z, V, Y), {"divergence": "kldiv"}, "divergence is 'kldiv'; it takes 'ce', 'kl'"),
        ((Z, V, Y), {"reduction": "sum"}, "reduction is 'sum'; it takes 'mean', 'none'"),
        ((Z * math.nan, V, Y), {}, "student_logits contains NaN"),
        ((Z, V * math.nan, Y), {}, "teacher_logits contains NaN"),
        ((Z, V * math.nan, None), {"reduction": "none"}, "teacher_logits contains NaN"),
        ((Z, V * math.inf, Y), {"divergence": "kl"}, "teacher_logits contains infinite values"),
    ],
)
def test_bad_values_are_named(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(*arguments, **settings)


def test_a_teacher_that_is_sure_beyond_all_numbers_is_refused_whatever_its_weight():
    """Minus infinity is a probability of 0 and reaches no sum; the docstring promises an error."""
    v = torch.tensor([[0.0, 1.0, -math.inf]])
    for alpha in (0.0, 0.5, 1.0):
        with pytest.raises(ValueError, match="teacher_logits contains infinite values"):
            distillation_loss(Z[:1], v, Y[:1], alpha=alpha)
        with pytest.raises(ValueError, match="student_logits contains infinite values"):
            distillation_loss(v, Z[:1], Y[:1], alpha=alpha)


def test_nan_in_the_last_row_is_found_without_a_reduction():
    z = Z.clone()
    z[-1, 1] = math.nan
    with pytest.raises(ValueError, match="student_logits contains NaN"):
        distillation_loss(z, V, Y, reduction="none")


def test_a_weight_of_0_takes_its_term_out_even_where_that_overflows():
    z = torch.tensor([[1e38, -1e38, 0.0]])
    v, y = torch.zeros(1, 3), torch.tensor([0])
    assert distillation_loss(z, v, y, alpha=0.0).item() == 0.0  # plain cross-entropy: it is right
    with pytest.raises(ValueError, match="overflows"):
        distillation_loss(z, v, y, alpha=0.5)
    wrong = torch.tensor([[3e38, -3e38, 0.0]])  # the cross-entropy of class 1 overflows
    soft = distillation_loss(wrong, wrong, temperature=1e3)
    assert torch.equal(
        distillation_loss(wrong, wrong, torch.tensor([1]), temperature=1e3, alpha=1.0), soft
    )


def test_large_numbers_whose_sum_overflows_are_no_error():
    z = torch.full((4, 3), 3e38)
    assert math.isfinite(distillation_loss(z, V, Y, alpha=0.0))


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((Z.long(), V, Y), {}, "student_logits must hold floating-point numbers, got .*int64"),
        ((Z, V.double(), Y), {}, "same dtype, got torch.float32 and torch.float64"),
        ((Z.half(), V.double(), Y), {}, "same dtype, got torch.float16 and torch.float64"),
        ((Z, V, Y.float()), {}, "targets must hold class indices of dtype int64, got .*float32"),
        ((Z, V.tolist(), Y), {}, "teacher_logits must be a torch.Tensor, got list"),
        ((Z, V, [0, 1, 2, 0]), {}, "targets must be a torch.Tensor, got list"),
        ((Z, V, Y), {"temperature": "4"}, r"temperature must be a number, got '4' \(str\)"),
        ((Z, V, Y), {"alpha": True}, "alpha must be a number, got True"),
    ],
)
def test_bad_types_are_named(arguments, settings, message):
    with pytest.raises(TypeError, match=message):
        distillation_loss(*arguments, **settings)


def test_soften_names_bad_input():
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        soften(Z, 0)
    with pytest.raises(ValueError, match="logits contains NaN"):
        soften(Z * math.nan, 1.0)
    with pytest.raises(ValueError, match=r"logits must have shape \(N, K\)"):
        soften(Z[0], 1.0)
