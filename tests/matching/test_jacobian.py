"""Jacobian matching, and its derivation as distillation with noise on the input."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tlcourse.matching import activation_matching_loss, jacobian_matching_loss, sobolev_loss
from tlcourse.models import SmallResNet

N, D, K = 5, 4, 3


def net(seed, width=16):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, width), nn.Tanh(), nn.Linear(width, K)).double()


@pytest.fixture
def case():
    torch.manual_seed(0)
    return net(1), net(2), torch.randn(N, D, dtype=torch.float64)


def jacobians(f, x):
    """Return each sample's Jacobian, (N, K, D), by torch.func: an independent way."""
    return torch.func.vmap(torch.func.jacrev(f))(x).detach()


def hessian_of(f, x):
    """Return each sample's second derivatives, (N, K, D, D)."""
    return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(f)))(x).detach()


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-jacobian-matching")
@pytest.mark.parametrize("normalize", [True, False])
def test_argmax_compares_the_rows_of_the_teachers_largest_output(case, normalize):
    student, teacher, x = case
    k = teacher(x).argmax(1)
    assert not torch.equal(k, student(x).argmax(1))  # or the test could not tell whose it is
    rows = [jacobians(f, x)[torch.arange(N), k] for f in (student, teacher)]  # (N, D)
    if normalize:
        rows = [r / r.norm(dim=1, keepdim=True) for r in rows]
    expected = (rows[0] - rows[1]).square().sum(1).mean()
    loss = jacobian_matching_loss(student, teacher, x, normalize=normalize)
    assert loss.shape == ()
    assert torch.isclose(loss, expected, rtol=1e-12)


def test_normalised_it_lies_between_0_and_4_and_does_not_see_the_scale(case):
    student, teacher, x = case
    assert jacobian_matching_loss(lambda x: 3 * teacher(x), teacher, x).item() < 1e-20
    assert jacobian_matching_loss(lambda x: -teacher(x), teacher, x).item() == pytest.approx(4.0)
    loss = jacobian_matching_loss(student, teacher, x)
    assert torch.isclose(jacobian_matching_loss(lambda x: 5 * student(x), teacher, x), loss)


@pytest.mark.equation("eq-jacobian-random")
def test_random_projections_have_the_frobenius_norm_as_expectation(case):
    student, teacher, x = case
    frobenius = (jacobians(student, x) - jacobians(teacher, x)).square().sum((1, 2)).mean()
    many = x.repeat(40_000, 1)
    generator = torch.Generator().manual_seed(0)
    loss = jacobian_matching_loss(
        student, teacher, many, output="random", normalize=False, generator=generator
    )
    assert loss.item() == pytest.approx(frobenius.item(), rel=0.01)


@pytest.mark.equation("eq-jacobian-random")
def test_vectors_of_length_1_would_give_it_divided_by_the_number_of_outputs(case):
    """The public mistake: v / ||v|| makes the loss K times too small. Ours is not."""
    student, teacher, x = case
    difference = jacobians(student, x) - jacobians(teacher, x)  # (N, K, D)
    torch.manual_seed(0)
    v = F.normalize(torch.randn(200_000, K, dtype=torch.float64))
    mean = torch.einsum("mk,nkd->nmd", v, difference).square().sum(2).mean()
    assert mean.item() == pytest.approx(difference.square().sum((1, 2)).mean().item() / K, rel=0.01)
    loss = jacobian_matching_loss(
        student, teacher, x.repeat(40_000, 1), output="random", normalize=False
    )
    assert loss.item() == pytest.approx(K * mean.item(), rel=0.02)


