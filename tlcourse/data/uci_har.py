"""UCI HAR: windows of 30 people with a phone at the waist, at 50 Hz [1]_.

The inertial signals as published: filtered, cut into windows of 128 samples of which neighbours
share half. The people are those of :mod:`~tlcourse.data.hapt`, which has the recordings themselves.

References
----------
.. [1] Anguita, Ghio, Oneto, Parra and Reyes-Ortiz, A public domain dataset for human activity
   recognition using smartphones, ESANN 2013. UCI Machine Learning Repository, data set 240.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from tlcourse._checks import check_choice
from tlcourse.data.recordings import (
    INCOMPLETE,
    ByHand,
    find_folder,
    parsed_once,
    read_integers,
    read_numbers,
)
from tlcourse.data.store import Found
from tlcourse.data.windows import AXES, IN_G, LENGTH, MATCHED_RATE, Windows, resample

CLASSES = (
    "walking",
    "walking upstairs",
    "walking downstairs",
    "sitting",
    "standing",
    "lying",
)
PARTS = ("train", "test")
RATE = 50.0  # Hz
PUBLISHED = 128  # samples of a window
BY_HAND = ByHand(
    "UCI HAR",
    "https://archive.ics.uci.edu/dataset/240",
    61_000_000,
    'uci_har (so that "uci_har/UCI HAR Dataset/train/y_train.txt" is there)',
    "imu()",
)
FOLDERS = ("uci_har/UCI HAR Dataset", "UCI HAR Dataset", "uci_har", "UCI_HAR_Dataset", ".")


def uci_har(
    root: str | os.PathLike[str] | None = None,
    *,
    acceleration: str = "total",
    matched: bool = False,
) -> tuple[Windows, Windows]:
    """Return UCI HAR's own training and test set, which share no person.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as
    ``UCI HAR Dataset/{train,test}/Inertial Signals/*``. It is parsed once and kept in the cache
    folder.

    Parameters
    ----------
    root
        The folder to look in first.
    acceleration
        ``"total"``, with gravity, as an accelerometer measures it, or ``"body"``, without.
    matched
        Whether to lower the rate to 25 Hz, that of the other sets with ``matched=True``: all 128
        samples then become 64. Without it, windows are the first 125 samples at 50 Hz.

    Returns
    -------
    (Windows, Windows)
        Training and test set: (N, 125, 6), or (N, 64, 6) if matched; g and rad/s.

    Raises
    ------
    FileNotFoundError
        If UCI HAR is nowhere. ``imu()`` does instead.
    TypeError, ValueError
        If an argument is wrong; if a file is truncated or holds what is no number, with its name
        and line; if a person is in both parts.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> train, test = uci_har()  # doctest: +SKIP
    """
    check_choice("acceleration", acceleration, ("total", "body"))
    found = find(root)
    if found is None:
        raise BY_HAND.absent(root)
    names = [f"{acceleration}_acc_{axis}" for axis in "xyz"] + [
        f"body_gyro_{axis}" for axis in "xyz"
    ]
    files = _files(found.folder, names)
    data = parsed_once("uci_har", list(files.values()), names, lambda: _parse(files, names))
    people = [set(data[f"{part} persons"].tolist()) for part in PARTS]
    if both := sorted(people[0] & people[1]):
        raise ValueError(
            f"{files['test subject']} names persons {both}, who are in {files['train subject']}, "
            f"too. {INCOMPLETE}"
        )
    train, test = (
        Windows(
            _at_rate(data[part], matched),
            data[f"{part} labels"] - 1,  # counted from 1 in the files
            data[f"{part} persons"],
            classes=CLASSES,
            channels=AXES,
            units=IN_G,
            rate=MATCHED_RATE if matched else RATE,
            name="UCI HAR" if acceleration == "total" else "UCI HAR, without gravity",
        )
        for part in PARTS
    )
    return train, test


def find(root: str | os.PathLike[str] | None = None) -> Found | None:
    """Return where UCI HAR lies, complete or not, or None."""
    return find_folder(
        root,
        FOLDERS,
        lambda folder: any((folder / part / "Inertial Signals").is_dir() for part in PARTS),
    )


def todo() -> str:
    """Return what to do to have the set."""
    return BY_HAND.todo


def check(found: Found) -> None:
    """Raise what :func:`uci_har` would raise for the files' names; the signals are not read."""
    signals = ("total_acc", "body_acc", "body_gyro")
    _files(found.folder, [f"{signal}_{axis}" for signal in signals for axis in "xyz"])


def _files(folder: Path, names: list[str]) -> dict[str, Path]:
    """Return the files of both parts; ``"train y"``, ``"test total_acc_x"`` and so on."""
    files = {}
    for part in PARTS:
        for name in ("y", "subject"):
            files[f"{part} {name}"] = folder / part / f"{name}_{part}.txt"
        for name in names:
            files[f"{part} {name}"] = folder / part / "Inertial Signals" / f"{name}_{part}.txt"
    for path in files.values():
        if not path.exists():
            raise ValueError(f"{path.parent} lacks {path.name}. {INCOMPLETE}")
    return files


def _parse(files: dict[str, Path], names: list[str]) -> dict[str, np.ndarray]:
    from tqdm.auto import tqdm

    data: dict[str, np.ndarray] = {}
    with tqdm(total=len(files), desc="parse UCI HAR", unit="file", leave=False) as bar:
        for part in PARTS:
            labels = read_integers(files[f"{part} y"], 1, ranges=[("activity", 1, len(CLASSES))])
            n = len(labels)
            people = read_integers(files[f"{part} subject"], 1, ranges=[("person", 1, 30)], rows=n)
            bar.update(2)
            signals = np.empty((n, PUBLISHED, len(names)), dtype=np.float32)
            for c, name in enumerate(names):
                signals[:, :, c] = read_numbers(files[f"{part} {name}"], PUBLISHED, rows=n)
                bar.update()
            data |= {part: signals, f"{part} labels": labels[:, 0], f"{part} persons": people[:, 0]}
    return data


def _at_rate(windows: torch.Tensor, matched: bool) -> torch.Tensor:
    if not matched:
        return windows[:, :LENGTH].contiguous()
    return torch.from_numpy(resample(windows.numpy(), RATE, MATCHED_RATE, axis=1))
