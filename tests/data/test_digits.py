from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from tlcourse.data import digits


def test_the_split_is_whole_stratified_and_fixed():
    train, test = digits(size=8)
    assert (len(train), len(test)) == (1000, 797)
    both = torch.cat([train.images, test.images]).mul(16).round().flatten(1)
    original = torch.from_numpy(load_digits().data).float()
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, original.tolist()))
    share = torch.bincount(train.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert (share - 1000 / 1797).abs().max() < 0.01
    assert train.fingerprint() == digits(size=8)[0].fingerprint()


def test_labels_belong_to_their_images():
    train, _ = digits(size=8)
    original = load_digits()
    label_of = {
        tuple(x): int(y) for x, y in zip(original.data.tolist(), original.target, strict=True)
    }
    rows = train.images.mul(16).round().flatten(1).tolist()
    assert [label_of[tuple(row)] for row in rows] == train.labels.tolist()


@pytest.mark.parametrize("size", [8, 28, 32])
def test_size_and_range(size):
    train, test = digits(size=size)
    assert train.images.shape == (1000, 1, size, size)
    assert test.images.shape == (797, 1, size, size)
    assert train.images.min() == 0
    assert train.images.max() <= 1
    assert train.images[:, :, 0, :].mean() < train.images.mean()  # bright ink on black
    assert train.classes == tuple("0123456789")


@pytest.mark.parametrize(("size", "error"), [(7, ValueError), (257, ValueError), (32.0, TypeError)])
def test_size_is_checked(size, error):
    with pytest.raises(error, match="size must be"):
        digits(size=size)
