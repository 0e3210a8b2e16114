"""A reader's own photographs: one folder for each class.

::

    pets/
        cat/  IMG_0001.jpg  IMG_0002.jpg  ...
        dog/  rex.png  ...

Photographs come in every size, orientation and colour mode. All are brought into one form: upright,
RGB, the largest square from the middle, scaled to ``size``.

Which files count is a rule, and no guess: every file whose name ends as an image's, at any depth,
behind links too. One that cannot be read is an error. What systems and network drives put beside
photographs (thumbnails, recycle bins, names that begin with a dot) counts nowhere.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tlcourse._checks import check_int, near
from tlcourse._files import expand
from tlcourse.data.labelled import LabelledImages, check_names
from tlcourse.data.store import in_words

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "tif", "tiff", "webp", "avif"),
        *("jp2", "pgm", "ppm", "pbm", "heic", "heif"),
        # Photographs that cannot be read here are named rather than left out.
        *("jxl", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"),
    )
)
TRAINING = ("train", "training")
SPLITS = frozenset((*TRAINING, "test", "testing", "val", "valid", "validation"))
# What macOS, Windows, Linux and network drives keep in folders of photographs, in lower case.
CLUTTER = frozenset(
    (
        *("__macosx", "network trash folder", "$recycle.bin", "system volume information"),
        *("thumbs.db", "desktop.ini", "lost+found", "__pycache__"),
        *("@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp"),
    )
)


def image_folder(
    root: str | os.PathLike[str],
    *,
    size: int = 224,
    classes: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> LabelledImages:
    """Return the photographs below ``root``, where each sub-folder is a class.

    Parameters
    ----------
    root
        The folder that holds one sub-folder for each class. Other files in it, and files that are
        no images, are left alone.
    size
        Side of the images in pixels, 8 to 1024; 224 is what networks trained on ImageNet expect.
    classes
        The names of the classes in the order of their labels, such as ``train.classes`` for the
        photographs that a classifier is tested on: a label then means the same in both sets, even
        if one of them lacks a class. None takes the sub-folders in the order of their names; those
        of the training set where ``root`` is a ``test`` or ``val`` beside a ``train``.
    skip_broken
        Go on without the files that cannot be read, with a warning that names them.

    Returns
    -------
    LabelledImages
        Images (N, 3, size, size), class after class, and within a class the files in the order of
        their names.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If ``root`` does not exist or is a file.
    ValueError
        If there are fewer than two classes, a class without an image, a sub-folder that is none of
        ``classes``, or a broken file.
    PermissionError
        If a folder may not be read.
    MemoryError
        If the images would not fit into memory at this size.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp()) / "pets"
    >>> for name, colour in (("cat", "grey"), ("dog", "brown")):
    ...     (root / name).mkdir(parents=True)
    ...     Image.new("RGB", (40, 30), colour).save(root / name / "photo.png")
    >>> image_folder(root, size=32)
    LabelledImages('pets', 2 images of 3x32x32, 2 classes)
    """
    check_int("size", size, low=8, high=1024)
    folder = _existing_folder(root)
    if classes is None:
        classes = _classes_of_training(folder) or _classes(folder)
    check_names("classes", classes)
    here = _of_classes(folder, classes)
    files = [_images_in(folder / name) if name in here else [] for name in classes]
    empty = [name for name, found in zip(classes, files, strict=True) if name in here and not found]
    if empty:
        raise ValueError(
            f"{_plural(len(empty), 'class')} of {folder} without an image: {_listed(empty)}. "
            f"Put images there ({_formats()}), or remove the sub-folder."
        )
    flat = [path for found in files for path in found]
    labels = torch.tensor([k for k, found in enumerate(files) for _ in found])
    images, whole, broken = _read_all(flat, size)
    if broken:
        if not skip_broken:
            raise ValueError(
                f"{_plural(len(broken), 'file')} of {len(flat)} cannot be used: {_listed(broken)}. "
                "Remove or replace them, or pass skip_broken=True to go on without them."
            )
        warnings.warn(
            f"Going on without {_plural(len(broken), 'file')} of {len(flat)} that cannot be used: "
            f"{_listed(broken)}.",
            stacklevel=2,
        )
        images, labels = images[whole], labels[whole]
        left = set(labels.tolist())
        gone = [name for k, name in enumerate(classes) if name in here and k not in left]
        if gone:
            raise ValueError(f"No image is left of {_listed(gone)}: every file there is broken.")
    return LabelledImages(images, labels, classes, folder.resolve().name or "images")


def load_image(path: str | os.PathLike[str], *, size: int = 224) -> Tensor:
    """Return one photograph, brought into the form that :func:`image_folder` gives.

    Parameters
    ----------
    path
        The file.
    size
        Side of the result in pixels, 8 to 1024: the one that the classifier was trained with.

    Returns
    -------
    Tensor
        (3, size, size), float32 in [0, 1]; ``load_image(path)[None]`` is a batch of one.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file; near names are named.
    ValueError
        If the file is no image that can be read.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> path = Path(tempfile.mkdtemp()) / "red.png"
    >>> Image.new("RGB", (30, 20), "red").save(path)
    >>> load_image(path, size=8)[:, 0, 0]
    tensor([1., 0., 0.])
    """
    check_int("size", size, low=8, high=1024)
    file = _existing(path, "path")
    if file.is_dir():
        raise IsADirectoryError(f"path is {str(file)!r}, a folder; it takes one image file.")
    try:
        return _read(file, size)
    except Exception as error:
        raise ValueError(f"{file} cannot be used: {_reason(file, error)}.") from error


def _read_all(files: Sequence[Path], size: int) -> tuple[Tensor, Tensor, list[str]]:
    """Return all images, which of them are whole (N,), and what is wrong with the others."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm.auto import tqdm

    _need_memory(len(files), size)
    images = torch.zeros(len(files), 3, size, size)
    whole = torch.ones(len(files), dtype=torch.bool)
    broken = []

    def work(i: int) -> str | None:
        try:
            images[i] = _read(files[i], size)
        except Exception as error:  # decoders raise all sorts of errors over a broken file
            return _reason(files[i], error)
        return None

    threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        reasons = threads.map(work, range(len(files)))
        # A page that is built shows what a bar leaves behind, so there it is left out.
        hidden = os.environ.get("TLCOURSE_BUILD_SITE") == "1"
        bar = tqdm(
            reasons, total=len(files), desc="read images", unit="image", leave=False, disable=hidden
        )
        for i, reason in enumerate(bar):
            if reason is not None:
                whole[i] = False
                broken.append(f"{files[i]} ({reason})")
    finally:
        threads.shutdown(cancel_futures=True)  # after an interrupt nothing goes on reading
    return images, whole, broken


