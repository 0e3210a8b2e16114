"""Digits on pieces of photographs: what a clean digit becomes in front of the world.

Each pixel is the difference of a photograph's and the digit's, |patch - digit| [1]_. The recipe is
that of a well-known set, MNIST-M, whose photographs are others (and in colour): this is not that
set, and a number on it is not to be set beside published ones.

References
----------
.. [1] Ganin et al., Domain-Adversarial Training of Neural Networks, 2016, section 5.2.4.
"""

from __future__ import annotations

import torch

from tlcourse._checks import check_choice, check_int
from tlcourse.data.labelled import LabelledImages
from tlcourse.data.surfaces import PHOTOGRAPHS, surfaces

PARTS = ("train", "test")
PIECES = 60  # of each photograph and part


def on_photographs(digits: LabelledImages, *, part: str, seed: int = 0) -> LabelledImages:
    r"""Return the images with a piece of a photograph behind each.

    .. math:: x'_{ij} = |t_{ij} - x_{ij}|

    where x is an image and t a piece of one of the photographs of
    :func:`~tlcourse.data.surfaces`, in grey, drawn at random.

    Parameters
    ----------
    digits
        Grey images (N, 1, H, H), bright ink on black.
    part
        ``"train"`` or ``"test"``: pieces of the one never overlap those of the other.
    seed
        Which pieces, 0 or more.

    Raises
    ------
    TypeError, ValueError
        If the images are not square and grey, or another argument is wrong.

    Examples
    --------
    >>> from tlcourse.data import digits
    >>> on_photographs(digits(size=16)[0], part="train")
    LabelledImages('digits on photographs', 1,000 images of 1x16x16, 10 classes)
    """
    if not isinstance(digits, LabelledImages):
        raise TypeError(f"digits must be a LabelledImages, got {type(digits).__name__}.")
    check_choice("part", part, PARTS)
    check_int("seed", seed, low=0)
    n, channels, height, width = digits.images.shape
    if channels != 1 or height != width:
        raise ValueError(
            f"digits must be grey and square, (N, 1, H, H), got {tuple(digits.images.shape)}."
        )
    pieces = surfaces(n_train=PIECES, n_test=PIECES, size=height, seed=seed)[PARTS.index(part)]
    generator = torch.Generator().manual_seed(seed)
    behind = torch.randint(PIECES * len(PHOTOGRAPHS), (n,), generator=generator)
    images = (pieces.images[behind] - digits.images).abs()
    return LabelledImages(images, digits.labels, digits.classes, f"{digits.name} on photographs")
