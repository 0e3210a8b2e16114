"""The few switches of the course: the profile, the seed, and where files are kept."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TypeVar

from tlcourse._files import expand

T = TypeVar("T")

PROFILES = ("quick", "full")


def current_profile() -> str:
    """Return the profile that runs: ``"quick"`` (embedded data, CPU) or ``"full"`` (real data).

    It is read from ``$TLCOURSE_PROFILE`` and is ``"quick"`` where that is not set.

    Raises
    ------
    ValueError
        If the variable holds anything else.

    Examples
    --------
    >>> current_profile()
    'quick'
    """
    name = os.environ.get("TLCOURSE_PROFILE") or "quick"
    if name not in PROFILES:
        raise ValueError(
            f"TLCOURSE_PROFILE is {name!r}; it takes 'quick' or 'full'. Unset it for 'quick'."
        )
    return name


def profile(*, quick: T, full: T) -> T:
    """Return ``quick`` or ``full``, whichever profile runs: the one switch of every chapter.

    Examples
    --------
    >>> profile(quick=5, full=200)
    5
    """
    return full if current_profile() == "full" else quick


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices), so that two runs give the same numbers.

    Parameters
    ----------
    seed
        Integer in [0, 2**32), the range that NumPy takes.

    Raises
    ------
    TypeError, ValueError
        If the seed is no integer, or out of range.
    """
    import numpy as np
    import torch

    from tlcourse._checks import check_int

    check_int("seed", seed, low=0, high=2**32 - 1)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def cache_dir() -> Path:
    """Return the folder for what the course computes or downloads, and make it if it is missing.

    ``$TLCOURSE_CACHE`` decides; else it is ``tlcourse`` in the user's cache folder.

    Raises
    ------
    OSError
        If the folder cannot be made; the message says which variable to set.
    """
    chosen = os.environ.get("TLCOURSE_CACHE")
    try:
        folder = expand(chosen, "TLCOURSE_CACHE") if chosen else _user_cache() / "tlcourse"
    except RuntimeError as error:  # a user without a home folder, as in some containers
        raise OSError(
            f"No place for the cache folder ({error}) "
            "Set TLCOURSE_CACHE to a folder that you can write to."
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The cache folder {folder} cannot be made ({error.strerror}). "
            "Set TLCOURSE_CACHE to a folder that you can write to."
        ) from error
    return folder


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
