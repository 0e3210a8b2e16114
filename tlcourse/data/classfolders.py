"""A known data set as folders of images: ``train/<class>/*`` and ``test/<class>/*``.

Many copies of MNIST and CIFAR-10 come in this form. The number of images of every class is known,
so an incomplete copy is noticed. Decoding 60,000 files takes a while, so a decoded copy is kept in
the cache folder under a key of the files' names, sizes and times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlcourse.data.folder import is_clutter
from tlcourse.data.kept import keep_once
from tlcourse.data.store import Found

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
PARTS = ("train", "test")
OTHERWISE = {"train": "training", "test": "testing"}  # what some copies call them
TOGETHER = 500  # files that one thread decodes in one go
VERSION = 2  # of the cached form


@dataclass(frozen=True)
class Form:
    """What the folders of a set hold: class names, how many images each, mode and side."""

    name: str
    classes: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    mode: str  # of PIL: "L" or "RGB"
    side: int  # pixels


def look(place: Path, subfolders: Sequence[str], form: Form) -> Found | None:
    """Return the class folders of a set below ``place``, in the first sub-folder that has some.

    ``place`` itself counts only if it holds every class, as its name does not say what it is.
    """
    for folder in (*(place / name for name in subfolders), place):
        train = _part_folder(folder, "train")
        there = [(train / name).is_dir() for name in form.classes]
        if all(there) or (any(there) and folder != place):
            return Found(folder, class_folders=True)
    return None


def list_files(folder: Path, form: Form) -> dict[str, list[list[Path]]]:
    """Return the image files of every part and class, sorted by name.

    Raises
    ------
    ValueError
        If a class has not the number of images that it should have.
    """
    files: dict[str, list[list[Path]]] = {}
    for part, counts in zip(PARTS, (form.train, form.test), strict=True):
        files[part] = []
        for name, count in zip(form.classes, counts, strict=True):
            here = _part_folder(folder, part) / name
            try:
                found = sorted(
                    Path(entry.path)
                    for entry in os.scandir(here)
                    if entry.name.lower().endswith(SUFFIXES) and not is_clutter(entry.name)
                )
            except FileNotFoundError:
                found = []
            except PermissionError as error:
                raise PermissionError(
                    f"{here} may not be read. Change its permissions, or give another folder by "
                    "root= or TLCOURSE_DATA."
                ) from error
            if len(found) != count:
                raise ValueError(
                    f"{here} holds {len(found):,} images; {form.name} has {count:,} there. "
                    "The copy is not complete, or not the original: unpack it again."
                )
            files[part].append(found)
    return files


def _part_folder(folder: Path, part: str) -> Path:
    other = folder / OTHERWISE[part]
    return other if other.is_dir() else folder / part


def read(folder: Path, form: Form) -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
    """Return (images, labels) of both parts, and the files' format: ``"JPEG"`` or ``"PNG"``.

    Images are (N, C, side, side) uint8, class after class.

    Raises
    ------
    ValueError
        If the copy is incomplete, or an image is broken or of another size; the files are named.
    """
    files = list_files(folder, form)
    flat = {part: [path for group in files[part] for path in group] for part in PARTS}
    suffixes = {path.suffix.lower() for part in PARTS for path in flat[part]}
    kind = "JPEG" if suffixes & {".jpg", ".jpeg"} else "PNG"
    images = _decode_once(folder, flat, form)
    data = {}
    for part in PARTS:
        counts = torch.tensor([len(group) for group in files[part]])
        data[part] = (images[part], torch.arange(len(counts)).repeat_interleave(counts))
    return data, kind


def _decode_once(folder: Path, flat: dict[str, list[Path]], form: Form) -> dict[str, Tensor]:
    """Return the decoded images of both parts, from the cache if it has them."""
    name = f"{form.name}-{_key(folder, flat, form)}"
    return keep_once("decoded", name, "decoded images", lambda: _decode(flat, form))


def _key(folder: Path, flat: dict[str, list[Path]], form: Form) -> str:
    digest = hashlib.sha256(f"{VERSION} {form}".encode())
    for part in PARTS:
        for path in flat[part]:
            try:
                stat = path.stat()
            except OSError:  # a link that leads nowhere: decoding names it
                stat = path.lstat()
            line = f"{path.relative_to(folder).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:16]


def _decode(flat: dict[str, list[Path]], form: Form) -> dict[str, Tensor]:
    """Decode all files, in threads (the decoders of PIL let other threads run), with a bar."""
    from tqdm.auto import tqdm

    images = {
        part: torch.empty(len(flat[part]), form.side, form.side, _channels(form), dtype=torch.uint8)
        for part in PARTS
    }
    jobs = [
        (flat[part][start : start + TOGETHER], images[part][start : start + TOGETHER])
        for part in PARTS
        for start in range(0, len(flat[part]), TOGETHER)
    ]
    broken: list[str] = []
    total = sum(len(paths) for paths, _ in jobs)
    threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with tqdm(total=total, desc=f"decode {form.name}", unit="image", leave=False) as bar:
            for found in threads.map(lambda job: _decode_some(job[0], job[1], form), jobs):
                broken += found
                bar.update(min(TOGETHER, total - bar.n))
    finally:
        threads.shutdown(cancel_futures=True)  # after an interrupt nothing goes on decoding
    if broken:
        more = f" and {len(broken) - 5:,} more" if len(broken) > 5 else ""
        raise ValueError(
            f"{len(broken):,} images of {form.name} cannot be used: "
            f"{'; '.join(broken[:5])}{more}. Unpack the copy again."
        )
    return {part: value.permute(0, 3, 1, 2).contiguous() for part, value in images.items()}


def _decode_some(paths: list[Path], out: Tensor, form: Form) -> list[str]:
    """Decode ``paths`` into ``out``, (n, side, side, C); return what was wrong with which."""
    import numpy as np
    from PIL import Image

    broken = []
    for path, pixels in zip(paths, out.numpy(), strict=True):
        try:
            with Image.open(path) as image:
                if image.size != (form.side, form.side):
                    raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, not {form.side}")
                pixels[...] = np.asarray(image.convert(form.mode)).reshape(pixels.shape)
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: PIL on a broken PNG
            broken.append(f"{path} ({error})")
    return broken


def _channels(form: Form) -> int:
    return {"L": 1, "RGB": 3}[form.mode]
