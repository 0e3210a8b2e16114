"""Surfaces: small pieces of real photographs, in eight classes; embedded.

Bricks, grass, gravel, a cat, wood, leaves, petals and stained tissue, cut from photographs that
scikit-image and scikit-learn carry [1]_. Every piece is turned by an angle of its own, taken from
nearer or farther away, in its own light. All are grey, for by their colours they would be told
apart without a look at the surface.

The pieces for training and those for testing come from different parts of a photograph, with a gap
between them. Pieces of one part may overlap. So a test piece is new, but the photographs are not:
how well a classifier knows *other* bricks, these images do not tell.

References
----------
.. [1] Brick, gravel: CC0Textures; grass: linolafett; Chelsea the cat: Stéfan van der Walt; coffee:
   Rachel Michetti, Pikolo Espresso Bar (all CC0). Stained tissue: Center for Microscopy and
   Molecular Imaging, no known restrictions. China (the leaves): danielbuechele; flower: vultilion
   (both CC BY 2.0). The documentation of ``skimage.data`` and scikit-learn's
   ``datasets/images/README.txt`` have the addresses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_int
from tlcourse._installed import file_in_package
from tlcourse.data.labelled import LabelledImages


class Region(NamedTuple):
    """A rectangle of a photograph, in pixels: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int


class Photograph(NamedTuple):
    """Where a class comes from: a file of a package, and its regions for training and testing."""

    package: str
    file: str
    train: Region
    test: Region


_LEFT, _RIGHT = Region(0, 512, 0, 250), Region(0, 512, 262, 512)
PHOTOGRAPHS = {
    "brick": Photograph("skimage", "data/brick.png", _LEFT, _RIGHT),
    "grass": Photograph("skimage", "data/grass.png", _LEFT, _RIGHT),
    "gravel": Photograph("skimage", "data/gravel.png", _LEFT, _RIGHT),
    "cat": Photograph(
        "skimage", "data/chelsea.png", Region(40, 300, 50, 205), Region(0, 300, 215, 380)
    ),
    "wood": Photograph(
        "skimage", "data/coffee.png", Region(190, 400, 470, 600), Region(0, 180, 430, 600)
    ),
    "leaves": Photograph(
        "sklearn",
        "datasets/images/china.jpg",
        Region(140, 427, 560, 640),
        Region(350, 427, 270, 550),
    ),
    "petals": Photograph(
        "sklearn",
        "datasets/images/flower.jpg",
        Region(90, 285, 180, 270),
        Region(90, 285, 280, 370),
    ),
    "tissue": Photograph("skimage", "data/ihc.png", _LEFT, _RIGHT),
}
SMALLEST, LARGEST = 34.0, 52.0  # side of a piece, in pixels of the photograph


def surfaces(
    *, n_train: int = 100, n_test: int = 50, size: int = 64, seed: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Return pieces of photographs of eight surfaces.

    Parameters
    ----------
    n_train, n_test
        Pieces of each class, 1 to 10,000. Hundreds of them show the same spots again.
    size
        Side of the images in pixels, 8 to 256.
    seed
        Which pieces, 0 or more.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: grey images (N, 1, size, size), class after class.

    Raises
    ------
    TypeError, ValueError
        If a number is no integer or out of range.

    Examples
    --------
    >>> train, test = surfaces(n_train=20, n_test=10)
    >>> train
    LabelledImages('surfaces', 160 images of 1x64x64, 8 classes)
    >>> test.classes[:4]
    ('brick', 'grass', 'gravel', 'cat')
    """
    check_int("n_train", n_train, low=1, high=10_000)
    check_int("n_test", n_test, low=1, high=10_000)
    check_int("size", size, low=8, high=256)
    check_int("seed", seed, low=0)
    train, test = [], []
    for k, photograph in enumerate(PHOTOGRAPHS.values()):
        grey = _read(photograph)
        train.append(_pieces(grey, photograph.train, n_train, size, (seed, 0, k)))
        test.append(_pieces(grey, photograph.test, n_test, size, (seed, 1, k)))
    return _dataset(train), _dataset(test)


def _read(photograph: Photograph) -> Tensor:
    """Return a photograph in grey, (H, W), in [0, 1]."""
    import numpy as np
    from PIL import Image

    distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[photograph.package]
    path = file_in_package(
        photograph.package,
        photograph.file,
        install=f"pip install {distribution}",
        what=f"Photographs of {distribution}",
    )
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("L"), dtype=np.float32)) / 255


def _pieces(grey: Tensor, region: Region, n: int, size: int, draw: tuple[int, int, int]) -> Tensor:
    """Return n square pieces of a region, (n, 1, size, size), in [0, 1]."""
    import numpy as np

    u = torch.from_numpy(np.random.default_rng(draw).random((n, 6), dtype=np.float32))
    side = SMALLEST * (LARGEST / SMALLEST) ** u[:, 0]  # (n,)
    angle = 2 * math.pi * u[:, 1]
    # A turned square of this side reaches side / sqrt(2) to every direction: it stays inside.
    reach = side / math.sqrt(2) + 1
    row = region.top + reach + u[:, 2] * (region.bottom - 1 - region.top - 2 * reach)
    column = region.left + reach + u[:, 3] * (region.right - 1 - region.left - 2 * reach)

    step = torch.linspace(-0.5, 0.5, size)
    y, x = (side.view(n, 1, 1) * axis for axis in (step.view(size, 1), step.view(1, size)))
    cos, sin = angle.cos().view(n, 1, 1), angle.sin().view(n, 1, 1)
    rows = row.view(n, 1, 1) + cos * y - sin * x  # (n, size, size)
    columns = column.view(n, 1, 1) + sin * y + cos * x
    height, width = grey.shape
    grid = torch.stack((2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1), dim=-1)
    grid = grid.view(1, n * size, size, 2)  # all pieces below each other, out of one photograph
    pieces = F.grid_sample(grey[None, None], grid, align_corners=True).view(n, 1, size, size)

    contrast, light = (
        (0.5 + 0.5 * u[:, 4]).view(n, 1, 1, 1),
        (0.35 + 0.3 * u[:, 5]).view(n, 1, 1, 1),
    )
    return ((pieces - pieces.mean((2, 3), keepdim=True)) * contrast + light).clamp(0, 1)


def _dataset(pieces: list[Tensor]) -> LabelledImages:
    labels = torch.arange(len(pieces)).repeat_interleave(len(pieces[0]))
    return LabelledImages(torch.cat(pieces), labels, tuple(PHOTOGRAPHS), "surfaces")
