"""Sobolev training against derivatives known in closed form."""

import math

import pytest
import torch
from torch import nn

from tlcourse.matching import sobolev_loss

generator = torch.Generator().manual_seed(0)
X = torch.randn(6, 2, dtype=torch.float64, generator=generator)


def student(x):  # (N, 2) -> (N,): gradient (2a, 1), second derivatives [[2, 0], [0, 0]]
    return x[:, 0] ** 2 + x[:, 1]


def teacher(x):  # gradient (b, a), second derivatives [[0, 1], [1, 0]]
    return x[:, 0] * x[:, 1]


@pytest.mark.equation("eq-sobolev")
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_values_gradients_and_second_derivatives(order, weight):
    expected = 0.0
    for a, b in X.tolist():
        terms = [(a * a + b - a * b) ** 2, (2 * a - b) ** 2 + (1 - a) ** 2, 2**2 + 1 + 1]
        expected += terms[0] + weight * sum(terms[1 : order + 1])
    loss = sobolev_loss(student, teacher, X, weight=weight, order=order)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected / len(X), rel=1e-12)


@pytest.mark.equation("eq-sobolev")
def test_several_outputs_are_the_sum_of_their_losses():
    def both(f, g):
        return lambda x: torch.stack([f(x), g(x)], 1)

    zero = torch.zeros_like
    one = sobolev_loss(student, lambda x: zero(x[:, 0]) * x[:, 0], X, weight=0.5, order=2)
    two = sobolev_loss(teacher, lambda x: zero(x[:, 0]) * x[:, 0], X, weight=0.5, order=2)
    together = sobolev_loss(both(student, teacher), lambda x: zero(x) * x, X, weight=0.5, order=2)
    assert torch.isclose(together, one + two)
    column = sobolev_loss(
        lambda x: student(x)[:, None], lambda x: teacher(x)[:, None], X, weight=0.5
    )
    assert torch.isclose(column, sobolev_loss(student, teacher, X, weight=0.5))


def test_order_1_agrees_with_torch_func():
    torch.manual_seed(0)
    f, g = (nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double() for _ in range(2))
    J = [torch.func.vmap(torch.func.jacrev(net))(X) for net in (f, g)]
    H = [torch.func.vmap(torch.func.jacrev(torch.func.jacrev(net)))(X) for net in (f, g)]
    value = (f(X) - g(X)).square().sum(1).mean()
    first = (J[0] - J[1]).square().sum((1, 2)).mean()
    second = (H[0] - H[1]).square().sum((1, 2, 3)).mean()
    assert torch.isclose(sobolev_loss(f, g, X, weight=0.7), value + 0.7 * first)
    assert torch.isclose(sobolev_loss(f, g, X, weight=0.7, order=2), value + 0.7 * (first + second))


def test_the_limits_of_the_weight():
    plain = sobolev_loss(student, teacher, X, weight=1.0, order=0)
    assert torch.equal(sobolev_loss(student, teacher, X, weight=0.0, order=2), plain)
    slopes = sobolev_loss(student, teacher, X, weight=1.0) - plain
    assert sobolev_loss(student, teacher, X, weight=1e9).item() == pytest.approx(
        1e9 * slopes.item(), rel=1e-6
    )


def test_inputs_of_any_shape_are_flattened():
    images = X.reshape(3, 1, 2, 2)

    def flat(f):
        return lambda x: f(x.reshape(-1, 2)).reshape(len(x), 2)

    loss = sobolev_loss(flat(student), flat(teacher), images, weight=0.3, order=2)
    assert torch.isclose(loss, 2 * sobolev_loss(student, teacher, X, weight=0.3, order=2))


def test_gradcheck_and_who_gets_a_gradient():
    torch.manual_seed(0)
    net, other = (nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double() for _ in "ab")
    names, values = zip(*net.named_parameters(), strict=True)

    def loss(*parameters):
        state = dict(zip(names, parameters, strict=True))
        return sobolev_loss(
            lambda x: torch.func.functional_call(net, state, (x,)), other, X, weight=0.3, order=2
        )

    assert torch.autograd.gradcheck(loss, values)
    x = X.clone().requires_grad_()
    before = {name: p.clone() for name, p in other.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        sobolev_loss(net, other, x, weight=0.3).backward()
        optimizer.step()
    assert x.grad is None
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in other.named_parameters())
    assert bool((net[0].weight.grad != 0).all())


def test_the_teacher_gets_no_gradient_from_any_order():
    torch.manual_seed(0)
    net, other = (nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double() for _ in "ab")
    for order in (0, 1, 2):
        sobolev_loss(net, other, X, weight=0.3, order=order).backward()
        assert all(p.grad is None for p in other.parameters()), order


