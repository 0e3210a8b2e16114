"""Reading recordings from text files: each fault with its line, and each set parsed only once.

The archives of these sets come without a published checksum, so there is nothing that a download
could be held against; the reader puts the files in place. What protects from half a copy is that
every line, every number and every file name is looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tlcourse._checks import check_int
from tlcourse.data.kept import keep_once
from tlcourse.data.store import Found, first, in_words, places

VERSION = 1  # of what is kept
INCOMPLETE = "The copy is not complete, or not as published: unpack the archive again."


@dataclass(frozen=True)
class ByHand:
    """A set that the reader fetches: its name, page, rough size in bytes, and where it goes."""

    name: str
    url: str
    size: int
    into: str
    instead: str

    def absent(self, root: str | os.PathLike[str] | None) -> FileNotFoundError:
        """Return the error for a set that is nowhere: where it was looked for, and what to do."""
        looked = ", ".join(
            str(place) if place.is_dir() else f"{place} - which does not exist"
            for place in places(root)
        )
        return FileNotFoundError(
            f"{self.name} is not on this machine (looked in {looked}). {self.todo} "
            f"Or use what needs no download: {self.instead}."
        )

    @property
    def todo(self) -> str:
        """What to do to have it."""
        return (
            f"It is fetched by hand, as no checksum is published for it: get the archive (about "
            f"{in_words(self.size)}) from {self.url} and unpack it into {self.into} under a folder "
            "that root= or TLCOURSE_DATA names."
        )


def check_activities(activities: Sequence[int], known: Mapping[int, str]) -> list[int]:
    """Return the numbers as a list; raise unless they are two or more different known ones."""
    if isinstance(activities, str) or not isinstance(activities, Sequence):
        raise TypeError(f"activities must be a sequence of numbers, got {activities!r}.")
    for number in activities:
        check_int("activities", number, low=min(known), high=max(known))
    if len(activities) < 2 or len(set(activities)) < len(activities):
        raise ValueError(f"activities takes at least 2 different numbers, got {activities!r}.")
    return list(activities)


def find_folder(
    root: str | os.PathLike[str] | None, names: Sequence[str], holds: Callable[[Path], bool]
) -> Found | None:
    """Return the first of the named folders, in the first of the places, that holds the set."""

    def look(place: Path) -> Found | None:
        for name in names:
            if holds(place / name):
                return Found(place / name, class_folders=False)
        return None

    return first(root, look)


def read_numbers(
    path: Path, columns: int, *, rows: int | None = None, separator: str | None = None
) -> np.ndarray:
    """Return the numbers of a text file, (rows, columns), float64.

    Parameters
    ----------
    path
        One row of numbers a line; lines that are blank at the end do not count.
    columns
        Numbers a line.
    rows
        Lines that the file must have, or None for at least one.
    separator
        Between numbers; None for blanks.

    Raises
    ------
    ValueError
        If a line has too few or too many numbers, or one that is not finite; if lines are missing.
        The message names the file and the line.
    OSError
        If the file cannot be read.
    """
    try:
        text = _content(path).decode("ascii")
    except UnicodeDecodeError as error:
        at = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {at:,}: not text but byte 0x{error.object[error.start]:02x}. "
            f"{INCOMPLETE}"
        ) from None
    lines = text.rstrip().split("\n") if text.strip() else []
    if len(lines) < (rows or 1):
        wanted = "at least 1" if rows is None else f"{rows:,}"
        raise ValueError(f"{path} is truncated after line {len(lines):,} of {wanted}. {INCOMPLETE}")
    if rows is not None and len(lines) > rows:
        raise ValueError(f"{path}, line {rows + 1:,}: the file has {rows:,} lines. {INCOMPLETE}")
    values = np.empty((len(lines), columns))
    for i, line in enumerate(lines):
        parts = line.split(separator)
        if len(parts) != columns:
            raise ValueError(
                f"{path}, line {i + 1:,}: {len(parts)} numbers where there are {columns}. "
                f"{INCOMPLETE}"
            )
        try:
            values[i] = [float(part) for part in parts]
        except ValueError:
            values[i] = [_number(part) for part in parts]
    bad = ~np.isfinite(values)
    if "_" in text:  # float() takes 1_000
        bad |= [["_" in part for part in line.split(separator)] for line in lines]
    if bad.any():
        i, c = np.argwhere(bad)[0].tolist()
        part = lines[i].split(separator)[c].strip()
        raise ValueError(
            f"{path}, line {i + 1:,}, column {c + 1}: {part!r} is no finite number. {INCOMPLETE}"
        )
    return values


def read_integers(
    path: Path,
    columns: int,
    *,
    ranges: Sequence[tuple[str, int, int]],
    rows: int | None = None,
) -> np.ndarray:
    """Return the integers of a text file, (rows, columns), int64, each column in its range.

    Parameters
    ----------
    path, columns, rows
        As for :func:`read_numbers`.
    ranges
        The name, the lowest and the highest value of each column.

    Raises
    ------
    ValueError
        As :func:`read_numbers`, and if a number is no integer or out of its range.
    """
    values = read_numbers(path, columns, rows=rows)
    for c, (name, low, high) in enumerate(ranges):
        column = values[:, c]
        wrong = (column != np.floor(column)) | (column < low) | (column > high)
        if wrong.any():
            i = int(wrong.argmax())
            raise ValueError(
                f"{path}, line {i + 1:,}: {name} is {column[i]:g}; it takes {low} to {high:,}. "
                f"{INCOMPLETE}"
            )
    return values.astype(np.int64)


def parsed_once(
    name: str, files: Sequence[Path], settings: object, parse: Callable[[], dict[str, np.ndarray]]
) -> dict[str, Tensor]:
    """Return what ``parse`` makes of the files, from the cache folder if it was kept there.

    It is kept under a key of the settings and of the files' names and contents, so a file that
    changes, even back, is never answered with old numbers.
    """
    digest = hashlib.sha256(repr((VERSION, settings)).encode())
    for path in files:
        content = _content(path)
        digest.update(f"{path.parent.name}/{path.name} {len(content)}\n".encode())
        digest.update(content)
    name = f"{name}-{digest.hexdigest()[:16]}"
    return keep_once("parsed", name, "parsed recordings", lambda: _as_tensors(parse()))


def _as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the arrays as tensors, real numbers in float32."""
    return {
        key: torch.from_numpy(
            np.ascontiguousarray(a, dtype=np.float32 if a.dtype.kind == "f" else np.int64)
        )
        for key, a in arrays.items()
    }


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(
            error.errno, f"It cannot be read ({error.strerror}). Check its permissions", str(path)
        ) from error


def _number(part: str) -> float:
    """Return the number that a text spells, or NaN."""
    try:
        return float(part)
    except ValueError:
        return float("nan")
