import math

import pytest
import torch

from tlcourse.adaptation import ccsa_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SOURCE, TARGET = draw(6, 4), 0.3 * draw(5, 4, seed=1)
YS, YT = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 2, 2, 3])


def by_hand(margin, halves):
    same, other = [], []
    for i in range(6):
        for j in range(5):
            d = math.sqrt(((SOURCE[i] - TARGET[j]) ** 2).sum())
            if YS[i] == YT[j]:
                same.append(d**2)
            else:
                other.append(max(0.0, margin - d) ** 2)
    if halves:
        return sum(same) / len(same) / 2 + sum(other) / len(other) / 2
    return (sum(same) + sum(other)) / (len(same) + len(other))


@pytest.mark.parametrize("margin", [1.0, 3.0])
def test_both_forms_are_their_formulas_pair_by_pair(margin):
    paper = ccsa_loss(SOURCE, YS, TARGET, YT, margin=margin)
    code = ccsa_loss(SOURCE, YS, TARGET, YT, margin=margin, mode="code")
    assert paper.item() == pytest.approx(by_hand(margin, halves=True))
    assert code.item() == pytest.approx(by_hand(margin, halves=False))


def test_pairs_of_one_kind_alone_are_averaged_over_that_kind():
    one, two = torch.tensor([0]), torch.tensor([1])
    a, b = draw(1, 4), draw(1, 4, seed=1)
    square = (a - b).square().sum().item()
    assert ccsa_loss(a, one, b, one).item() == pytest.approx(square / 2)
    far = max(0.0, 9 - math.sqrt(square)) ** 2 / 2
    assert ccsa_loss(a, one, b, two, margin=9.0).item() == pytest.approx(far)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_at_distance_0_the_gradient_is_0_and_not_nan(mode):
    a = draw(2, 3).requires_grad_()
    b = a.detach().clone().requires_grad_()
    loss = ccsa_loss(a, torch.tensor([0, 1]), b, torch.tensor([0, 0]), mode=mode)
    for slope in torch.autograd.grad(loss, (a, b)):
        assert torch.isfinite(slope).all()
    lone = ccsa_loss(a[:1], torch.tensor([0]), b[:1], torch.tensor([1]), mode=mode)
    assert lone.item() == pytest.approx(0.5 if mode == "paper" else 1.0)
    assert torch.equal(torch.autograd.grad(lone, a)[0], torch.zeros_like(a))


def test_the_gradient_is_that_of_the_formula():
    a, b = SOURCE.clone().requires_grad_(), TARGET.clone().requires_grad_()
    for mode in ("paper", "code"):
        assert torch.autograd.gradcheck(
            lambda a, b, mode=mode: ccsa_loss(a, YS, b, YT, margin=2.0, mode=mode), (a, b)
        )


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: ccsa_loss(SOURCE, YS, TARGET, YT, margin=0.0), ValueError, "margin"),
        (lambda: ccsa_loss(SOURCE, YS, TARGET, YT, mode="both"), ValueError, "mode is 'both'"),
        (lambda: ccsa_loss(SOURCE, YS[:3], TARGET, YT), ValueError, "source_labels must have"),
        (lambda: ccsa_loss(SOURCE, YS, TARGET, YT.float()), TypeError, "target_labels must hold"),
        (lambda: ccsa_loss(SOURCE, YS, TARGET, -YT), ValueError, "target_labels"),
        (lambda: ccsa_loss(SOURCE[:, :2], YS, TARGET, YT), ValueError, "same features"),
        (lambda: ccsa_loss(SOURCE * math.nan, YS, TARGET, YT), ValueError, "source contains NaN"),
    ],
)
def test_bad_input_is_named(call, error, said):
    with pytest.raises(error, match=said):
        call()
