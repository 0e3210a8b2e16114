import math

import pytest
import torch

from tlcourse.adaptation import entropy_loss, joint_mmd2, mmd2


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SOURCE = draw(6, 5), draw(6, 3, seed=1)
TARGET = draw(7, 5, seed=2), draw(7, 3, seed=3)


def product(a, b):
    return torch.einsum("nd,nk->ndk", a, b).flatten(1)


@pytest.mark.equation("eq-joint-mmd")
@pytest.mark.equation("eq-fused")
def test_it_equals_the_discrepancy_of_the_outer_products():
    formed = mmd2(product(*SOURCE), product(*TARGET), 9.0, estimator="biased")
    assert joint_mmd2(SOURCE, TARGET, 9.0).item() == pytest.approx(formed.item(), abs=1e-13)


def test_in_float32_cancellation_stays_within_the_tolerance_said():
    a, b = 100 + draw(8, 16), draw(8, 4, seed=1)
    a_, b_ = a + 1e-3, b.clone()
    exact = joint_mmd2((a, b), (a_, b_), 1e5).item()
    single = joint_mmd2((a.float(), b.float()), (a_.float(), b_.float()), 1e5).item()
    size = (a.square().sum(1) * b.square().sum(1)).max().item()
    assert abs(single - exact) < 8 * 1e-6 * size / 1e5


def test_the_gradient_is_that_of_the_formula():
    leaves = [z.clone().requires_grad_() for z in (*SOURCE, *TARGET)]
    assert torch.autograd.gradcheck(
        lambda a, b, c, d: joint_mmd2((a, b), (c, d), 9.0), tuple(leaves)
    )


def test_memory_does_not_grow_with_the_product():
    """4,096 features times 1,000 outputs, 64 samples: the product would be 1 GB in float32."""
    a, b = torch.randn(64, 4096), torch.softmax(torch.randn(64, 1000), 1)
    value = joint_mmd2((a, b), (a.roll(1, 0), b.roll(1, 0)), 1.0)
    assert value.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.equation("eq-entropy")
def test_the_entropy_is_its_formula_between_its_ends():
    logits = draw(5, 4)
    p = logits.softmax(1)
    want = -sum(p[n, k] * p[n, k].log() for n in range(5) for k in range(4)) / 5
    assert entropy_loss(logits).item() == pytest.approx(want.item())
    assert entropy_loss(torch.zeros(2, 4)).item() == pytest.approx(math.log(4))
    sure = torch.tensor([[0.0, 1000.0]], requires_grad=True)
    loss = entropy_loss(sure)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(sure.grad).all()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: joint_mmd2(SOURCE, TARGET, 0.0), ValueError, "bandwidth"),
        (lambda: joint_mmd2((SOURCE[0], SOURCE[1][:3]), TARGET, 1.0), ValueError, "same samples"),
        (lambda: joint_mmd2(SOURCE, (TARGET[0][:, :2], TARGET[1]), 1.0), ValueError, "features"),
        (
            lambda: joint_mmd2((SOURCE[0] * math.nan, SOURCE[1]), TARGET, 1.0),
            ValueError,
            "source_features contains NaN",
        ),
        (lambda: entropy_loss(torch.ones(3)), ValueError, r"shape \(N, K\)"),
        (lambda: entropy_loss(torch.full((1, 2), math.nan)), ValueError, "logits contains NaN"),
    ],
)
def test_bad_input_is_named(call, error, said):
    with pytest.raises(error, match=said):
        call()
