"""USPS: 6,973 digits of 16 x 16 pixels from envelopes [1]_, as the program of CCSA brings them.

The authors of CCSA released their own splits of USPS and MNIST with their program [2]_; the file
that is read here holds every different picture once, and the splits as positions among them. What
those splits draw of USPS, 6,973 different pictures, is the set. Its test part is no published one.

References
----------
.. [1] Hull, A database for handwritten text recognition research, 1994.
.. [2] Motiian, Piccirilli, Adjeroh and Doretto, Unified Deep Supervised Domain Adaptation and
   Generalization, 2017; https://github.com/samotiian/CCSA.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tlcourse._checks import check_choice, check_int
from tlcourse.data.labelled import LabelledImages
from tlcourse.data.recordings import find_folder
from tlcourse.data.store import Found, places

CLASSES = tuple("0123456789")
FILE = "ccsa-digits.npz"
FOLDERS = ("ccsa", "CCSA", ".")
PAIRS = ("MNIST_to_USPS", "USPS_to_MNIST")
N_TEST = 1_973  # leaves 5,000 for training
REPETITIONS, MOST_LABELS = 10, 7
TODO = (
    "It is put there by hand: the splits that https://github.com/samotiian/CCSA brings, as "
    f"ccsa/{FILE} under a folder that root= or TLCOURSE_DATA names."
)


class Split(NamedTuple):
    """One of the released splits.

    Attributes
    ----------
    source, target, test
        What the program learns from, source and target, and the target's test images.
    leaked
        For each test image whether it is one of the target's training images, (N,), bool.
    """

    source: LabelledImages
    target: LabelledImages
    test: LabelledImages
    leaked: Tensor


def usps(root: str | os.PathLike[str] | None = None) -> tuple[LabelledImages, LabelledImages]:
    """Return USPS, 5,000 images for training and 1,973 for testing.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as ``ccsa/ccsa-digits.npz``.
    The split is always the same. The digits are not equally frequent: 0 and 1 are a third of them.

    Parameters
    ----------
    root
        The folder to look in first.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: images (N, 1, 16, 16), bright ink on black, classes "0" ... "9".

    Raises
    ------
    FileNotFoundError
        If the set is nowhere. ``digits()`` and ``mnist5k()`` do instead.
    ValueError
        If the file is damaged or another one.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> train, test = usps()  # doctest: +SKIP
    >>> train  # doctest: +SKIP
    LabelledImages('USPS', 5,000 images of 1x16x16, 10 classes)
    """
    file = _read(_found(root))
    label_of: dict[int, int] = {}
    for key, positions in file.items():
        pair, *_, part, what = key.split("/") if "/" in key else ("", "", "")
        if what == "index" and (pair == PAIRS[0]) != (part == "train_source"):
            known = file[key.removesuffix("index") + "label"]
            label_of.update(zip(positions.tolist(), known.tolist(), strict=True))
    chosen = torch.tensor(sorted(label_of))
    labels = torch.tensor([label_of[i] for i in chosen.tolist()])
    images = torch.from_numpy(file["images"])[chosen, None]
    everything = LabelledImages(images, labels, CLASSES, "USPS")
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return everything.subset(order[N_TEST:]), everything.subset(order[:N_TEST])


def ccsa_split(
    pair: str, repetition: int, labels: int, *, root: str | os.PathLike[str] | None = None
) -> Split:
    """Return one of the splits that CCSA's authors released, with what of it leaks.

    Parameters
    ----------
    pair
        ``"MNIST_to_USPS"`` or ``"USPS_to_MNIST"``.
    repetition
        0 to 9.
    labels
        Labelled target images of every digit, 1 to 7.
    root
        The folder to look in first.

    Raises
    ------
    FileNotFoundError
        If the set is nowhere.
    TypeError, ValueError
        If an argument is out of range, or the file is damaged or another one.

    Examples
    --------
    >>> split = ccsa_split("MNIST_to_USPS", 0, 7)  # doctest: +SKIP
    >>> len(split.target), int(split.leaked.sum())  # doctest: +SKIP
    (70, 18)
    """
    check_choice("pair", pair, PAIRS)
    check_int("repetition", repetition, low=0, high=REPETITIONS - 1)
    check_int("labels", labels, low=1, high=MOST_LABELS)
    file = _read(_found(root))
    pixels = torch.from_numpy(file["images"])
    of_source, of_target = (f"{name} (CCSA)" for name in pair.split("_to_"))
    parts, positions = [], []
    for part, name in (
        ("train_source", of_source),
        ("train_target", of_target),
        ("test_target", of_target),
    ):
        where = f"{pair}/{repetition}/{labels}/{part}"
        positions.append(torch.from_numpy(file[f"{where}/index"]).long())
        known = torch.from_numpy(file[f"{where}/label"]).long()
        parts.append(LabelledImages(pixels[positions[-1], None], known, CLASSES, name))
    return Split(parts[0], parts[1], parts[2], torch.isin(positions[2], positions[1]))


def find(root: str | os.PathLike[str] | None = None) -> Found | None:
    """Return where the set lies, or None."""
    return find_folder(root, FOLDERS, lambda folder: (folder / FILE).is_file())


def todo() -> str:
    """Return what to do to have the set."""
    return TODO


def check(found: Found) -> None:
    """Raise what :func:`usps` would raise for the file."""
    _read(found)


def _found(root: str | os.PathLike[str] | None) -> Found:
    found = find(root)
    if found is None:
        looked = ", ".join(str(place) for place in places(root))
        raise FileNotFoundError(
            f"USPS is not on this machine (looked for ccsa/{FILE} in {looked}). {TODO} Or use "
            "handwritten digits that need no download: digits(), mnist5k()."
        )
    return found


def _read(found: Found) -> Mapping[str, np.ndarray]:
    path = found.folder / FILE
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            file = dict(archive)
        if file["images"].ndim != 3 or file["images"].dtype != np.float32:
            raise ValueError(f"its images are {file['images'].shape} {file['images'].dtype}")
        file[f"{PAIRS[0]}/0/1/train_target/index"]
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold the splits of CCSA ({error}). Put the original file there, or "
            "use digits() and mnist5k()."
        ) from error
    return file
