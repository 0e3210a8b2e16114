"""Shuffled tiles: what stays, what goes, and one order for all."""

from __future__ import annotations

import pytest
import torch

from tlcourse.data import LabelledImages, shuffle_tiles


def images(shape=(3, 2, 8, 12)):
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return LabelledImages(pixels, torch.arange(shape[0]) % 2, ("a", "b"), "noise")


@pytest.mark.parametrize("tiles", [2, 4])
def test_every_tile_is_one_of_the_image_in_one_order_for_all(tiles):
    data = images()
    got = shuffle_tiles(data, tiles, seed=1)
    h, w = 8 // tiles, 12 // tiles

    def tile(pixels, k):
        y, x = divmod(k, tiles)
        return pixels[:, :, h * y : h * (y + 1), w * x : w * (x + 1)]

    order = torch.randperm(tiles**2, generator=torch.Generator().manual_seed(1)).tolist()
    assert order != sorted(order)
    for place, k in enumerate(order):
        assert torch.equal(tile(got.images, place), tile(data.images, k))
    assert got.labels is data.labels
    assert got.classes == data.classes
    assert got.name == "tiles of noise"


def test_the_seed_draws_the_order_and_leaves_torchs_own_state():
    data = images()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = shuffle_tiles(data, seed=0), shuffle_tiles(data, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.equal(first.images, second.images)
    assert torch.equal(first.images, shuffle_tiles(data).images)


def test_what_it_does_not_take():
    with pytest.raises(TypeError, match="data must be LabelledImages, got Tensor"):
        shuffle_tiles(torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"divide the height and width of the images, 8 x 12; got"):
        shuffle_tiles(images(), 3)
    with pytest.raises(ValueError, match="tiles must be"):
        shuffle_tiles(images(), 1)