def _read(path: Path, size: int) -> Tensor:
    """Return the image of a file, (3, size, size), float32 in [0, 1]."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        picture.draft("RGB", (size, size))  # a large JPEG is decoded at a half or a quarter
        upright = ImageOps.exif_transpose(picture)
        square = _to_rgb(upright)
    side = min(square.size)
    left, top = (square.width - side) / 2, (square.height - side) / 2
    # Crop and scale in one: the same as scaling the shorter side and cropping the middle, but a
    # panorama is never held enlarged.
    box = (left, top, left + side, top + side)
    scaled = square.resize((size, size), Image.Resampling.BILINEAR, box=box)
    pixels = torch.from_numpy(np.array(scaled))  # (size, size, 3) uint8
    return pixels.permute(2, 0, 1).float() / 255


def _to_rgb(picture: Picture) -> Picture:
    """Return any picture as RGB of 8 bits; what is transparent becomes white."""
    import numpy as np
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return _grey(np.asarray(picture) / 257.0)  # 65535 becomes 255
    if picture.mode in ("I", "F"):
        # By custom, floating point reaches from 0 to 1; integers above 255 have 16 bits.
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        high = values.max()
        unit = 1 if picture.mode == "F" and high <= 1 else 255 if high <= 255 else 65535
        return _grey(values * (255 / unit))
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _grey(values: Any) -> Picture:
    """Return grey values, (H, W) from 0 to 255, as an RGB picture."""
    from PIL import Image

    return Image.fromarray(values.clip(0, 255).round().astype("uint8")).convert("RGB")


def _classes(folder: Path) -> list[str]:
    """Return the names of the sub-folders, or say what is wrong with them."""
    names = _sub_folders(folder)
    if len(names) >= 2 and not {name.lower() for name in names} <= SPLITS:
        return names
    if names and all(_sub_folders(folder / name) for name in names):
        kind = "parts of a set" if len(names) >= 2 else "a folder of folders"
        raise ValueError(
            f"{folder} holds {kind}, {_listed(names)}, and not classes. "
            f"Pass one of them, for instance {str(folder / names[0])!r}."
        )
    if len(names) >= 2:
        return names  # someone's classes may well be called "test" and "training"
    loose = sum(_is_image(p) for p in _listed_in(folder))
    has = f"one sub-folder, {names[0]!r}" if names else "no sub-folder"
    also = f" and {_plural(loose, 'image')} beside it" if loose else ""
    raise ValueError(
        f"{folder} has {has}{also}; a classifier needs at least two classes. Make one "
        "sub-folder for each class, with its images inside."
    )


def _sub_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in _listed_in(folder) if path.is_dir())


def _of_classes(folder: Path, classes: Sequence[str]) -> list[str]:
    """Return the sub-folders if each of them is one of ``classes``."""
    names = _sub_folders(folder)
    if not names:
        raise ValueError(f"{folder} has no sub-folder; it takes one for each class of its images.")
    if strange := [name for name in names if name not in classes]:
        raise ValueError(
            f"{folder} has {_plural(len(strange), 'sub-folder')} of no known class: "
            f"{_listed(strange)}. The classes are {_listed(classes)}.{near(strange[0], classes)}"
        )
    return names


def _classes_of_training(folder: Path) -> list[str]:
    """Return the classes of the ``train`` beside a ``test`` or ``val``; elsewhere none."""
    folder = folder.absolute()
    if folder.name.lower() not in SPLITS.difference(TRAINING):
        return []
    beside = [p for p in _listed_in(folder.parent) if p.name.lower() in TRAINING and p.is_dir()]
    return _sub_folders(beside[0]) if beside else []


def _images_in(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Return the image files of a class at any depth, sorted."""
    real = folder.resolve()
    if real in above:
        return []  # a link that leads back up
    found = []
    for path in _listed_in(folder):
        if path.is_dir():
            found += _images_in(path, (*above, real))
        elif _is_image(path):  # a link that leads nowhere is one: reading it will say so
            found.append(path)
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _listed_in(folder: Path) -> list[Path]:
    """Return what is in a folder and counts."""
    try:
        return [path for path in folder.iterdir() if not is_clutter(path.name)]
    except PermissionError as error:
        raise PermissionError(
            f"{folder} may not be read. Change its permissions, or move it away."
        ) from error


