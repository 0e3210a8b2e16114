from __future__ import annotations

import importlib
import socket

import numpy as np
import pytest
import torch

from tlcourse.data import surfaces

module = importlib.import_module("tlcourse.data.surfaces")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_arguments, **_settings):
        raise AssertionError("photographs were asked for on the network")

    monkeypatch.setattr(socket, "create_connection", refuse)


def test_pieces_of_eight_surfaces():
    train, test = surfaces(n_train=6, n_test=3, size=32)
    assert train.images.shape == (48, 1, 32, 32)
    assert test.images.shape == (24, 1, 32, 32)
    assert train.labels.tolist() == [k for k in range(8) for _ in range(6)]
    assert train.classes == (
        "brick",
        "grass",
        "gravel",
        "cat",
        "wood",
        "leaves",
        "petals",
        "tissue",
    )
    assert train.name == test.name == "surfaces"
    assert (train.images.std((1, 2, 3)) > 0.005).all()  # no piece is a plain grey
    defaults = surfaces()
    assert [tuple(part.images.shape) for part in defaults] == [(800, 1, 64, 64), (400, 1, 64, 64)]


def test_a_seed_is_a_set():
    first, again, other = (surfaces(n_train=2, n_test=2, seed=s)[0] for s in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != other.fingerprint()
    # Each class, each part and each piece has draws of its own.
    train, test = surfaces(n_train=2, n_test=2)
    images = torch.cat((train.images, test.images)).flatten(1)
    assert torch.unique(images, dim=0).shape[0] == 32
    light = torch.stack([part.images.mean((1, 2, 3)) for part in (train, test)])
    assert ((light[0] - light[1]).abs() > 1e-4).all()


@pytest.mark.parametrize("name", list(module.PHOTOGRAPHS))
def test_the_regions_lie_in_the_photograph_and_apart(name):
    photograph = module.PHOTOGRAPHS[name]
    height, width = module._read(photograph).shape
    for region in (photograph.train, photograph.test):
        assert 0 <= region.top < region.bottom <= height
        assert 0 <= region.left < region.right <= width
        # The largest piece, turned, fits in.
        room = min(region.bottom - region.top, region.right - region.left) - 1
        assert room > 2 * (module.LARGEST / 2**0.5 + 1)
    a, b = photograph.train, photograph.test
    down = max(a.top, b.top) - min(a.bottom, b.bottom)
    across = max(a.left, b.left) - min(a.right, b.right)
    assert max(down, across) >= 10  # pixels between them


@pytest.mark.parametrize("part", [0, 1])
def test_a_piece_holds_nothing_from_outside_its_region(part):
    region = (module.Region(20, 100, 30, 115), module.Region(0, 80, 120, 200))[part]
    inside = torch.zeros(150, 200)
    inside[region.top : region.bottom, region.left : region.right] = 1
    # Without the light, a piece of it is all ones.
    pieces = module._pieces(inside, region, 400, 16, (0, part, 0))
    assert (pieces - pieces.mean((2, 3), keepdim=True)).abs().max() < 1e-6


def test_training_and_test_come_from_their_own_regions(monkeypatch):
    def flat_but_for_the_test_region(photograph):
        grey = torch.full((520, 650), 0.5)
        r = photograph.test
        grey[r.top : r.bottom, r.left : r.right] = torch.rand(r.bottom - r.top, r.right - r.left)
        return grey

    monkeypatch.setattr(module, "_read", flat_but_for_the_test_region)
    train, test = surfaces(n_train=30, n_test=30, size=16)
    assert train.images.std((1, 2, 3)).max() < 1e-6
    assert test.images.std((1, 2, 3)).min() > 0.05


def test_pieces_are_turned_and_of_several_sizes_and_reach_all_of_the_region():
    y, x = np.mgrid[:200, :300].astype(np.float32)
    region, n, size = module.Region(10, 190, 10, 290), 500, 9
    # Photographs of the place itself: linear interpolation is exact on them. Contrast and light are
    # undone with what the middle of a piece must be.
    u = np.random.default_rng((0, 0, 0)).random((n, 6), dtype=np.float32)
    contrast = torch.from_numpy(0.5 + 0.5 * u[:, 4]).view(n, 1, 1)
    rows, columns = (
        (module._pieces(torch.from_numpy(v) / 10_000, region, n, size, (0, 0, 0))[:, 0])
        for v in (y, x)
    )
    along = [(v - v.mean((1, 2), keepdim=True)) / contrast * 10_000 for v in (rows, columns)]
    # From one corner of a piece to the next along its first row, in pixels of the photograph.
    down, right = (v[:, 0, -1] - v[:, 0, 0] for v in along)
    sides, angles = torch.hypot(down, right), torch.atan2(down, right)
    assert sides.min() == pytest.approx(34, abs=0.5)
    assert sides.max() == pytest.approx(52, abs=0.5)
    assert np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0].min() > 30
    # The first column stands at a right angle to it, of the same length: nothing is sheared.
    down_2, right_2 = (v[:, -1, 0] - v[:, 0, 0] for v in along)
    torch.testing.assert_close(down * down_2 + right * right_2, torch.zeros(n), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.hypot(down_2, right_2), sides, atol=0.05, rtol=0)


def test_light_and_contrast_differ():
    train, _ = surfaces(n_train=200, n_test=1, size=16)
    gravel = train.images[train.labels == 2]
    light = gravel.mean((1, 2, 3))
    assert 0.33 < light.min() < 0.4
    assert 0.6 < light.max() < 0.67
    spread = gravel.std((1, 2, 3))
    assert spread.max() > 1.5 * spread.min()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"n_train": 0}, ValueError, "n_train must be"),
        ({"n_test": 0}, ValueError, "n_test must be"),
        ({"n_train": 2.0}, TypeError, "n_train must be"),
        ({"size": 7}, ValueError, "size must be"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_wrong_settings(settings, error, match):
    with pytest.raises(error, match=match):
        surfaces(**settings)


def test_without_a_photograph_the_error_names_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"skimage.*pip install scikit-image"):
        surfaces(n_train=1, n_test=1)
