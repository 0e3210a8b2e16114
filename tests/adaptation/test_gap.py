"""domain_gap: three accuracies on one test, and what each training was given."""

import math

import pytest
import torch
from torch import nn

from tlcourse.adaptation import Gap, domain_gap
from tlcourse.data import LabelledImages


def images(labels, level):
    labels = torch.tensor(labels)
    pixels = torch.full((len(labels), 1, 2, 2), level)
    return LabelledImages(pixels, labels, ("a", "b"), "level")


class Says(nn.Module):
    """Answers one class, whatever it is asked."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x):
        return nn.functional.one_hot(torch.full((len(x),), self.k), 2).float()


SOURCE, TARGET = images([0, 0, 1], 0.1), images([1, 1, 0], 0.9)
TEST = images([1, 1, 1, 0], 0.8)


def test_the_three_numbers_and_what_each_way_was_given():
    given = []

    def train(labelled):
        given.append(labelled)
        return Says(int(labelled.labels.mode().values))

    def adapt(labelled, inputs):
        given.append((labelled, inputs))
        return Says(1)

    gap = domain_gap(train, adapt, SOURCE, TARGET, TEST)
    assert gap == (0.25, 0.75, 0.75)
    assert gap.closed == 1
    assert given[0] is SOURCE
    assert given[2] is TARGET
    labelled, inputs = given[1]
    assert labelled is SOURCE
    assert inputs is TARGET.images  # a tensor: no label


def test_the_part_of_the_gap_that_is_closed():
    assert Gap(0.5, 0.7, 0.9).closed == pytest.approx(0.5)
    assert Gap(0.5, 0.4, 0.9).closed == pytest.approx(-0.25)
    assert math.isnan(Gap(0.9, 0.9, 0.9).closed)


def test_what_it_refuses():
    with pytest.raises(TypeError, match="target must be a LabelledImages or Windows, got Tensor"):
        domain_gap(Says, Says, SOURCE, TARGET.images, TEST)
    other = LabelledImages(TEST.images, TEST.labels, ("b", "a"), "other")
    with pytest.raises(ValueError, match="test must have the classes of source"):
        domain_gap(Says, Says, SOURCE, TARGET, other)
