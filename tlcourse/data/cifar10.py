"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in ten classes [1]_.

Read from the original batches as torchvision lays them out, or from class folders of images. Copies
as JPEG have slightly other pixels than the original, so they have another name.

References
----------
.. [1] Krizhevsky, Learning multiple layers of features from tiny images, 2009, section 3.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlcourse._files import part_of, remove_stale
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
    writing,
)

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
FOLDER = "cifar-10-batches-py"
TRAIN = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
TEST = {"test_batch": "40351d587109b95175f43aff81a1287e"}
ARCHIVE = Remote(
    "cifar-10-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    170_498_071,
    "c58f30108f718f92721af3b95e74349a",
)
UNPACKED = 190_000_000  # bytes, rounded up
FORM = classfolders.Form("CIFAR-10", CLASSES, (5000,) * 10, (1000,) * 10, "RGB", 32)


def cifar10(
    root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[LabelledImages, LabelledImages]:
    """Return CIFAR-10: 50,000 photographs for training and 10,000 for testing.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as ``cifar-10-batches-py/*``
    (checked against the known MD5 sums before it is opened) or ``cifar10/train/<class>/*`` with
    ``cifar10/test/...``; then downloaded (170 MB).

    Parameters
    ----------
    root
        The folder to look in first, and to download into.
    download
        Whether to download it where it is missing.

    Returns
    -------
    (LabelledImages, LabelledImages)
        Training and test set: images (N, 3, 32, 32), named "CIFAR-10", or "CIFAR-10 (JPEG)" where
        they come from JPEG files.

    Raises
    ------
    FileNotFoundError
        If CIFAR-10 is nowhere and cannot be downloaded. ``glyphs()`` and ``digits()`` do instead.
    ValueError
        If a file is truncated or not the original, or an image is broken.
    OSError
        If a file cannot be read or written.

    Examples
    --------
    >>> train, test = cifar10()  # doctest: +SKIP
    >>> test  # doctest: +SKIP
    LabelledImages('CIFAR-10', 10,000 images of 3x32x32, 10 classes)
    """
    found = find(root)
    if found is None:
        found = _download(root, download)
    if found.class_folders:
        data, kind = classfolders.read(found.folder, FORM)
        name = f"CIFAR-10 ({kind})"
    else:
        data = {
            part: _read_batches(found.folder, batches)
            for part, batches in (("train", TRAIN), ("test", TEST))
        }
        name = "CIFAR-10"
    train, test = (
        LabelledImages(pixels.float().div_(255), labels, CLASSES, name)
        for pixels, labels in (data["train"], data["test"])
    )
    return train, test


def find(root: str | os.PathLike[str] | None = None) -> Found | None:
    """Return where CIFAR-10 lies, complete or not, or None."""

    def look(place: Path) -> Found | None:
        for above in (".", "cifar10", "CIFAR10", "cifar-10", "CIFAR-10", "cifar-10-python"):
            folder = place / above / FOLDER
            if any((folder / name).exists() for name in (*TRAIN, *TEST)):
                return Found(folder, class_folders=False)
        if any((place / name).exists() for name in (*TRAIN, *TEST)):
            return Found(place, class_folders=False)
        return classfolders.look(place, ("cifar10", "CIFAR10", "cifar-10", "CIFAR-10"), FORM)

    return first(root, look)


def check(found: Found) -> None:
    """Raise what :func:`cifar10` would raise for what was found; images are only counted."""
    if found.class_folders:
        classfolders.list_files(found.folder, FORM)
        return
    for name, md5 in (TRAIN | TEST).items():
        _read_original(found.folder, name, md5)


def remotes() -> list[Remote]:
    """Return the file that a download fetches."""
    return [ARCHIVE]


def fetch(root: str | os.PathLike[str] | None = None) -> None:
    """Download CIFAR-10 if it is nowhere."""
    if find(root) is None:
        _download(root, True)


def _download(root: str | os.PathLike[str] | None, allowed: bool) -> Found:
    """Download and unpack the batches; their folder gets its name when all of them are there."""
    place = places(root)[0]
    reason = None
    if allowed:
        remove_stale(place / FOLDER)
        need_space(place, ARCHIVE.size + UNPACKED)
        work = part_of(place / FOLDER)
        try:
            download(ARCHIVE, work / ARCHIVE.name)
            _unpack(work / ARCHIVE.name, work / FOLDER)
            (work / FOLDER).replace(place / FOLDER)
            return Found(place / FOLDER, class_folders=False)
        except DownloadError as error:
            reason = str(error)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise not_available(
        "CIFAR-10",
        root=root,
        remotes=[ARCHIVE],
        into=FOLDER,
        instead="glyphs() and digits()",
        reason=reason,
    )


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the known files, and no others, out of the archive."""
    with tarfile.open(archive) as tar:
        for name in (*TRAIN, *TEST, "batches.meta"):
            source = tar.extractfile(f"{FOLDER}/{name}")
            assert source is not None  # the checksum of the archive was right
            with source, writing(folder / name) as target:
                shutil.copyfileobj(source, target)


def _read_batches(folder: Path, batches: dict[str, str]) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 32, 32) uint8 and labels (N,) of the named batches."""
    images, labels = [], []
    for name, md5 in batches.items():
        batch = _unpickle(_read_original(folder, name, md5))
        images.append(torch.from_numpy(batch[b"data"]).view(-1, 3, 32, 32))
        labels.append(torch.tensor(batch[b"labels"]))
    return torch.cat(images), torch.cat(labels)


def _read_original(folder: Path, name: str, md5: str) -> bytes:
    path = folder / name
    if not path.exists():
        raise ValueError(
            f"{folder} lacks {name}: the copy of CIFAR-10 is not complete. Delete the folder; the "
            "next call then downloads it again."
        )
    return read_checked(path, md5=md5)


def _unpickle(content: bytes) -> Any:
    """Open a batch. A pickle can run code, so its checksum was compared before."""
    with warnings.catch_warnings():
        # NumPy finds fault with how its version of 2009 wrote arrays; that cannot be mended here.
        warnings.simplefilter("ignore")
        return pickle.loads(content, encoding="bytes")