def test_random_draws_follow_the_generator(case):
    losses = [
        jacobian_matching_loss(
            *case, output="random", generator=torch.Generator().manual_seed(seed)
        ).item()
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_student_that_equals_its_teacher_has_no_loss(case):
    _, teacher, x = case
    for output in ("argmax", "random"):
        assert jacobian_matching_loss(teacher, teacher, x, output=output).item() == 0.0


def test_images_are_flattened():
    torch.manual_seed(0)
    student, teacher = (SmallResNet(4, width=2).eval() for _ in range(2))
    x = torch.rand(3, 1, 16, 16)
    loss = jacobian_matching_loss(student, teacher, x, normalize=False)
    k = teacher(x).argmax(1)
    rows = [torch.stack([jacobians_of_image(f, x[n], k[n]) for n in range(3)]) for f in
            (student, teacher)]  # fmt: skip
    assert torch.isclose(loss, (rows[0] - rows[1]).square().sum((1, 2, 3)).mean(), rtol=1e-4)


def jacobians_of_image(f, image, k):
    image = image[None].clone().requires_grad_()
    return torch.autograd.grad(f(image)[0, k], image)[0][0]


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_the_students_gradient_against_finite_differences(case, normalize):
    student, teacher, x = case
    names, values = zip(*student.named_parameters(), strict=True)

    def loss(*parameters):
        def f(inputs):
            state = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(student, state, (inputs,))

        return jacobian_matching_loss(f, teacher, x, normalize=normalize)

    assert torch.autograd.gradcheck(loss, values)


def test_the_teacher_and_the_inputs_get_no_gradient_and_the_student_does(case):
    student, teacher, x = case
    x.requires_grad_()
    for output in ("argmax", "random"):
        jacobian_matching_loss(student, teacher, x, output=output).backward()
    assert x.grad is None
    assert all(p.grad is None for p in teacher.parameters())
    assert student[0].weight.grad is not None
    assert student[2].bias.grad is None  # an added constant has no Jacobian


def test_a_teacher_in_training_mode_keeps_its_statistics_and_its_modes():
    torch.manual_seed(0)
    teacher, student = SmallResNet(4, width=2), SmallResNet(4, width=2)
    teacher.train()
    teacher.backbone.stage1.eval()
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    modes = [m.training for m in teacher.modules()]
    x = torch.rand(4, 1, 16, 16)
    inside = jacobian_matching_loss(student.eval(), teacher, x)
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    assert [m.training for m in teacher.modules()] == modes
    assert torch.isclose(inside, jacobian_matching_loss(student, teacher.eval(), x))


def test_a_method_of_a_module_is_a_teacher_in_eval_mode_and_a_function_runs_as_it_is():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(D, K), nn.BatchNorm1d(K), nn.Dropout(0.9))
    student, x = nn.Linear(D, K), torch.randn(N, D)
    expected = jacobian_matching_loss(student, teacher, x)
    assert torch.equal(jacobian_matching_loss(student, teacher.forward, x), expected)
    assert teacher[1].num_batches_tracked == 0
    assert teacher[1].training
    jacobian_matching_loss(student, lambda x: teacher(x), x)
    assert teacher[1].num_batches_tracked == 1  # as the docstring says


def test_training_steps_move_the_student_and_leave_every_byte_of_the_teacher(case):
    student, teacher, x = case
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(150):
        loss = jacobian_matching_loss(student, teacher, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())


def test_without_grad_it_is_only_a_number(case):
    with torch.no_grad():
        loss = jacobian_matching_loss(*case)
    assert not loss.requires_grad
    assert torch.isclose(loss, jacobian_matching_loss(*case))


