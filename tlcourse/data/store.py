"""Where real data sets lie on this machine, and how they get there.

A set is looked for under the folder given as an argument, then under ``$TLCOURSE_DATA``, then in
the user's cache folder. Where it is nowhere, it is downloaded into the first of these. A download
is written under another name and gets its own only when its size and checksum are right, so half a
download is never used.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from tlcourse import _files
from tlcourse._files import expand
from tlcourse.settings import cache_dir

TIMEOUT = 30  # seconds without an answer before the next address is tried
CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class Remote:
    """A file on the network: its addresses, its size in bytes, its MD5 sum."""

    name: str
    urls: tuple[str, ...]
    size: int
    md5: str


@dataclass(frozen=True)
class Found:
    """A data set on this machine: its folder, and whether it holds class folders of images."""

    folder: Path
    class_folders: bool


class DownloadError(ConnectionError):
    """No address gave the file. The message holds the reason for each."""


class _AddressFailed(Exception):
    """One address did not give the file. No OSError, which is what writing may raise."""


def places(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders in which data sets are looked for, in order; the first takes downloads.

    Parameters
    ----------
    root
        Looked at before ``$TLCOURSE_DATA`` and the cache folder, if given.

    Raises
    ------
    TypeError
        If ``root`` is no path.
    NotADirectoryError
        If ``root`` or ``$TLCOURSE_DATA`` is a file.

    Examples
    --------
    >>> places("some/folder")[0].as_posix()
    'some/folder'
    """
    if root is not None and not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be the path of a folder, got {root!r}.")
    found = []
    for name, value in (("root", root), ("TLCOURSE_DATA", os.environ.get("TLCOURSE_DATA"))):
        if value is None or value == "":
            continue
        folder = expand(value, name)
        if folder.is_file():
            raise NotADirectoryError(
                f"{name} is {str(folder)!r}, a file; it takes the folder that holds the data."
            )
        found.append(folder)
    # Without a cache folder the others may still do; alone, its error says what to set.
    with suppress(OSError) if found else nullcontext():
        found.append(cache_dir() / "data")
    return found


def first(
    root: str | os.PathLike[str] | None, look: Callable[[Path], Found | None]
) -> Found | None:
    """Return what ``look`` finds in the first place that has it.

    Raises
    ------
    PermissionError
        If a place may not be read.
    """
    for place in places(root):
        try:
            found = look(place)
        except PermissionError as error:
            raise PermissionError(
                f"{error.filename or place} may not be read. Change its permissions, "
                "or give another folder by root= or TLCOURSE_DATA."
            ) from error
        if found is not None:
            return found
    return None


def read_checked(path: Path, *, md5: str, size: int | None = None) -> bytes:
    """Return the content of a file (unpacked if it ends in ``.gz``) if it is the original.

    Raises
    ------
    ValueError
        If the content is truncated or has another MD5 sum.
    OSError
        If the file cannot be read.
    """
    import gzip
    import zlib

    advice = f"Delete {path}; the next call then downloads it again."
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}). {advice}") from error
    except OSError as error:
        remedy = (
            "It is a folder; the file must lie in its place"
            if isinstance(error, IsADirectoryError)
            else f"It cannot be read ({error.strerror}). Check its permissions"
        )
        raise OSError(error.errno, remedy, str(path)) from error
    if size is not None and len(content) < size:
        raise ValueError(f"{path} is truncated: {len(content):,} of {size:,} bytes. {advice}")
    if (got := md5_of(content)) != md5:
        raise ValueError(
            f"{path} is not the original file: its MD5 sum is {got}, not {md5} "
            f"({len(content):,} bytes). {advice}"
        )
    return content


