"""What has been passed: one file on this machine, and nothing sent anywhere."""

from __future__ import annotations

import json
import os
import warnings
from datetime import date
from pathlib import Path

from tlcourse._files import expand, writing


def progress_file() -> Path:
    """Return ``$TLCOURSE_PROGRESS``, else ``.tlcourse-progress.json`` in the home folder."""
    return expand(os.environ.get("TLCOURSE_PROGRESS") or "~/.tlcourse-progress.json")


def passed() -> dict[str, str]:
    """Return the labels of the exercises passed, each with the day.

    Raises
    ------
    ValueError
        If the file is not what this course wrote; it is left as it is.
    """
    try:
        text = progress_file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        found = json.loads(text)
        return {str(label): str(day) for label, day in found["passed"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{progress_file()} is not a file of progress. Move it away to begin a new one."
        ) from error


def record(label: str) -> None:
    """Add an exercise to those passed. An answer stays right where this cannot be written."""
    try:
        known = passed()
        if label not in known:
            with writing(progress_file()) as file:
                entries = {"passed": known | {label: date.today().isoformat()}}
                file.write((json.dumps(entries, indent=1) + "\n").encode())
    except (OSError, ValueError) as error:
        warnings.warn(f"Your progress is not kept: {error}", stacklevel=3)