def test_a_teacher_in_training_mode_keeps_its_statistics():
    torch.manual_seed(0)
    noisy = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 1))
    before = {name: t.clone() for name, t in noisy.state_dict().items()}
    first, again = (
        sobolev_loss(lambda x: x[:, :1], noisy, X.float(), weight=1.0) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert all(torch.equal(t, before[name]) for name, t in noisy.state_dict().items())
    assert noisy.training
    assert noisy[1].training
    again = sobolev_loss(lambda x: x[:, :1], noisy.forward, X.float(), weight=1.0)
    assert torch.equal(first, again)


def test_a_backbone_under_no_grad_has_no_derivative_but_a_linear_function_has_a_second_of_0():
    torch.manual_seed(0)
    backbone, head = nn.Linear(2, 8).double(), nn.Linear(8, 1).double()

    def probe(x):
        with torch.no_grad():
            features = backbone(x)
        return head(features)

    for order in (1, 2):
        with pytest.raises(ValueError, match=r"student\(x\) does not depend on x for autograd"):
            sobolev_loss(probe, teacher_column, X, weight=1.0, order=order)
        with pytest.raises(ValueError, match=r"teacher\(x\) does not depend on x for autograd"):
            sobolev_loss(teacher_column, probe, X, weight=1.0, order=order)
    assert torch.isfinite(sobolev_loss(probe, teacher_column, X, weight=1.0, order=0))
    linear = nn.Sequential(backbone, head)
    first, second = (
        sobolev_loss(linear, teacher_column, X, weight=1.0, order=order) for order in (1, 2)
    )
    assert (second - first).item() == pytest.approx(2.0)  # those of the teacher: 1 + 1


def test_derivatives_fix_what_few_values_leave_open():
    """Two points cannot tell a line from a cubic through them; their slopes can."""
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)

    def line(x):
        return x

    def cubic(x):
        return x**3

    assert sobolev_loss(line, cubic, x, weight=1.0, order=0).item() == 0.0
    assert sobolev_loss(line, cubic, x, weight=1.0).item() == pytest.approx(4.0)  # (3 - 1)^2


def test_second_derivatives_of_a_relu_net_are_zero():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    first = sobolev_loss(net, teacher_column, X, weight=1.0, order=1)
    second = sobolev_loss(net, teacher_column, X, weight=1.0, order=2)
    assert (second - first).item() == pytest.approx(2.0)  # those of the teacher: 1 + 1


def teacher_column(x):
    return teacher(x)[:, None]


@pytest.mark.parametrize(
    ("f", "g", "x", "settings", "message"),
    [
        (student, teacher, X, {"order": 3}, r"order must be in \[0, 2\], got 3"),
        (student, teacher, X, {"order": -1}, r"order must be in \[0, 2\], got -1"),
        (student, teacher, X, {"weight": -1.0}, "weight must be at least 0, got -1"),
        (student, teacher, X, {"weight": math.nan}, "weight must be finite"),
        (student, teacher, X[:0], {}, "x must be a batch"),
        (student, teacher, X * math.nan, {}, "x contains NaN"),
        (lambda x: x.sum(), teacher, X, {}, r"student\(x\) must have shape \(6,\).*got \(\)"),
        (student, lambda x: x[:, None], X, {}, r"teacher\(x\) must have shape.*got \(6, 1, 2\)"),
        (student, lambda x: x, X, {}, r"must have the same shape, got \(6, 1\) and \(6, 2\)"),
        (lambda x: student(x).detach(), teacher, X, {}, r"student\(x\) does not depend on x"),
        (student, lambda x: teacher(x).detach(), X, {}, r"teacher\(x\) does not depend on x"),
        (lambda x: student(x) * math.nan, teacher, X, {}, r"student\(x\) contains NaN"),
    ],
)
def test_bad_values_are_named(f, g, x, settings, message):
    with pytest.raises(ValueError, match=message):
        sobolev_loss(f, g, x, **({"weight": 1.0} | settings))


def test_bad_types_are_named():
    with pytest.raises(TypeError, match="order must be an integer, got 1.0"):
        sobolev_loss(student, teacher, X, weight=1.0, order=1.0)
    with pytest.raises(TypeError, match="weight must be a number, got '1'"):
        sobolev_loss(student, teacher, X, weight="1")
    with pytest.raises(TypeError, match=r"student\(x\) must be a torch.Tensor, got float"):
        sobolev_loss(lambda x: 1.0, teacher, X, weight=1.0)
