"""HAPT: 30 people with a phone at the waist, recorded at 50 Hz [1]_.

The raw recordings of the people of UCI HAR, with what lies between the activities. Windows are cut
here, each inside one labelled segment.

References
----------
.. [1] Reyes-Ortiz, Oneto, Samà, Parra and Anguita, Transition-aware human activity recognition
   using smartphones, Neurocomputing 2016. UCI Machine Learning Repository, data set 341.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tlcourse._checks import check_int
from tlcourse.data.recordings import (
    INCOMPLETE,
    ByHand,
    check_activities,
    find_folder,
    parsed_once,
    read_integers,
    read_numbers,
)
from tlcourse.data.store import Found
from tlcourse.data.windows import AXES, IN_G, LENGTH, MATCHED_RATE, Windows, resample

ACTIVITIES = {
    1: "walking",
    2: "walking upstairs",
    3: "walking downstairs",
    4: "sitting",
    5: "standing",
    6: "lying",
    7: "stand to sit",
    8: "sit to stand",
    9: "sit to lie",
    10: "lie to sit",
    11: "stand to lie",
    12: "lie to stand",
}
RATE = 50.0  # Hz
HOP = 62  # samples from one window to the next: neighbours share half
BY_HAND = ByHand(
    "HAPT",
    "https://archive.ics.uci.edu/dataset/341",
    80_000_000,
    "hapt (so that hapt/RawData/labels.txt is there)",
    "imu()",
)
FOLDERS = ("hapt", "HAPT", "HAPT Data Set", "hapt/HAPT Data Set", ".")
RECORDING = re.compile(r"(acc|gyro)_exp(\d\d)_user(\d\d)\.txt")


def hapt(
    root: str | os.PathLike[str] | None = None,
    *,
    activities: Sequence[int] = (1, 2, 3, 4, 5, 6),
    hop: int = HOP,
    matched: bool = False,
) -> Windows:
    """Return windows of 125 samples of a phone at the waist, each inside one activity.

    Looked for under ``root``, ``$TLCOURSE_DATA`` and the cache folder, as ``hapt/RawData/*``. It is
    parsed once and kept in the cache folder.

    Parameters
    ----------
    root
        The folder to look in first.
    activities
        Numbers of ``ACTIVITIES``: 1 to 6 are those of UCI HAR, 7 to 12 the transitions between
        them, most of which are shorter than a window. Labels follow the order given.
    hop
        Samples from the start of one window to the next, at least 1.
    matched
        Whether to lower the rate to 25 Hz, that of the other sets with ``matched=True``: a window
        then lasts 5 s. Without it, it has the 50 Hz of the recording and lasts 2.5 s.

    Returns
    -------
    Windows
        (N, 125, 6), g and rad/s. Neighbouring windows share samples, so split them by person.

    Raises
    ------
    FileNotFoundError
        If HAPT is nowhere. ``imu()`` does instead.
    TypeError, ValueError
        If an argument is wrong; if a file is truncated, misnumbered or holds what is no number,
        with its name and line.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> train, test = hapt().by_person(range(22, 31))  # doctest: +SKIP
    """
    chosen = check_activities(activities, ACTIVITIES)
    check_int("hop", hop, low=1)
    found = find(root)
    if found is None:
        raise BY_HAND.absent(root)
    folder = found.folder / "RawData"
    recordings = _recordings(folder)
    files = [path for pair in recordings.values() for path in pair]
    data = parsed_once(
        "hapt", [folder / "labels.txt", *files], None, lambda: _parse(folder, recordings)
    )
    signals = np.split(data["signals"].numpy(), np.cumsum(data["lengths"].numpy())[:-1])
    rate = MATCHED_RATE if matched else RATE
    # A recording is resampled as a whole, as a slower sensor would have recorded it.
    signals = [resample(signal, RATE, rate) for signal in signals]
    windows, labels, persons = [], [], []
    for recording, user, activity, start, end in data["segments"].tolist():
        if activity not in chosen:
            continue
        # The samples at times in [start, end) / 50 s, counted at the new rate.
        low, high = (int(np.ceil(bound * rate / RATE)) for bound in (start, end))
        for at in range(low, high - LENGTH + 1, hop):
            windows.append(signals[recording][at : at + LENGTH])
            labels.append(chosen.index(activity))
            persons.append(user)
    if not windows:
        raise ValueError(
            f"No segment of {', '.join(repr(ACTIVITIES[a]) for a in chosen)} in {folder} lasts "
            f"{LENGTH / rate:g} s, as a window does. Take other activities, or matched=False."
        )
    return Windows(
        torch.from_numpy(np.stack(windows).astype(np.float32)),
        torch.tensor(labels),
        torch.tensor(persons),
        classes=[ACTIVITIES[a] for a in chosen],
        channels=AXES,
        units=IN_G,
        rate=rate,
        name="HAPT",
    )


def find(root: str | os.PathLike[str] | None = None) -> Found | None:
    """Return where HAPT lies, complete or not, or None."""

    def holds(folder: Path) -> bool:
        raw = folder / "RawData"
        return (raw / "labels.txt").exists() or any(raw.glob("acc_exp*_user*.txt"))

    return find_folder(root, FOLDERS, holds)


def todo() -> str:
    """Return what to do to have the set."""
    return BY_HAND.todo


def check(found: Found) -> None:
    """Raise what :func:`hapt` would raise for the files' names; the recordings are not read."""
    folder = found.folder / "RawData"
    _segments(folder, _recordings(folder))


def _recordings(folder: Path) -> dict[tuple[int, int], tuple[Path, Path]]:
    """Return accelerometer and gyroscope file of every (experiment, user), in order."""
    if not (folder / "labels.txt").exists():
        raise ValueError(f"{folder} lacks labels.txt. {INCOMPLETE}")
    files: dict[str, dict[tuple[int, int], Path]] = {"acc": {}, "gyro": {}}
    for path in sorted(folder.glob("*_exp*.txt")):
        if (match := RECORDING.fullmatch(path.name)) is None:
            raise ValueError(
                f"{path} is misnumbered: recordings are called acc_expEE_userUU.txt and "
                f"gyro_expEE_userUU.txt. {INCOMPLETE}"
            )
        files[match[1]][int(match[2]), int(match[3])] = path
    for kind, other in (("acc", "gyro"), ("gyro", "acc")):
        for key, path in files[kind].items():
            if key not in files[other]:
                absent = path.with_name(path.name.replace(kind, other, 1))
                raise ValueError(f"{path} is there, but {absent.name} is not. {INCOMPLETE}")
    if not files["acc"]:
        raise ValueError(f"{folder} holds no recording acc_expEE_userUU.txt. {INCOMPLETE}")
    return {key: (path, files["gyro"][key]) for key, path in files["acc"].items()}


def _segments(folder: Path, recordings: dict[tuple[int, int], tuple[Path, Path]]) -> np.ndarray:
    """Return recording, user, activity, first sample and one past the last, counted from 0."""
    path = folder / "labels.txt"
    ranges = [("experiment", 1, 99), ("user", 1, 99), ("activity", 1, 12)]
    ranges += [("first sample", 1, 10**9), ("last sample", 1, 10**9)]
    rows = read_integers(path, 5, ranges=ranges)
    order = {key: i for i, key in enumerate(recordings)}
    segments = np.empty_like(rows)
    for i, (experiment, user, activity, start, end) in enumerate(rows.tolist()):
        if (experiment, user) not in order:
            raise ValueError(
                f"{path}, line {i + 1:,}: there is no recording "
                f"acc_exp{experiment:02}_user{user:02}.txt. {INCOMPLETE}"
            )
        if end < start:
            raise ValueError(
                f"{path}, line {i + 1:,}: the segment ends at {end:,}, before it starts at "
                f"{start:,}. {INCOMPLETE}"
            )
        # Samples are counted from 1 in the file, and the last one belongs to the segment.
        segments[i] = order[experiment, user], user, activity, start - 1, end
    if absent := sorted(set(range(len(order))) - set(segments[:, 0].tolist())):
        name = list(recordings.values())[absent[0]][0].name
        raise ValueError(
            f"{path} is truncated after line {len(rows):,}, or {name} is misnumbered: no line "
            f"tells what happens in it. {INCOMPLETE}"
        )
    return segments


def _parse(
    folder: Path, recordings: dict[tuple[int, int], tuple[Path, Path]]
) -> dict[str, np.ndarray]:
    from tqdm.auto import tqdm

    segments = _segments(folder, recordings)
    signals = []
    for acc, gyro in tqdm(recordings.values(), desc="parse HAPT", unit="recording", leave=False):
        a, g = read_numbers(acc, 3), read_numbers(gyro, 3)
        if len(a) != len(g):
            short, long = (acc, gyro) if len(a) < len(g) else (gyro, acc)
            raise ValueError(
                f"{short} is truncated after line {min(len(a), len(g)):,}: {long.name} has "
                f"{max(len(a), len(g)):,}. {INCOMPLETE}"
            )
        signals.append(np.hstack([a, g]))
    lengths = np.array([len(signal) for signal in signals])
    late = segments[:, 4] > lengths[segments[:, 0]]
    if late.any():
        i = int(late.argmax())
        acc = list(recordings.values())[segments[i, 0]][0]
        raise ValueError(
            f"{folder / 'labels.txt'}, line {i + 1:,}: the segment ends at {segments[i, 4]:,}, but "
            f"{acc.name} has {lengths[segments[i, 0]]:,} lines. {INCOMPLETE}"
        )
    return {"signals": np.concatenate(signals), "lengths": lengths, "segments": segments}
