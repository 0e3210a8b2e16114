"""Domain, task and transfer learning as the introduction defines them, on the course's own pair.

That two distributions differ is shown by a classifier of the sides: a linear one, trained on half
of the images, tells on the other half from which side an image comes. If the distributions are
equal, nothing can, and it is right half of the time, but for chance.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tlcourse.data import LabelledImages, digits, glyphs

N = 400  # images on each side


@pytest.fixture(scope="module")
def source() -> LabelledImages:
    # Every class as often as any other, in random order.
    drawn, _ = glyphs(20 * 45, 1)
    return drawn.subset(torch.randperm(len(drawn), generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def target() -> LabelledImages:
    train, _ = digits(size=32)
    return train.subset(torch.randperm(len(train), generator=torch.Generator().manual_seed(0)))


def halves(dataset: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Return two disjoint random halves of one sample."""
    return dataset.subset(range(N)), dataset.subset(range(N, 2 * N))


def told_apart(a: LabelledImages, b: LabelledImages, n: int = N) -> float:
    """Return how often a linear classifier names the side of an image that it was not shown."""
    x = torch.cat([a.images[:n], b.images[:n]]).flatten(1).numpy()  # (2n, H * W)
    side = np.repeat([0, 1], n)
    shown = np.arange(2 * n) % 2 == 0
    classifier = LogisticRegression(max_iter=100, tol=1e-2).fit(x[shown], side[shown])
    return float(classifier.score(x[~shown], side[~shown]))


# With equal distributions the score on N held-out images has the mean 1/2 and the standard
# deviation 1 / (2 sqrt(N)) = 0.025; chance stays within four of them but for one time in 15,000.
CHANCE = 0.5 + 4 * 0.5 / N**0.5


def feature_space(dataset: LabelledImages) -> tuple[object, ...]:
    """Return what an input is: the shape and type of an image, and the values that it may take."""
    low, high = dataset.images.aminmax()
    return tuple(dataset.images.shape[1:]), dataset.images.dtype, low.item() >= 0, high.item() <= 1


def domains_differ(a: LabelledImages, b: LabelledImages) -> bool:
    """D = {X, P(X)}: another feature space, or another distribution in it."""
    return feature_space(a) != feature_space(b) or told_apart(a, b) > CHANCE


def tasks_differ(a: LabelledImages, b: LabelledImages) -> bool:
    """T = {Y, P(Y|X)}: another set of labels. Of the law of the labels this sees nothing."""
    return set(a.classes) != set(b.classes)


@pytest.mark.equation("eq-domain")
def test_the_feature_space_is_the_same(source, target):
    assert feature_space(source) == feature_space(target)
    assert feature_space(source)[0] == (1, 32, 32)
    assert source.images.max() > 0.9  # the range is used, on both sides
    assert target.images.max() > 0.9
    smaller, _ = digits(size=16)
    assert feature_space(smaller) != feature_space(target)


@pytest.mark.equation("eq-domain")
def test_the_distributions_differ(source, target):
    assert told_apart(source, target) > 0.9


@pytest.mark.equation("eq-domain")
def test_equal_distributions_cannot_be_told_apart(source, target):
    for dataset in (source, target):
        assert told_apart(*halves(dataset)) < CHANCE


@pytest.mark.equation("eq-task")
def test_the_label_sets_differ(source, target):
    assert tasks_differ(source, target)
    assert set(target.classes) == set("0123456789")
    assert set(target.classes) < set(source.classes)
    assert source.classes[:10] == target.classes  # what the source says of the target's labels


@pytest.mark.equation("eq-task")
def test_one_domain_can_have_two_tasks(target):
    """The same images, asked whether the digit is even: domain equal, task not."""
    even = LabelledImages(target.images, target.labels % 2, ("even", "odd"), "parity")
    assert tasks_differ(target, even)
    a, b = halves(target)
    assert not domains_differ(a, LabelledImages(b.images, b.labels % 2, even.classes, "parity"))


@pytest.mark.equation("eq-transfer")
def test_the_pair_of_the_course_asks_for_transfer(source, target):
    assert domains_differ(source, target)
    assert tasks_differ(source, target)


@pytest.mark.equation("eq-transfer")
def test_one_difference_is_enough(source, target):
    """Printed digits alone: the task of the target, another domain."""
    printed = source.subset(source.labels < 10)
    printed = LabelledImages(printed.images, printed.labels, target.classes, "printed digits")
    assert not tasks_differ(printed, target)
    assert told_apart(printed, target, n=len(printed)) > 0.9


@pytest.mark.equation("eq-transfer")
def test_two_halves_of_one_set_do_not(source, target):
    for dataset in (source, target):
        a, b = halves(dataset)
        assert not domains_differ(a, b)
        assert not tasks_differ(a, b)
