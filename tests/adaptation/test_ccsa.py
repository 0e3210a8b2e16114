import math

import pytest
import torch

from tlcourse.adaptation import CCSA, ccsa_loss
from tlcourse.data import LabelledImages
from tlcourse.training import fit


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


@pytest.mark.equation("eq-ccsa")
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


def backbone():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    net.n_features = 3
    return net


def labelled(n, n_classes=3, shift=0.0):
    labels = torch.arange(n) % n_classes
    images = (labels.view(-1, 1, 1, 1) / 4 + torch.rand(n, 1, 2, 2) / 4 + shift).clamp(0, 1)
    return LabelledImages(images, labels, tuple("abcdef"[:n_classes]), "few")


def test_the_model_weighs_cross_entropy_and_alignment():
    few, source = labelled(3), labelled(8)
    model = CCSA(backbone(), 3, few, alpha=0.3, margin=2.0)
    torch.manual_seed(1)
    loss = model.loss(source[:])
    torch.manual_seed(1)
    x_, y_ = few[torch.randint(3, (8,))]
    x, y = source[:]
    z, z_ = model.backbone(x), model.backbone(x_)
    by_hand = 0.7 * torch.nn.functional.cross_entropy(model.head(z), y)
    by_hand = by_hand + 0.3 * ccsa_loss(z, y, z_, y_, margin=2.0)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_the_model_learns_and_its_target_labels_count():
    source = labelled(30)
    ends = []
    for labels in ([0, 1, 2], [1, 2, 0]):
        few = labelled(3, shift=0.25)
        few = LabelledImages(few.images, torch.tensor(labels), few.classes, "few")
        torch.manual_seed(0)
        model = CCSA(backbone(), 3, few, alpha=0.5)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        fit(model, CCSA.loss, source, optimizer=optimizer, epochs=20, batch_size=10)
        ends.append((model.cpu(), few))
    assert not torch.equal(ends[0][0].head.weight, ends[1][0].head.weight)
    right, few = ends[0]
    apart = torch.cdist(right.backbone(few.images), right.backbone(source.images[:3]))
    assert apart.diagonal().mean() < apart[~torch.eye(3, dtype=torch.bool)].mean()


def test_a_target_that_is_the_source_gives_finite_gradients():
    source = labelled(3)
    model = CCSA(backbone(), 3, source)
    model.loss(source[:]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("target", "settings", "error", "said"),
    [
        (torch.rand(4, 1, 2, 2), {}, TypeError, "pairs samples by their labels.*there are DAN"),
        (labelled(4, 2), {}, ValueError, "target has 2 classes, the model 3"),
        (labelled(3), {"alpha": 1.5}, ValueError, "alpha"),
        (labelled(3), {"margin": 0.0}, ValueError, "margin"),
    ],
)
def test_what_the_model_refuses(target, settings, error, said):
    with pytest.raises(error, match=said):
        CCSA(backbone(), 3, target, **settings)
