"""Handwritten digits, embedded: the real target domain that every machine has.

scikit-learn carries 1,797 digits of 8 x 8 pixels that 43 people wrote [1]_. The course uses them as
the target of transfer: few labels, real pen strokes, and nothing to fetch.

References
----------
.. [1] Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI repository, 1998.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tlcourse._checks import check_int
from tlcourse.data.labelled import LabelledImages

N_TEST = 797  # leaves 1,000 for training


def digits(*, size: int = 32) -> tuple[LabelledImages, LabelledImages]:
    """Return the handwritten digits, 1,000 for training and 797 for testing.

    The split is always the same, and every digit has its share of both parts. The 8 x 8 originals
    are enlarged bilinearly to ``size``.

    Parameters
    ----------
    size
        Side of the images in pixels, 8 to 256.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: images (N, 1, size, size), bright ink on black, classes "0" ... "9".

    Raises
    ------
    TypeError, ValueError
        If ``size`` is no integer in [8, 256].

    Examples
    --------
    >>> train, test = digits()
    >>> train
    LabelledImages('digits', 1,000 images of 1x32x32, 10 classes)
    >>> len(test)
    797
    """
    check_int("size", size, low=8, high=256)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16  # (1797, 1, 8, 8), ink 0 to 16
    if size != 8:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(bunch.target).long()
    parts = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=N_TEST, random_state=0, stratify=bunch.target
    )
    everything = LabelledImages(images.clamp_(0, 1), labels, tuple("0123456789"), "digits")
    train, test = (everything.subset(torch.from_numpy(part)) for part in parts)
    return train, test