def md5_of(content: bytes) -> str:
    """Return the MD5 sum in hexadecimal: a guard against accidents, as the sets publish it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def download(remote: Remote, target: Path) -> None:
    """Download ``remote`` to ``target``, with a progress bar, and check it before it gets its name.

    Parameters
    ----------
    remote
        Its addresses are tried in order.
    target
        Where it goes; the folder is made.

    Raises
    ------
    DownloadError
        If no address gives the file with the right size and checksum.
    OSError
        If there is no space for it, or the folder cannot be written.
    """
    need_space(target.parent, remote.size)
    reasons = []
    for url in remote.urls:
        try:
            chunks = _chunks(url)
            first_chunk = next(
                chunks, b""
            )  # an address that does not answer leaves no folder behind
            with writing(target) as file:
                _copy(remote, chain([first_chunk], chunks), file)
            return
        except _AddressFailed as error:
            reasons.append(f"{url}: {error}")
    raise DownloadError("; ".join(reasons))


@contextmanager
def writing(target: Path) -> Iterator[BinaryIO]:
    """Open a file that gets the name ``target`` when the block ends well, and vanishes otherwise.

    Raises
    ------
    OSError
        If the folder cannot be written or is full; the message says which.
    """
    try:
        with _files.writing(target) as file:
            yield file
    except OSError as error:
        raise _explain(error, target.parent) from error


def need_space(folder: Path, size: int) -> None:
    """Raise OSError unless the disk of ``folder`` has ``size`` bytes free."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"{folder} has {in_words(free)} free, and {in_words(size)} are needed. "
            "Free some space, or set TLCOURSE_DATA to a folder on another disk.",
        )


def not_available(
    name: str,
    *,
    root: str | os.PathLike[str] | None,
    remotes: Sequence[Remote],
    into: str,
    instead: str,
    reason: str | None,
) -> FileNotFoundError:
    """Return the error for a set that is nowhere and cannot be fetched: it names every way out."""
    looked = ", ".join(
        str(place) if place.is_dir() else f"{place} - which does not exist"
        for place in places(root)
    )
    size = in_words(sum(remote.size for remote in remotes))
    urls = ", ".join(url for remote in remotes for url in remote.urls)
    why = f"the download failed: {reason}" if reason else f"no download was asked for (from {urls})"
    return FileNotFoundError(
        f"{name} is not on this machine (looked in {looked}), and {why}. "
        f"The download has {size}. Without a network, put the files into {into} under a folder "
        f"that TLCOURSE_DATA names, or use what needs no download: {instead}."
    )


def in_words(size: int) -> str:
    """Return a number of bytes for reading.

    Examples
    --------
    >>> in_words(170_498_071), in_words(4_542)
    ('170 MB', '5 kB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            value = size / unit
            return f"{value:.1f} {name}" if value < 10 and unit > 10**3 else f"{value:.0f} {name}"
    return f"{size} bytes"


def _copy(remote: Remote, chunks: Iterable[bytes], file: BinaryIO) -> None:
    """Copy what an address gives into ``file`` and check it. Errors of writing pass through."""
    from tqdm.auto import tqdm

    digest, got = hashlib.md5(usedforsecurity=False), 0
    bar = tqdm(total=remote.size, desc=remote.name, unit="B", unit_scale=True, leave=False)
    with bar:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            got += len(chunk)
            bar.update(len(chunk))
            if got > remote.size:
                raise _AddressFailed(f"gave more than the {remote.size:,} bytes of the file")
    if got < remote.size:
        raise _AddressFailed(f"broke off after {got:,} of {remote.size:,} bytes")
    if digest.hexdigest() != remote.md5:
        raise _AddressFailed(f"gave another file, of MD5 {digest.hexdigest()}, not {remote.md5}")


def _chunks(url: str) -> Iterator[bytes]:
    """Return the content of ``url`` piece by piece; what the network raises becomes one error."""
    import http.client
    import urllib.request

    response: Any = None
    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _AddressFailed(str(error) or type(error).__name__) from error
    finally:
        if response is not None:
            response.close()


def _explain(error: OSError, folder: Path) -> OSError:
    what = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "your quota is used up",
        errno.EACCES: "you may not write there",
        errno.EPERM: "you may not write there",
        errno.EROFS: "it is read-only",
        errno.ENOTDIR: "it lies below a file",
        errno.EEXIST: "it is a file",
    }.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return OSError(
        error.errno,
        f"Writing into {folder} failed: {what}. What was written is removed. Free some space, or "
        "give another folder by root= or TLCOURSE_DATA (data), TLCOURSE_CACHE (cache).",
    )
