"""MNIST: 70,000 handwritten digits of 28 x 28 pixels [1]_.

Read from the original files as torchvision lays them out, packed or not, or from class folders of
images.

References
----------
.. [1] LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document
   recognition, 1998.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlcourse.data import classfolders
from tlcourse.data.labelled import LabelledImages
from tlcourse.data.store import (
    DownloadError,
    Found,
    Remote,
    download,
    first,
    need_space,
    not_available,
    places,
    read_checked,
)

CLASSES = tuple("0123456789")
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)


@dataclass(frozen=True)
class Part:
    """One of the four original files: name, shape, MD5 unpacked; size and MD5 packed."""

    name: str
    shape: tuple[int, ...]
    md5: str
    packed_size: int
    packed_md5: str

    @property
    def size(self) -> int:
        """Bytes of the unpacked file: a header of 4 bytes and 4 more per axis, then the values."""
        return 4 + 4 * len(self.shape) + int(torch.Size(self.shape).numel())

    @property
    def remote(self) -> Remote:
        """The packed file on the network."""
        name = f"{self.name}.gz"
        urls = tuple(mirror + name for mirror in MIRRORS)
        return Remote(name, urls, self.packed_size, self.packed_md5)


PARTS = (
    Part(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "6bbc9ace898e44ae57da46a324031adb",
        9_912_422,
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    Part(
        "train-labels-idx1-ubyte",
        (60_000,),
        "a25bea736e30d166cdddb491f175f624",
        28_881,
        "d53e105ee54ea40749a09fcbcd1e9432",
    ),
    Part(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "2646ac647ad5339dbf082846283269ea",
        1_648_877,
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    Part(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "27ae3e4e09519cfbb04c329615203637",
        4_542,
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)

FORM = classfolders.Form(
    "MNIST",
    CLASSES,
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    "L",
    28,
)


def mnist(
    root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[LabelledImages, LabelledImages]:
    """Return MNIST: 60,000 digits for training and 10,000 for testing.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as ``MNIST/raw/*-ubyte`` (or
    ``.gz``, or as other programs name and unpack them; checked against the known MD5 sums) or
    ``MNIST/train/<digit>/*.png`` with ``MNIST/test/...``; then downloaded (12 MB).

    Parameters
    ----------
    root
        The folder to look in first, and to download into.
    download
        Whether to download what is missing.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: images (N, 1, 28, 28), classes "0" ... "9".

    Raises
    ------
    FileNotFoundError
        If MNIST is nowhere and cannot be downloaded. ``digits()`` does instead.
    ValueError
        If a file is truncated or not the original.
    OSError
        If a file cannot be read or written.

    Examples
    --------
    >>> train, test = mnist()  # doctest: +SKIP
    >>> train  # doctest: +SKIP
    LabelledImages('MNIST', 60,000 images of 1x28x28, 10 classes)
    """
    found = find(root)
    if found is not None and found.class_folders:
        data, kind = classfolders.read(found.folder, FORM)
        train, test = (
            LabelledImages(pixels.float().div_(255), labels, CLASSES, f"MNIST ({kind})")
            for pixels, labels in (data["train"], data["test"])
        )
        return train, test
    folder = found.folder if found else places(root)[0] / "MNIST" / "raw"
    _complete(folder, root, download)
    images, labels, test_images, test_labels = (_read(folder, part) for part in PARTS)
    return _dataset(images, labels), _dataset(test_images, test_labels)


def find(root: str | os.PathLike[str] | None = None) -> Found | None:
    """Return where MNIST lies, complete or not, or None."""

    def look(place: Path) -> Found | None:
        for below in ("MNIST/raw", "mnist/raw", "raw", "MNIST", "mnist", "."):
            if any(_path(place / below, part) for part in PARTS):
                return Found(place / below, class_folders=False)
        return classfolders.look(place, ("MNIST", "mnist", "mnist_png"), FORM)

    return first(root, look)


def check(found: Found) -> None:
    """Raise what :func:`mnist` would raise for the files that were found."""
    if found.class_folders:
        classfolders.list_files(found.folder, FORM)
        return
    if absent := [part.name for part in PARTS if _path(found.folder, part) is None]:
        raise FileNotFoundError(
            f"{found.folder} lacks {', '.join(absent)} (or with .gz). Put them there; "
            "tlcourse data fetch mnist downloads what is missing."
        )
    for part in PARTS:
        _read(found.folder, part)


def remotes() -> list[Remote]:
    """Return the files that a download fetches."""
    return [part.remote for part in PARTS]


def fetch(root: str | os.PathLike[str] | None = None) -> None:
    """Download what is missing of MNIST."""
    found = find(root)
    if found is None or not found.class_folders:
        folder = found.folder if found else places(root)[0] / "MNIST" / "raw"
        _complete(folder, root, True)


def _complete(folder: Path, root: str | os.PathLike[str] | None, allowed: bool) -> None:
    """Download the files that ``folder`` lacks, each with its own check; keep the others."""
    absent = [part.remote for part in PARTS if _path(folder, part) is None]
    reason = None
    if allowed and absent:
        need_space(folder, sum(remote.size for remote in absent))
        try:
            for remote in absent:
                download(remote, folder / remote.name)
            return
        except DownloadError as error:
            reason = str(error)
            absent = [remote for remote in absent if not (folder / remote.name).exists()]
    if absent:
        raise not_available(
            "MNIST" if len(absent) == len(PARTS) else f"MNIST without {absent[0].name}",
            root=root,
            remotes=absent,
            into="MNIST/raw",
            instead="digits()",
            reason=reason,
        )


def _path(folder: Path, part: Part) -> Path | None:
    """Return where a part lies, unpacked or packed, or None.

    Some programs write the name with a dot, as the original archive holds it, and some unpack every
    file into a folder of the same name.
    """
    names = [part.name, part.name.replace("-idx", ".idx")]
    names += [f"{name}.gz" for name in names]
    for path in (folder / above / name for above in (".", *names) for name in names):
        if path.is_file():
            return path
    return None


def _read(folder: Path, part: Part) -> Tensor:
    """Return the values of one file, uint8, of the shape that it has in MNIST."""
    path = _path(folder, part)
    assert path is not None  # _complete has seen to it
    content = read_checked(path, md5=part.md5, size=part.size)
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return values[part.size - int(torch.Size(part.shape).numel()) :].view(part.shape)


def _dataset(pixels: Tensor, labels: Tensor) -> LabelledImages:
    return LabelledImages(pixels[:, None].float().div_(255), labels.long(), CLASSES, "MNIST")
