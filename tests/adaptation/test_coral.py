import math

import numpy as np
import pytest
import torch

from tlcourse.adaptation import coral_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.equation("eq-coral")
def test_it_is_the_distance_of_numpys_covariances():
    source, target = draw(9, 4), draw(12, 4, seed=1) * 2
    apart = np.cov(source.T.numpy()) - np.cov(target.T.numpy())
    assert coral_loss(source, target).item() == pytest.approx((apart**2).sum() / (4 * 4**2))


def test_a_shift_costs_nothing_and_a_scale_does():
    source = draw(20, 3)
    assert coral_loss(source, source + 7).item() == pytest.approx(0, abs=1e-20)
    assert coral_loss(source, 1.5 * source).item() > 0.01


def test_the_gradient_is_that_of_the_formula():
    pair = draw(5, 3).requires_grad_(), draw(6, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(coral_loss, pair)


@pytest.mark.parametrize(
    ("source", "target", "error", "said"),
    [
        (draw(1, 3), draw(4, 3), ValueError, "source must have at least 2 samples, got 1"),
        (draw(4, 3), draw(4, 2), ValueError, "same features"),
        (draw(4, 3, 8, 8), draw(4, 3), ValueError, "flattened first"),
        (draw(4, 3), draw(4, 3) * math.nan, ValueError, "target contains NaN"),
        (draw(4, 3), draw(4, 3).float(), TypeError, "same dtype"),
        ([[1.0]], draw(4, 3), TypeError, "source must be a torch.Tensor"),
    ],
)
def test_bad_input_is_named(source, target, error, said):
    with pytest.raises(error, match=said):
        coral_loss(source, target)
