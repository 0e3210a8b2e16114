"""Daily and Sports Activities: 8 people with five motion sensors, at 25 Hz [1]_.

Every file is one segment of 5 seconds: 125 rows of 45 columns, nine for each of the torso, the
arms and the legs: accelerometer in m/s^2, gyroscope in rad/s and magnetometer, each along x, y, z.

References
----------
.. [1] Altun, Barshan and Tunçel, Comparative study on classifying human activities with miniature
   inertial and magnetic sensors, Pattern Recognition 2010. UCI Machine Learning Repository, data
   set 256.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tlcourse._checks import check_choice
from tlcourse.data.folder import is_clutter
from tlcourse.data.recordings import (
    INCOMPLETE,
    ByHand,
    check_activities,
    find_folder,
    parsed_once,
    read_numbers,
)
from tlcourse.data.store import Found
from tlcourse.data.windows import AXES, IN_G, IN_SI, LENGTH, G, Windows

ACTIVITIES = {
    1: "sitting",
    2: "standing",
    3: "lying on the back",
    4: "lying on the side",
    5: "walking upstairs",
    6: "walking downstairs",
    7: "standing in a lift",
    8: "moving in a lift",
    9: "walking",
    10: "treadmill, flat",
    11: "treadmill, inclined",
    12: "running",
    13: "stepper",
    14: "cross trainer",
    15: "exercise bike, horizontal",
    16: "exercise bike, vertical",
    17: "rowing",
    18: "jumping",
    19: "basketball",
}
UNITS = ("torso", "right arm", "left arm", "right leg", "left leg")  # in the order of the columns
COLUMNS = 9 * len(UNITS)
RATE = 25.0  # Hz
PEOPLE = 8
SEGMENTS = 60  # of every person and activity, as published
BY_HAND = ByHand(
    "Daily and Sports Activities",
    "https://archive.ics.uci.edu/dataset/256",
    170_000_000,
    "dsa (so that dsa/data/a01/p1/s01.txt is there)",
    "imu()",
)
FOLDERS = ("dsa/data", "DSA/data", "dsa", "daily+and+sports+activities/data", "data", ".")


def dsa(
    root: str | os.PathLike[str] | None = None,
    *,
    unit: str = "torso",
    activities: Sequence[int] = (3, 7, 9, 13, 14, 15),
    matched: bool = False,
) -> Windows:
    """Return the segments of one body-worn unit: 125 samples, 5 s each.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as ``dsa/data/aXX/pY/*``.
    It is parsed once and kept in the cache folder. Where a copy holds fewer than the 60 segments of
    the archive for each person and activity, the name of the set says so.

    Parameters
    ----------
    root
        The folder to look in first.
    unit
        ``"torso"``, ``"right arm"``, ``"left arm"``, ``"right leg"`` or ``"left leg"``.
    activities
        Numbers of ``ACTIVITIES``. Labels follow the order given.
    matched
        Whether to give accelerations in g, as the other sets with ``matched=True``; without it
        they are in m/s^2, as in the files. The rate is 25 Hz in both.

    Returns
    -------
    Windows
        (N, 125, 6), accelerometer and gyroscope; persons 1 to 8.

    Raises
    ------
    FileNotFoundError
        If the set is nowhere. ``imu()`` does instead.
    TypeError, ValueError
        If an argument is wrong; if a file is truncated, misnumbered or holds what is no number,
        with its name and line.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> dsa(unit="right leg")  # doctest: +SKIP
    Windows('DSA, right leg', 2,880 windows of 125 x 6 at 25 Hz, 6 classes, 8 people)
    """
    check_choice("unit", unit, UNITS)
    chosen = check_activities(activities, ACTIVITIES)
    found = find(root)
    if found is None:
        raise BY_HAND.absent(root)
    files = _files(found.folder, chosen)
    flat = [path for segments in files.values() for path in segments]
    data = parsed_once("dsa", flat, chosen, lambda: {"signals": _parse(flat)})
    at = 9 * UNITS.index(unit)
    windows = data["signals"][:, :, at : at + 6]  # (N, 125, 6)
    if matched:
        windows = torch.cat([windows[:, :, :3] / G, windows[:, :, 3:]], dim=2)
    each = len(next(iter(files.values())))
    counts = torch.full((len(files),), each)
    part = "" if each == SEGMENTS else f" ({each} of {SEGMENTS} segments)"
    return Windows(
        windows.contiguous(),
        torch.tensor([chosen.index(a) for a, _ in files]).repeat_interleave(counts),
        torch.tensor([p for _, p in files]).repeat_interleave(counts),
        classes=[ACTIVITIES[a] for a in chosen],
        channels=AXES,
        units=IN_G if matched else IN_SI,
        rate=RATE,
        name=f"DSA, {unit}{part}",
    )


def find(root: str | os.PathLike[str] | None = None) -> Found | None:
    """Return where the set lies, complete or not, or None."""
    return find_folder(root, FOLDERS, lambda folder: any(folder.glob("a[01][0-9]/p[1-8]")))


def todo() -> str:
    """Return what to do to have the set."""
    return BY_HAND.todo


def check(found: Found) -> None:
    """Raise what :func:`dsa` would raise for the files' names; the segments are not read."""
    there = [a for a in ACTIVITIES if (found.folder / f"a{a:02}").is_dir()]
    _files(found.folder, there)


def _files(folder: Path, activities: Sequence[int]) -> dict[tuple[int, int], list[Path]]:
    """Return the segments of every (activity, person), as many of each."""
    files: dict[tuple[int, int], list[Path]] = {}
    for activity in activities:
        for person in range(1, PEOPLE + 1):
            here = folder / f"a{activity:02}" / f"p{person}"
            segments = sorted(path for path in here.glob("*.txt") if not is_clutter(path.name))
            for path in segments:
                match = re.fullmatch(r"s(\d\d)\.txt", path.name)
                if match is None or not 1 <= int(match[1]) <= SEGMENTS:
                    raise ValueError(
                        f"{path} is misnumbered: segments are called s01.txt to "
                        f"s{SEGMENTS}.txt. {INCOMPLETE}"
                    )
            files[activity, person] = segments
    counts = {key: [path.name for path in segments] for key, segments in files.items()}
    most = max(counts.values(), key=len)
    for (activity, person), names in counts.items():
        if names != most or not names:
            here = folder / f"a{activity:02}" / f"p{person}"
            other = sorted(set(most) ^ set(names))
            raise ValueError(
                f"{here} has {len(names)} segments and another folder {len(most)}; the first that "
                f"only one has is {other[0] if other else 's01.txt'}. {INCOMPLETE}"
            )
    return files


def _parse(files: Sequence[Path]) -> np.ndarray:
    """Return all segments, (N, 125, 45) float32."""
    from tqdm.auto import tqdm

    signals = np.empty((len(files), LENGTH, COLUMNS), dtype=np.float32)
    for i, path in enumerate(tqdm(files, desc="parse DSA", unit="segment", leave=False)):
        signals[i] = read_numbers(path, COLUMNS, rows=LENGTH, separator=",")
    return signals
