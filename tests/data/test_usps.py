from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from tlcourse.data import ccsa_split, usps

module = importlib.import_module("tlcourse.data.usps")
N_USPS, N_MNIST = 30, 20  # pictures 0 to 29 are USPS, 30 to 49 MNIST


def archive(n_labels=(1,), repetitions=2):
    """Splits as the authors' file has them: of pictures that tell their number."""
    images = np.zeros((N_USPS + N_MNIST, 16, 16), dtype=np.float32)
    images[:, 0, 0] = np.arange(len(images)) / 100
    file = {"images": images}
    for pair, target, source in (
        ("MNIST_to_USPS", range(N_USPS), range(30, 50)),
        ("USPS_to_MNIST", range(30, 50), range(N_USPS)),
    ):
        for r in range(repetitions):
            for n in n_labels:
                parts = {
                    "train_source": [*source][: 15 + r],
                    "train_target": [*target][:10],
                    "test_target": [*target][8 - r :],  # of which 2, 3, ... were learnt
                }
                for part, positions in parts.items():
                    where = f"{pair}/{r}/{n}/{part}"
                    file[f"{where}/index"] = np.array(positions)
                    file[f"{where}/label"] = np.array([i % 10 for i in positions], dtype=np.int8)
    return file


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "N_TEST", 10)
    (tmp_path / "ccsa").mkdir()
    np.savez(tmp_path / "ccsa" / "ccsa-digits.npz", **archive())
    return tmp_path


def numbers(data):
    return (data.images[:, 0, 0, 0] * 100).round().long()


def test_every_picture_of_usps_once_and_none_of_mnist(root):
    train, test = usps(root)
    assert (len(train), len(test)) == (20, 10)
    assert sorted([*numbers(train).tolist(), *numbers(test).tolist()]) == [*range(N_USPS)]
    for part in (train, test):
        assert torch.equal(part.labels, numbers(part) % 10)
        assert part.images.shape[1:] == (1, 16, 16)
        assert part.name == "USPS"
    assert usps(root)[0].fingerprint() == train.fingerprint()


def test_a_split_and_what_leaks_of_it(root):
    split = ccsa_split("MNIST_to_USPS", 1, 1, root=root)
    assert numbers(split.source).tolist() == [*range(30, 46)]
    assert numbers(split.target).tolist() == [*range(10)]
    assert numbers(split.test).tolist() == [*range(7, 30)]
    assert numbers(split.test)[split.leaked].tolist() == [7, 8, 9]
    assert (split.source.name, split.test.name) == ("MNIST (CCSA)", "USPS (CCSA)")
    other = ccsa_split("USPS_to_MNIST", 0, 1, root=root)
    assert numbers(other.target).min() == 30


def test_it_is_found_where_sets_are_looked_for(root, monkeypatch, tmp_path):
    monkeypatch.setenv("TLCOURSE_DATA", str(root))
    assert len(usps()[1]) == 10
    assert len(usps(root / "ccsa")[1]) == 10  # the folder itself


@pytest.mark.parametrize("load", [usps, lambda root: ccsa_split("MNIST_to_USPS", 0, 1, root=root)])
def test_without_it_the_error_says_what_does_instead(load, tmp_path, monkeypatch):
    monkeypatch.delenv("TLCOURSE_DATA", raising=False)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path)
    for text in ("USPS is not on this machine", str(tmp_path), "CCSA", "digits(), mnist5k()"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 half a file"), "does not hold the splits"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "does not hold the splits"),
        (lambda path: np.savez(path, other=np.zeros(3)), "does not hold the splits.*images"),
        (lambda path: np.savez(path, images=np.zeros((3, 16, 16))), "float64"),
        (
            lambda path: np.savez(path, images=np.zeros((3, 16, 16), dtype=np.float32)),
            "train_target",
        ),
        (lambda path: np.savez(path, images=np.array([object()])), "does not hold the splits"),
    ],
)
def test_another_file_is_named(root, fault, said):
    fault(root / "ccsa" / "ccsa-digits.npz")
    with pytest.raises(ValueError, match=f"ccsa-digits.npz.*{said}"):
        usps(root)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("USPS_to_USPS", 0, 1), ValueError, "pair"),
        (("MNIST_to_USPS", 10, 1), ValueError, "repetition"),
        (("MNIST_to_USPS", 0, 8), ValueError, "labels"),
        (("MNIST_to_USPS", 0, 1.0), TypeError, "labels"),
    ],
)
def test_a_split_that_there_is_not(root, arguments, error, said):
    with pytest.raises(error, match=said):
        ccsa_split(*arguments, root=root)