@pytest.mark.parametrize("where", ["values", "derivative"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_students_output_that_is_not_finite_is_an_error_though_it_reaches_no_derivative(
    case, value, where
):
    student, teacher, x = case

    def broken(x):
        z = student(x)
        if where == "values":  # a column that v does not look at, or that has no graph
            return torch.cat([z[:, :-1], torch.full_like(z[:, :1], value)], 1)
        return z * value

    with pytest.raises(ValueError, match=r"student\(x\) contains"):
        jacobian_matching_loss(broken, teacher, x)


def test_the_teachers_graph_is_gone_before_the_student_runs(case):
    """It is needed once; to keep it would hold the activations of two networks at a time."""
    student, teacher, x = case
    alive = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            alive.append(ctx)
            return a.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def watched_student(x):
        with pytest.raises(RuntimeError, match="saved tensors after they have"):
            alive[0].saved_tensors  # noqa: B018
        return student(x)

    jacobian_matching_loss(watched_student, lambda x: teacher(Watched.apply(x)), x)
    assert len(alive) == 1


class HardSigmoid(nn.Module):
    """A network with each way to write a hard sigmoid."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.way = nn.Linear(D, 8), nn.Linear(8, K), way

    def forward(self, x):
        a = 3 * self.layer(x)
        if self.way == "formula":
            return self.head(F.relu6(a + 3) / 6)
        if self.way == "in place":
            F.hardsigmoid(a, inplace=True)  # the result is thrown away
            return self.head(a)
        return self.head(nn.Hardsigmoid()(a) if self.way == "module" else F.hardsigmoid(input=a))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, K)
        self.seen = []

    def forward(self, x):
        self.seen.append(torch.backends.cudnn.enabled)
        return self.head(self.lstm(x.view(len(x), -1, 2))[0][:, -1])


@pytest.mark.parametrize("loss", [jacobian_matching_loss, partial(sobolev_loss, weight=1.0)])
def test_layers_whose_fused_form_has_no_second_derivative_are_trained(loss):
    torch.manual_seed(0)
    x, teacher, found = torch.randn(N, D), nn.Linear(D, K), {}
    for way in ("formula", "module", "F", "in place"):
        student = HardSigmoid(way)
        value = loss(student, teacher, x)
        value.backward()
        found[way] = [value.detach(), student.layer.weight.grad]
    for way in ("module", "F", "in place"):
        torch.testing.assert_close(found[way], found["formula"])
    assert found["formula"][1].abs().sum() > 0

    student = Recurrent()
    loss(student, teacher, x).backward()
    assert student.seen == [False]  # cuDNN's has none
    assert torch.backends.cudnn.enabled
    assert student.lstm.weight_ih_l0.grad.abs().sum() > 0


def attention_net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (2, 2)),
        nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(4, K),
    )


@pytest.mark.parametrize("order", [None, 1, 2])
def test_attention_is_differentiated_twice(order):
    """PyTorch's fused attention has no second derivative; its formula has."""
    torch.manual_seed(3)
    x, gradients = torch.randn(N, D), []
    for backend in (SDPBackend.MATH, None):
        student, teacher = attention_net(0), attention_net(1)
        with nullcontext() if backend is None else sdpa_kernel(backend):
            if order is None:
                loss = jacobian_matching_loss(student, teacher, x)
            else:
                loss = sobolev_loss(student, teacher, x, weight=1.0, order=order)
            loss.backward()
        gradients.append(student[1].self_attn.in_proj_weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)
    assert torch.backends.cuda.flash_sdp_enabled()


# --- the derivation: noise on the input -----------------------------------------------------------


def expectation(g, x, sigma, n_nodes=40):
    """Return E g(x + e), e ~ N(0, sigma^2 I) in two dimensions, by Gauss-Hermite quadrature."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights) / math.sqrt(2 * math.pi)
    e = torch.cartesian_prod(nodes, nodes) * sigma  # (M, 2)
    w = torch.cartesian_prod(weights, weights).prod(1)  # (M,)
    return (w * g(x + e)).sum()


def smooth(x):
    """A function R^2 -> R with known derivatives: (N, 2) -> (N,)."""
    return torch.sin(1.3 * x[..., 0]) * torch.exp(0.5 * x[..., 1]) + 0.4


def derivatives_of_smooth(x):
    s, c, e = torch.sin(1.3 * x[0]), torch.cos(1.3 * x[0]), torch.exp(0.5 * x[1])
    gradient = torch.stack([1.3 * c * e, 0.5 * s * e])
    laplacian = (-1.3 * 1.3 + 0.5 * 0.5) * s * e
    return gradient, laplacian


@pytest.mark.equation("eq-noise-expansion", "eq-noise-identity")
def test_noise_adds_the_squared_gradient_and_the_laplacian_term():
    """E g(x + e)^2 - g^2 = s^2 (||grad g||^2 + g lap g) + O(s^4)."""
    x = torch.tensor([0.7, -0.3], dtype=torch.float64)
    g = smooth(x)
    gradient, laplacian = derivatives_of_smooth(x)
    predicted = gradient.square().sum() + g * laplacian
    errors = []
    for sigma in (0.2, 0.1, 0.05):
        measured = (expectation(lambda y: smooth(y) ** 2, x, sigma) - g**2) / sigma**2
        errors.append((measured - predicted).abs().item())
    # What is left is of the order s^2 after the division: a quarter at half the noise.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)
    # The papers' form, without the Laplacian, keeps an error that no small noise removes.
    dropped = (measured - gradient.square().sum()).abs().item()
    assert dropped == pytest.approx(abs((g * laplacian).item()), rel=0.05)
    assert dropped > 20 * errors[2]


@pytest.mark.equation("eq-noise-distillation")
def test_distillation_with_noise_is_matching_values_and_jacobians_and_the_laplacian_term():
    """The same for networks: g = f_T - f_S, by Monte Carlo with antithetic noise."""
    student, teacher = net(1), net(2)
    torch.manual_seed(3)
    x = torch.randn(N, D, dtype=torch.float64)
    sigma, draws = 0.05, 40_000
    e = sigma * torch.randn(draws, N, D, dtype=torch.float64)
    noisy = torch.cat([x + e, x - e]).flatten(0, 1)
    with torch.no_grad():
        measured = activation_matching_loss(student(noisy), teacher(noisy))
        plain = activation_matching_loss(student(x), teacher(x))

    def g(inputs):
        return student(inputs) - teacher(inputs)  # (D,) -> (K,)

    jacobian = jacobians(g, x).square().sum((1, 2)).mean()
    hessians = hessian_of(g, x)  # (N, K, D, D)
    laplacians = hessians.diagonal(dim1=2, dim2=3).sum(2)  # (N, K)
    curvature = (g(x) * laplacians).sum(1).mean()
    predicted = plain + sigma**2 * (jacobian + curvature)
    assert (measured - predicted).item() == pytest.approx(
        0.0, abs=0.02 * sigma**2 * jacobian.item()
    )
    # The term that the paper drops is no rounding: without it the sum is off by several per cent.
    assert abs(curvature) > 0.05 * jacobian


@pytest.mark.equation("eq-laplacian-fades")
def test_the_laplacian_term_fades_as_the_values_agree():
    """For g = f_T - f_S = c h(x) + (h - h(x)): values agree as c falls, derivatives do not change.

    Then the kept term stays and the dropped one falls in proportion to c.
    """
    h = net(4)
    torch.manual_seed(3)
    x = torch.randn(1, D, dtype=torch.float64)
    h_x = h(x).detach()[0]  # (K,)
    kept, dropped = [], []
    for c in (1.0, 0.1, 0.0):

        def g(inputs, c=c):
            return c * h_x + (h(inputs) - h_x)

        laplacian = hessian_of(g, x)[0].diagonal(dim1=1, dim2=2).sum(1)  # (K,)
        kept.append(jacobians(g, x).square().sum().item())
        dropped.append((g(x)[0] * laplacian).sum().item())
    assert kept[0] == pytest.approx(kept[1]) == pytest.approx(kept[2])
    assert dropped[1] == pytest.approx(0.1 * dropped[0], rel=1e-6)
    assert dropped[2] == pytest.approx(0.0, abs=1e-12)
    assert abs(dropped[0]) > 1e-3


# --- bad input ------------------------------------------------------------------------------------

X = torch.randn(4, D)
F_S, F_T = nn.Linear(D, K), nn.Linear(D, K)


class Probe(nn.Module):
    """A head on a backbone under torch.no_grad(): its output has a graph that does not reach x."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(D, 8), nn.Linear(8, K)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


@pytest.mark.parametrize(
    ("student", "teacher", "x", "settings", "message"),
    [
        (F_S, F_T, X, {"output": "max"}, "output is 'max'; it takes 'argmax', 'random'. Did you"),
        (F_S, F_T, X, {"output": None}, "output is None; it takes 'argmax', 'random'"),
        (F_S, F_T, X[:0], {}, r"x must be a batch of shape \(N, ...\), N >= 1; got \(0, 4\)"),
        (F_S, F_T, X[0], {}, r"x must be a batch"),
        (F_S, F_T, X * math.nan, {}, "x contains NaN"),
        (F_S, nn.Linear(D, 2), X, {}, r"student\(x\) and teacher\(x\) must have the same shape"),
        (lambda x: F_S(x).sum(1), F_T, X, {}, r"student\(x\) must have shape \(N, K\)"),
        (lambda x: F_S(x).sum(), F_T, X, {}, r"student\(x\) must have shape \(N, K\).*got \(\)"),
        (F_S, lambda x: F_T(x.detach()).detach(), X, {}, r"teacher\(x\) does not depend on x"),
        (lambda x: F_S(x).detach(), F_T, X, {}, r"student\(x\) does not depend on x"),
        (F_S, Probe(), X, {}, r"teacher\(x\) does not depend on x.*use requires_grad_\(False\)"),
        (Probe(), F_T, X, {}, r"student\(x\) does not depend on x"),
        (F_S, lambda x: F_T(x) * math.nan, X, {}, r"teacher\(x\) contains NaN"),
        (lambda x: F_S(x) * math.inf, F_T, X, {}, r"student\(x\) contains (infinite values|NaN)"),
    ],
)
def test_bad_values_are_named(student, teacher, x, settings, message):
    with pytest.raises(ValueError, match=message):
        jacobian_matching_loss(student, teacher, x, **settings)


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="x must hold floating-point numbers, got dtype"):
        jacobian_matching_loss(F_S, F_T, X.long())
    with pytest.raises(TypeError, match="normalize must be True or False, got 1"):
        jacobian_matching_loss(F_S, F_T, X, normalize=1)
    for output in ("argmax", "random"):
        with pytest.raises(TypeError, match=r"generator must be a torch.Generator.*got 3 \(int\)"):
            jacobian_matching_loss(F_S, F_T, X, output=output, generator=3)
    with pytest.raises(TypeError, match=r"teacher\(x\) must be a torch.Tensor, got list"):
        jacobian_matching_loss(F_S, lambda x: [x], X)
    with pytest.raises(TypeError, match="same dtype"):
        jacobian_matching_loss(lambda x: F_S(x).double(), F_T, X)
