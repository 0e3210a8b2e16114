"""Less-forgetting learning: its distance against the definition, and its limits."""

import pytest
import torch

from tlcourse.continual import less_forgetting_loss


@pytest.mark.equation("eq-less-forgetting")
def test_the_loss_is_half_the_mean_squared_distance():
    generator = torch.Generator().manual_seed(0)
    now = torch.randn(5, 3, dtype=torch.float64, generator=generator).requires_grad_()
    before = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    rows = zip(now.tolist(), before.tolist(), strict=True)
    expected = sum((a - b) ** 2 for x, y in rows for a, b in zip(x, y, strict=True)) / (2 * 5)
    loss = less_forgetting_loss(now, before)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, now)
    assert torch.allclose(gradient, (now - before) / 5, rtol=1e-12)


def test_it_is_0_exactly_when_nothing_has_moved_and_does_not_average_over_features():
    x = torch.rand(4, 6)
    assert less_forgetting_loss(x, x).item() == 0
    wide = less_forgetting_loss(torch.ones(1, 10), torch.zeros(1, 10))
    assert wide.item() == 5.0  # a mean over D would give 0.5


def test_the_recorded_features_get_no_gradient():
    now, before = torch.rand(3, 2, requires_grad=True), torch.rand(3, 2, requires_grad=True)
    less_forgetting_loss(now, before).backward()
    assert before.grad is None
    assert bool((now.grad != 0).all())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(half):
    x = torch.full((1, 1000), 300.0, requires_grad=True)  # 300^2 is above all of float16
    before = torch.zeros(1, 1000)
    loss = less_forgetting_loss(x.to(half), before)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1000 * 300**2 / 2)
    assert torch.equal(loss, less_forgetting_loss(x.to(half), before.to(half)))
    loss.backward()
    assert torch.equal(x.grad, torch.full((1, 1000), 300.0))


def test_it_works_under_autocast():
    torch.manual_seed(0)
    backbone, x = torch.nn.Linear(6, 4), torch.rand(8, 6)
    before = torch.rand(8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(x)
        loss = less_forgetting_loss(features, before)
    assert features.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(less_forgetting_loss(backbone(x), before).item(), rel=0.02)


@pytest.mark.parametrize(
    ("now", "before", "error", "match"),
    [
        (torch.rand(3), torch.rand(3), ValueError, r"^features must have shape \(N, D\)"),
        (torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), ValueError, "Pool or flatten"),
        (torch.rand(0, 3), torch.rand(0, 3), ValueError, "N at least 1"),
        (torch.rand(2, 3), torch.rand(2, 4), ValueError, "must have the same shape"),
        (torch.rand(2, 3), torch.rand(2, 3).double(), TypeError, "same dtype"),
        (
            torch.rand(2, 3).half(),
            torch.rand(2, 3).double(),
            TypeError,
            "float16 and torch.float64",
        ),
        (torch.ones(2, 3).long(), torch.rand(2, 3), TypeError, "^features must hold floating"),
        (torch.full((2, 3), torch.nan), torch.rand(2, 3), ValueError, "^features contains NaN"),
        (torch.rand(2, 3), torch.full((2, 3), torch.inf), ValueError, "recorded_features con"),
        (torch.rand(2, 3), None, TypeError, "recorded_features must be a torch.Tensor"),
    ],
)
def test_bad_input(now, before, error, match):
    with pytest.raises(error, match=match):
        less_forgetting_loss(now, before)
