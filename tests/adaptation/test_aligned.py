"""What the unsupervised methods share: no label of the target, no shift in what weight 0 means."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.adaptation import (
    DAN,
    DANN,
    DSN,
    RTN,
    DeepCORAL,
    coral_loss,
    entropy_loss,
    mmd2,
    optimal_kernel_weights,
)
from tlcourse.adaptation.residual import joint_mmd2
from tlcourse.data import LabelledImages
from tlcourse.models import SmallResNet
from tlcourse.training import fit


def dsn(backbone, n_classes, target, **settings):
    """A domain separation network with private encoders like the shared one."""
    private = SmallResNet(3, width=2).backbone, SmallResNet(3, width=2).backbone
    width = backbone.n_features
    decoder = nn.Sequential(nn.Linear(width, 256), nn.Unflatten(1, (1, 16, 16)))
    settings = {"difference_weight": 1e-3, "steps": 10} | settings
    return DSN(backbone, n_classes, target, private=private, decoder=decoder, **settings)


METHODS = {
    "DAN": DAN,
    "DeepCORAL": DeepCORAL,
    "DANN": lambda *given, **settings: DANN(*given, steps=10, **settings),
    "RTN": lambda *given, **settings: RTN(*given, **settings),
    "DSN": dsn,
    "DSN-MMD": lambda *given, **settings: dsn(*given, similarity="mmd", **settings),
}
each = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def images(n, seed, shift=0.0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 16, 16, generator=draw) + shift


SOURCE = LabelledImages(images(20, 0).sigmoid(), torch.arange(20) % 3, tuple("abc"), "source")
TARGET = images(30, 1, shift=1.0).sigmoid()


def made(make, seed=0, **settings):
    torch.manual_seed(seed)
    return make(SmallResNet(3, width=2).backbone, 3, TARGET, **settings)


@each
def test_with_weight_0_it_is_the_sources_cross_entropy(make):
    others = {RTN: ["entropy_weight"], DSN: ["reconstruction_weight", "difference_weight"]}
    model = made(make, weight=0.0, **dict.fromkeys(others.get(type(made(make)), []), 0.0))
    batch = SOURCE[:8]
    torch.manual_seed(3)
    (_, logits), _ = model.outputs(batch[0])
    torch.manual_seed(3)
    assert model.loss(batch).item() == pytest.approx(F.cross_entropy(logits, batch[1]).item())


@pytest.mark.equation("eq-aligned")
@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_loss_is_the_sources_cross_entropy_and_the_weighed_alignment(weight):
    model = made(DeepCORAL, weight=weight).eval()
    batch = SOURCE[:8]
    torch.manual_seed(3)
    source, target = model.outputs(batch[0])
    whole = F.cross_entropy(source[1], batch[1]) + weight * coral_loss(source[1], target[1])
    torch.manual_seed(3)
    assert model.loss(batch).item() == pytest.approx(whole.item(), rel=1e-6)


@each
def test_every_parameter_learns_and_the_gradients_are_finite(make):
    model = made(make)
    if isinstance(model, DANN | DSN):
        model.step += 5  # at the first step nothing is reversed yet
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):  # the residual's first layer waits for its last, which begins at 0
        optimizer.zero_grad()
        model.loss(SOURCE[:8]).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


@each
def test_the_labels_of_the_target_reach_nothing(make):
    """The same weights whatever they are: the model takes images alone, and refuses a set."""
    labelled = LabelledImages(TARGET, torch.arange(30) % 3, tuple("abc"), "target")
    with pytest.raises(TypeError, match=r"no labels of the target.*target\.images"):
        make(SmallResNet(3, width=2).backbone, 3, labelled)
    ends = []
    for labels in (torch.arange(30) % 3, torch.randperm(30) % 3):
        target = LabelledImages(TARGET, labels, tuple("abc"), "target")
        torch.manual_seed(0)
        model = make(SmallResNet(3, width=2).backbone, 3, target.images)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        fit(model, type(model).loss, SOURCE, optimizer=optimizer, epochs=2, batch_size=8)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


@each
def test_training_brings_the_domains_together(make):
    """Against training without it, from the same start: the discrepancy of the features."""
    apart = {}
    for weight in (0.0, 1.0):
        model = made(make, weight=weight)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        fit(model, type(model).loss, SOURCE, optimizer=optimizer, epochs=12, batch_size=20)
        model.eval()
        with torch.no_grad():
            z, z_ = (F.normalize(model.backbone(x)) for x in (SOURCE.images, TARGET))
        apart[weight] = mmd2(z, z_, 0.5).item()
    assert apart[1.0] < apart[0.0]


@each
def test_a_batch_of_fewer_than_4_is_not_aligned(make):
    model = made(make, weight=1e6).eval()
    assert model.loss(SOURCE[:3]).item() < 100


@each
@pytest.mark.parametrize(
    ("target", "settings", "error", "said"),
    [
        (TARGET[:0], {}, ValueError, "one image or more"),
        (TARGET * float("nan"), {}, ValueError, "target contains NaN"),
        (TARGET, {"weight": -1.0}, ValueError, "weight"),
    ],
)
def test_bad_input_is_named(make, target, settings, error, said):
    with pytest.raises(error, match=said):
        make(SmallResNet(3, width=2).backbone, 3, target, **settings)


@each
def test_images_of_another_shape_are_named(make):
    with pytest.raises(ValueError, match=r"one shape, got \(1, 8, 8\) and \(1, 16, 16\)"):
        made(make).loss((torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])))


@pytest.mark.equation("eq-dan")
@pytest.mark.parametrize("estimator", ["unbiased", "linear"])
def test_dan_adds_up_the_discrepancies_of_features_and_logits(estimator):
    model = made(DAN, estimator=estimator).eval()
    model.kernel_weights.copy_(torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0], [0.0, 0.0, 0.5, 0.0, 0.5]]))
    torch.manual_seed(3)
    source, target = model.outputs(SOURCE[:8][0])
    by_hand = 0.0
    for s, t, weights in zip(source, target, model.kernel_weights, strict=True):
        median = torch.pdist(torch.cat([s, t])).square().median().item()
        widths = [median * factor for factor in (0.25, 0.5, 1, 2, 4)]
        by_hand += mmd2(s, t, widths, weights=weights, estimator=estimator).item()
    assert model.alignment(source, target).item() == pytest.approx(by_hand, rel=1e-5)


def test_dan_chooses_the_kernels_of_each_layer_and_leaves_the_network_alone():
    model = made(DAN)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    torch.manual_seed(3)
    model.choose_kernels(SOURCE.images)
    changed = {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    assert changed == {"kernel_weights"}
    assert model.training
    model.eval()
    torch.manual_seed(3)
    for row, s, t in zip(model.kernel_weights, *model.outputs(SOURCE.images), strict=True):
        median = torch.pdist(torch.cat([s, t])).square().median().item()
        widths = [median * factor for factor in (0.25, 0.5, 1, 2, 4)]
        torch.testing.assert_close(row, optimal_kernel_weights(s.detach(), t.detach(), widths))


def test_deep_coral_aligns_the_logits():
    model = made(DeepCORAL).eval()
    (a, z), (a_, z_) = model.outputs(SOURCE[:8][0])
    assert model.alignment((a, z), (a_, z_)).item() == coral_loss(z, z_).item()


@pytest.mark.equation("eq-dann")
def test_dann_begins_without_a_reversal_and_counts_its_steps():
    model = made(METHODS["DANN"])
    source, target = model.outputs(SOURCE[:8][0])
    (first,) = torch.autograd.grad(model.alignment(source, target), source[0], retain_graph=True)
    assert torch.equal(first, torch.zeros_like(first))
    assert model.step.item() == 1
    model.step.fill_(1000)  # beyond the end
    model.eval()
    loss = model.alignment(source, target)
    (last,) = torch.autograd.grad(loss, source[0], retain_graph=True)
    assert last.abs().sum() > 0
    assert model.step.item() == 1000  # asking is no step
    features = torch.cat([source[0], target[0]]).detach().requires_grad_()
    logits = model.domain(features).squeeze(1)
    domains = (torch.arange(16) < 8).float()
    plain = F.binary_cross_entropy_with_logits(logits, domains)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(plain, features)
    torch.testing.assert_close(last, -slope[:8], rtol=1e-3, atol=1e-6)


@pytest.mark.equation("eq-rtn-residual")
def test_the_sources_logits_are_the_targets_and_a_function_of_these():
    model = made(RTN)
    first, _, last = model.residual
    torch.nn.init.normal_(last.weight)
    z = torch.randn(4, 3)
    change = F.linear(F.linear(z, first.weight, first.bias).relu(), last.weight, last.bias)
    torch.testing.assert_close(model.source_logits(z), z + change)
    assert change.abs().max() > 0.01


@pytest.mark.equation("eq-rtn")
def test_rtn_begins_with_one_classifier_and_aligns_the_product():
    model = made(RTN).eval()
    torch.manual_seed(3)
    source, target = model.outputs(SOURCE[:8][0])
    assert torch.equal(model.source_logits(source[1]), source[1])
    pairs = [(a, z.softmax(1)) for a, z in (source, target)]
    formed = torch.cat([torch.einsum("nd,nk->ndk", a, b).flatten(1) for a, b in pairs])
    median = torch.pdist(formed.detach()).square().median().item()
    wanted = joint_mmd2(*pairs, median).item()
    assert model.alignment(source, target).item() == pytest.approx(wanted, rel=1e-4)
    torch.manual_seed(3)
    whole = F.cross_entropy(source[1], SOURCE[:8][1]) + 0.3 * (entropy_loss(target[1]) + wanted)
    assert model.loss(SOURCE[:8]).item() == pytest.approx(whole.item(), rel=1e-4)
