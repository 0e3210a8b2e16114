"""Where files go, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

STALE = 24 * 3600  # seconds after which what a killed writer left is removed


def expand(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a path whose ``~`` is the home folder, which no shell expands inside of quotes.

    Parameters
    ----------
    path
        A text or a path.
    name
        The argument's name, for the error.

    Raises
    ------
    TypeError
        If it is neither.
    OSError
        If it begins with ``~`` and there is no home folder, as in some containers.

    Examples
    --------
    >>> expand("~/model.safetensors") == Path.home() / "model.safetensors"
    True
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {path!r} ({type(path).__name__}).")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(
            f"{name} is {str(path)!r}, but there is no such home folder ({error}). "
            "Give the folder's whole path."
        ) from error


def part_of(target: Path) -> Path:
    """Return a name beside ``target`` that no other thread, process or machine writes to."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


@contextlib.contextmanager
def writing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that gets the name ``target`` when the block ends well, and vanishes otherwise.

    A reader finds the old file or the new one, whole; of several writers the last one wins.

    Raises
    ------
    OSError
        If the folder cannot be written or is full; what was there remains.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with writing(folder / "a.bin") as file:
    ...     written = file.write(b"whole")
    ...     during = (folder / "a.bin").exists()
    >>> during, (folder / "a.bin").read_bytes()
    (False, b'whole')
    """
    part = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The file could not be written ({error.strerror or error}); one of that name from "
            "before is unchanged. Make space, or choose a folder that you can write to, and run it "
            "again",
            str(target),
        ) from error
    finally:  # after an interrupt as well: nothing half-written may stay
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove_stale(target: Path) -> None:
    """Remove what killed writers of ``target`` left behind; a running one is younger."""
    for part in target.parent.glob(f".{target.name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE:
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()
