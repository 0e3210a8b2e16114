import math

import pytest
import torch

from tlcourse.adaptation import reversal_schedule, reverse_gradient


@pytest.mark.equation("eq-reversal")
def test_forward_changes_nothing_and_backward_turns_the_gradient_round():
    z = torch.randn(3, 2, requires_grad=True)
    out = reverse_gradient(z, 0.3)
    assert torch.equal(out, z)
    (plain,) = torch.autograd.grad((z**3).sum(), z)
    (turned,) = torch.autograd.grad((reverse_gradient(z, 0.3) ** 3).sum(), z)
    torch.testing.assert_close(turned, -0.3 * plain)


def test_the_features_climb_what_the_domain_classifier_descends():
    torch.manual_seed(0)
    features = torch.randn(40, 2, requires_grad=True)
    domain = (torch.arange(40) % 2).float()
    head = torch.nn.Linear(2, 1)

    def loss():
        logits = head(reverse_gradient(features, 1.0)).squeeze(1)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, domain)

    before = loss()
    before.backward()
    with torch.no_grad():
        features -= 0.5 * features.grad
        worse = loss()
        features += 0.5 * features.grad
        for p in head.parameters():
            p -= 0.5 * p.grad
        better = loss()
    assert better < before < worse


def test_strength_0_lets_nothing_through():
    z = torch.ones(2, requires_grad=True)
    reverse_gradient(z, 0.0).sum().backward()
    assert torch.equal(z.grad, torch.zeros(2))


@pytest.mark.equation("eq-reversal-schedule")
@pytest.mark.parametrize("p", [0.0, 0.05, 0.3, 1.0])
def test_the_schedule_is_its_formula(p):
    assert reversal_schedule(p) == pytest.approx(math.tanh(5 * p))
    assert reversal_schedule(p, gamma=2.0) == pytest.approx(math.tanh(p))


def test_the_second_of_many_steps_is_still_near_0():
    """A bracket in the wrong place gave 0.9999 here."""
    assert reversal_schedule(1 / 10_000) == pytest.approx(0.0005, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: reverse_gradient(torch.ones(1), -1.0), "strength"),
        (lambda: reversal_schedule(250), "progress"),
        (lambda: reversal_schedule(-0.1), "progress"),
        (lambda: reversal_schedule(0.5, gamma=0.0), "gamma"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
