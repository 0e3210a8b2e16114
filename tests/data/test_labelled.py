from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tlcourse.data import LabelledImages, few_per_class


def make(n: int = 30, k: int = 3, name: str = "toy") -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 1, 4, 5, generator=generator)
    return LabelledImages(images, torch.arange(n) % k, tuple("abcdefghij"[:k]), name)


def test_indexing_gives_an_image_or_a_batch():
    data = make()
    image, label = data[4]
    assert image.shape == (1, 4, 5)
    assert label == 1
    images, labels = data[[4, 7]]
    assert torch.equal(images, data.images[[4, 7]])
    assert labels.tolist() == [1, 1]
    assert len(data) == 30
    assert data.n_classes == 3


@pytest.mark.parametrize(
    "indices",
    [
        [5, 2],
        (5, 2),
        torch.tensor([5, 2]),
        np.array([5, 2]),
        torch.tensor([5, 2], dtype=torch.uint8),
    ],
)
def test_subset_keeps_the_order_given(indices):
    data = make()
    part = data.subset(indices)
    assert torch.equal(part.images, data.images[[5, 2]])
    assert part.labels.tolist() == [2, 2]
    assert (part.classes, part.name) == (data.classes, data.name)


def test_subset_by_mask_and_range():
    data = make()
    assert data.subset(data.labels == 1).labels.unique().tolist() == [1]
    assert torch.equal(data.subset(range(3)).images, data.images[:3])


@pytest.mark.parametrize(
    ("indices", "error", "match"),
    [
        ([], ValueError, "chooses nothing"),
        ([30], ValueError, r"\[0, 29\] for 30 samples, got values from 30 to 30"),
        ([-1], ValueError, "got values from -1 to -1"),
        ([0.5], TypeError, "integers or a boolean mask"),
        ([[0, 1]], ValueError, r"shape \(n,\)"),
        (["a"], TypeError, "integers or a boolean mask"),
        (torch.ones(4, dtype=torch.bool), ValueError, r"mask of shape \(4,\)"),
        (torch.zeros(30, dtype=torch.bool), ValueError, "chooses nothing"),
    ],
)
def test_subset_refuses(indices, error, match):
    with pytest.raises(error, match=match):
        make().subset(indices)


def test_fingerprint_changes_with_everything_it_covers():
    data = make()
    images = data.images.clone()
    images[3, 0, 2, 1] += 1e-6
    labels = data.labels.clone()
    labels[0] = 2
    others = [
        LabelledImages(images, data.labels, data.classes, data.name),
        LabelledImages(data.images, labels, data.classes, data.name),
        LabelledImages(data.images, data.labels, ("a", "b", "d"), data.name),
        LabelledImages(data.images, data.labels, data.classes, "other"),
        LabelledImages(data.images.view(30, 1, 5, 4), data.labels, data.classes, data.name),
    ]
    prints = {d.fingerprint() for d in [data, *others]}
    assert len(prints) == 6
    assert make().fingerprint() == data.fingerprint()
    assert re.fullmatch("[0-9a-f]{16}", data.fingerprint())


GOOD = {
    "images": torch.zeros(2, 1, 4, 4),
    "labels": torch.tensor([0, 1]),
    "classes": ("a", "b"),
    "name": "toy",
}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"images": np.zeros((2, 1, 4, 4))},
            TypeError,
            "images must be a torch.Tensor, got ndarray",
        ),
        ({"images": torch.zeros(2, 4, 4)}, ValueError, r"\(N, C, H, W\), got \(2, 4, 4\)"),
        ({"images": torch.zeros(0, 1, 4, 4)}, ValueError, "images is empty"),
        ({"images": torch.zeros(2, 1, 0, 4)}, ValueError, "images is empty"),
        ({"images": torch.zeros(2, 1, 4, 4).double()}, TypeError, "float32, got torch.float64"),
        ({"images": torch.zeros(2, 1, 4, 4).byte()}, TypeError, "Divide 8-bit pixels by 255"),
        ({"images": torch.full((2, 1, 4, 4), torch.nan)}, ValueError, "contains NaN"),
        ({"images": torch.full((2, 1, 4, 4), torch.inf)}, ValueError, "from inf to inf"),
        ({"images": torch.full((2, 1, 4, 4), 255.0)}, ValueError, "from 255 to 255"),
        ({"images": torch.full((2, 1, 4, 4), -0.1)}, ValueError, "from -0.1 to -0.1"),
        ({"labels": [0, 1]}, TypeError, "labels must be a torch.Tensor"),
        ({"labels": torch.tensor([0.0, 1.0])}, TypeError, "int64"),
        ({"labels": torch.tensor([0])}, ValueError, r"shape \(2,\), got \(1,\)"),
        ({"labels": torch.tensor([0, 2])}, ValueError, r"\[0, 1\] for 2 classes"),
        ({"labels": torch.tensor([-1, 0])}, ValueError, "from -1 to 0"),
        ({"classes": ()}, ValueError, "classes is empty"),
        ({"classes": "ab"}, TypeError, "sequence of names, got 'ab'"),
        ({"classes": 2}, TypeError, "sequence of names, got 2"),
        ({"classes": ("a", 1)}, TypeError, "got 1 at 1"),
        ({"classes": ("a", "a")}, ValueError, r"more than once: \['a'\]"),
        ({"name": ""}, TypeError, "name must be a text"),
        ({"name": None}, TypeError, "name must be a text .* got None"),
    ],
)
def test_what_is_no_labelled_set_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        LabelledImages(**(GOOD | change))


def test_one_nan_among_many_values_is_seen():
    images = torch.rand(50, 1, 8, 8)
    images[33, 0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        LabelledImages(images, torch.zeros(50, dtype=torch.int64), ("a",), "toy")


def test_few_per_class_is_balanced_without_replacement():
    data = make(60, 3)
    few = few_per_class(data, 5, seed=1)
    assert torch.bincount(few.labels).tolist() == [5, 5, 5]
    assert len(few.images.flatten(1).unique(dim=0)) == 15
    row = {tuple(r) for r in data.images.flatten(1).tolist()}
    assert all(tuple(r) in row for r in few.images.flatten(1).tolist())


def test_few_per_class_is_nested_and_seeded():
    data = make(60, 3)
    small, large = few_per_class(data, 2, seed=1), few_per_class(data, 5, seed=1)
    assert torch.equal(large.images[:6], small.images)
    assert torch.equal(few_per_class(data, 5, seed=1).images, large.images)
    assert not torch.equal(few_per_class(data, 5, seed=2).images, large.images)


@pytest.mark.parametrize(
    ("n", "seed", "error", "match"),
    [
        (0, 0, ValueError, "n must be at least 1, got 0"),
        (1.5, 0, TypeError, "n must be an integer"),
        (1, -1, ValueError, "seed must be at least 0"),
        (1, None, TypeError, "seed must be an integer"),
        (11, 0, ValueError, "'a' has 10, 'b' has 10, 'c' has 10"),
    ],
)
def test_few_per_class_refuses(n, seed, error, match):
    with pytest.raises(error, match=match):
        few_per_class(make(), n, seed=seed)


def test_few_per_class_names_only_the_class_that_lacks():
    data = make()
    without = data.subset(data.labels != 1)
    with pytest.raises(ValueError, match="of some classes: 'b' has 0\\. "):
        few_per_class(without, 1, seed=0)


def test_few_per_class_takes_a_labelled_set():
    with pytest.raises(TypeError, match="LabelledImages or Windows, got Tensor"):
        few_per_class(torch.zeros(3), 1, seed=0)