def is_clutter(name: str) -> bool:
    """Return whether a file or folder is no one's photograph, by its name.

    Names that begin with a dot are hidden; macOS puts ``._photo.jpg`` beside photo.jpg.
    """
    return name.startswith(".") or name.lower() in CLUTTER


def _existing_folder(root: str | os.PathLike[str]) -> Path:
    folder = _existing(root, "root")
    if not folder.is_dir():
        raise NotADirectoryError(
            f"root is {str(folder)!r}, a file; it takes the folder that holds one sub-folder for "
            "each class. For a single image there is load_image."
        )
    return folder


def _existing(value: str | os.PathLike[str], name: str) -> Path:
    """Return ``value`` as a path, or raise an error with the names near to it."""
    path = expand(value, name)
    if path.exists():
        return path
    known, absent = path.absolute(), ""
    while not known.exists():  # the first part of the path that is wrong
        known, absent = known.parent, known.name
    beside = [p.name for p in known.iterdir()] if known.is_dir() else []
    close = difflib.get_close_matches(absent, beside, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(str(known / c)) for c in close)}?" if close else ""
    raise FileNotFoundError(f"{name} is {str(path)!r}, but {known} has no {absent!r}.{hint}")


def _reason(path: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        if path.stat().st_size == 0:
            return "the file is empty"
        if path.suffix.lower() in (".heic", ".heif"):
            return "the format of some phones; save it as JPEG"
        return "no image, or of an unknown format"
    return str(error) or type(error).__name__


def _need_memory(n: int, size: int) -> None:
    need = n * 3 * size * size * 4  # bytes of float32
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return
    if need > memory // 2:
        raise MemoryError(
            f"{n:,} images of {size} x {size} pixels take {in_words(need)}, more than half of this "
            f"machine's memory ({in_words(memory)}). Take a smaller size, or fewer images."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _formats() -> str:
    return "JPEG, PNG, WebP, TIFF, GIF, BMP"
