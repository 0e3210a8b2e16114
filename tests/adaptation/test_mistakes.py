"""Mistakes made in public that the methods' own tests do not ask about: sums, tails, and tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.adaptation import DAN, DANN, RTN, DeepCORAL, entropy_loss, joint_mmd2, mmd2
from tlcourse.data import LabelledImages, digits, glyphs, mnist5k, surfaces
from tlcourse.metrics import accuracy
from tlcourse.models import SmallResNet
from tlcourse.training import fit

WEIGHT = 0.7
METHODS = {"DAN": DAN, "DeepCORAL": DeepCORAL, "DANN": DANN, "RTN": RTN}
TARGET = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
SOURCE = LabelledImages(IMAGES, torch.arange(12) % 3, tuple("abc"), "source")


def made(name):
    torch.manual_seed(0)
    settings = {"steps": 10} if name == "DANN" else {}
    backbone = SmallResNet(3, width=2).backbone
    return METHODS[name](backbone, 3, TARGET, weight=WEIGHT, **settings).eval()


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_one_sum_of_all_its_terms(name):
    """In public a term went missing, and two had optimisers of their own."""
    model, (x, y) = made(name), SOURCE[:8]
    if name == "DANN":
        model.step += 5  # at the first step nothing is reversed yet
    torch.manual_seed(3)
    source, target = model.outputs(x)
    logits = model.source_logits(source[1]) if name == "RTN" else source[1]
    terms = [F.cross_entropy(logits, y), WEIGHT * model.alignment(source, target)]
    if name == "RTN":
        terms.append(model.entropy_weight * entropy_loss(target[1]))
    torch.manual_seed(3)
    loss = model.loss((x, y))
    assert loss.item() == pytest.approx(sum(terms).item(), rel=1e-5)
    learning = list(model.backbone.parameters())
    slopes = [torch.autograd.grad(t, learning, retain_graph=True) for t in (loss, *terms)]
    for whole, *parts in zip(*slopes, strict=True):
        torch.testing.assert_close(whole, sum(parts), rtol=1e-3, atol=1e-6)
    for parts in slopes[1:]:
        assert sum(p.abs().sum() for p in parts) > 0


def both_halves(name):
    if name == "surfaces":
        return surfaces(n_train=20, n_test=20)
    return {"digits": digits, "mnist5k": mnist5k, "glyphs": lambda: glyphs(450, 45)}[name]()


@pytest.mark.parametrize("name", ["digits", "mnist5k", "glyphs", "surfaces"])
def test_no_image_is_in_training_and_test(name):
    train, test = ({image.numpy().tobytes() for image in half.images} for half in both_halves(name))
    assert train
    assert test
    assert not train & test


def test_a_test_with_labels_from_a_coin_gives_chance():
    """A number that was chosen by the test lies above: the best of many epochs, for one."""
    model = made("DAN").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    fit(model, DAN.loss, SOURCE, optimizer=optimizer, epochs=3, batch_size=12)
    draw = torch.Generator().manual_seed(12)
    n, spread = 600, math.sqrt(1 / 3 * 2 / 3 / 600)
    images = torch.rand(n, 1, 16, 16, generator=draw)
    labels = torch.randint(3, (n,), generator=draw)
    found = accuracy(model, LabelledImages(images, labels, tuple("abc"), "coin"))
    assert abs(found - 1 / 3) < 2 * spread
    guesses = torch.randint(3, (80, n), generator=draw)
    best = (guesses == labels).float().mean(1).max().item()
    assert best - 1 / 3 > 2 * spread


def test_the_entropy_alone_ends_in_one_class():
    """Least where all are sure of one thing: it needs the source's labels beside it."""
    torch.manual_seed(0)
    images, head = digits(size=16)[0].images[:200].flatten(1), nn.Linear(256, 10)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    share = []
    for _ in range(150):
        optimizer.zero_grad()
        logits = head(images)
        entropy_loss(logits).backward()
        optimizer.step()
        share.append(logits.argmax(1).bincount(minlength=10).max().item() / 200)
    assert entropy_loss(head(images)) < 0.05
    assert share[-1] > 0.9 > share[0]


def test_small_probabilities_count_in_the_entropy():
    """In public, terms with p below 0.001 were cut off, and with them their gradient."""
    logits = torch.tensor([[0.0, -8.0, -9.0]], dtype=torch.float64, requires_grad=True)
    p = logits.detach().softmax(1)
    assert entropy_loss(logits).item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-12)
    assert torch.autograd.gradcheck(entropy_loss, (logits,))
    assert torch.autograd.grad(entropy_loss(logits), logits)[0][0, 1:].min() > 1e-3


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_domains_that_are_near_still_have_a_gradient(estimator):
    """In public the value was put to 0.0001 where it was below, and the gradient to 0."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=draw, dtype=torch.float64)
    y = (x + 1e-3).requires_grad_()
    value = mmd2(x, y, 4.0, estimator=estimator)
    assert value.item() < 1e-4
    assert torch.autograd.grad(value, y)[0].abs().sum() > 0


def test_in_float32_no_product_is_nearer_to_another_than_to_itself():
    """Distances from a difference of large numbers fall below 0 where nothing holds them.

    All products are far apart, so that a kernel is 1 for each with itself, and 0 else.
    """
    a, a_ = 100 + torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    b, b_ = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(1))
    assert 0 < joint_mmd2((a, b), (a_, -b_), 0.01).item() <= 2 / 64


def test_a_picture_of_dark_and_bright_is_taken_as_it_is():
    """A reader of public code wanted a logarithm: that is the error of depth, and has no 0."""
    from tlcourse.adaptation import scale_invariant_error

    image = torch.tensor([[0.0, 0.5, 1.0]])
    made = torch.tensor([[0.0, 1.0, 2.0]])
    want = np.var([0.0, 0.5, 1.0])
    assert scale_invariant_error(made, image).item() == pytest.approx(want)
