"""What data this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from tlcourse._checks import near
from tlcourse._installed import lite0_weights
from tlcourse.data.store import in_words, places

EMBEDDED = {
    "digits": ("inside scikit-learn", "1,797 images"),
    "glyphs": ("drawn from Matplotlib's fonts", "as many as asked for"),
    "surfaces": ("cut from photographs of scikit-image and scikit-learn", "as many as asked for"),
    "scenes": ("put together from scikit-learn's digits", "as many as asked for"),
    "imu": ("simulated", "as many as asked for"),
}
PACKAGED = ("mnist5k", "basic_motions")
REAL = ("mnist", "cifar10", "dsa", "hapt", "uci_har", "usps")


class DataRow(NamedTuple):
    """One line of :func:`status`."""

    name: str
    kind: str
    """"embedded", "package", "real" or "weights"."""
    where: str
    """Where it was found, or the places that were looked at."""
    size: str
    state: str
    """"ready", "missing" or "broken"."""
    todo: str
    """What to do, or an empty text."""


def status(root: str | os.PathLike[str] | None = None) -> list[DataRow]:
    """Return one row for each data set and for the ImageNet weights; fetch nothing.

    The files of real sets are checked as their loaders do, images in class folders only counted
    and of recordings only the names looked at.

    Parameters
    ----------
    root
        Looked at first, as by the loaders.

    Returns
    -------
    list of DataRow
        Name, kind, where found or looked for, size, state, what to do.

    Examples
    --------
    >>> for row in status()[:2]:
    ...     print(row.name, row.kind, row.state)
    digits embedded ready
    glyphs embedded ready
    """
    return [
        *(_embedded_row(name) for name in EMBEDDED),
        *(_packaged_row(name, "package", _module(name).file) for name in PACKAGED),
        *(_real_row(name, root) for name in REAL),
        _packaged_row("efficientnet_lite0", "weights", lite0_weights),
        _weights_row(),
    ]


def fetch(name: str, root: str | os.PathLike[str] | None = None) -> DataRow:
    """Download a data set unless it is there already, and return its row of :func:`status`.

    Parameters
    ----------
    name
        ``"mnist"`` or ``"cifar10"``; for a set that comes with the course or in a package the row
        says that nothing is to do, for one that is fetched by hand how.
    root
        Where to look first and to download into.

    Raises
    ------
    ValueError
        If no set has this name.
    FileNotFoundError
        If the download fails; the message says what does instead.
    ModuleNotFoundError
        If the set comes in a package that is not installed.

    Examples
    --------
    >>> fetch("digits").todo
    'nothing: it comes with the course'
    """
    known = (*EMBEDDED, *PACKAGED, *REAL)
    if name not in known:
        if name == "imagenet":
            raise ValueError(
                "name is 'imagenet'; its weights are fetched by torchvision when a network is "
                f"first built with them, or by hand into {_weights_folder()}."
            )
        raise ValueError(
            f"name is {name!r}; it takes {', '.join(repr(k) for k in known)}.{near(name, known)}"
        )
    if name in EMBEDDED:
        return _embedded_row(name)._replace(todo="nothing: it comes with the course")
    if name in PACKAGED:
        file = _module(name).file()  # or the error that says what to install
        return _packaged_row(name, "package", lambda: file)._replace(
            todo="nothing: it came with its package"
        )
    module = _module(name)
    if hasattr(module, "fetch"):
        module.fetch(root)
    return _real_row(name, root)


def _embedded_row(name: str) -> DataRow:
    where, size = EMBEDDED[name]
    return DataRow(name, "embedded", where, size, "ready", "")


def _packaged_row(name: str, kind: str, find: Callable[[], Path]) -> DataRow:
    try:
        file = find()
    except ModuleNotFoundError as error:
        return DataRow(name, kind, f"package {error.name}", "", "missing", str(error))
    except OSError as error:
        return DataRow(name, kind, "", "", "broken", str(error))
    return DataRow(name, kind, str(file), in_words(file.stat().st_size), "ready", "")


def _real_row(name: str, root: str | os.PathLike[str] | None) -> DataRow:
    module = _module(name)
    try:
        found = module.find(root)
        if found is None:
            looked = ", ".join(str(place) for place in places(root))
            if not hasattr(module, "remotes"):  # nothing that could be checked after a download
                return DataRow(name, "real", looked, "", "missing", module.todo())
            size = in_words(sum(remote.size for remote in module.remotes()))
            todo = f"tlcourse data fetch {name} (or set TLCOURSE_DATA to a folder that has it)"
            return DataRow(name, "real", looked, f"{size} to download", "missing", todo)
    except OSError as error:
        return DataRow(name, "real", str(root or ""), "", "broken", str(error))
    size = in_words(_bytes_below(found.folder))
    try:
        module.check(found)
    except (OSError, ValueError) as error:
        return DataRow(name, "real", str(found.folder), size, "broken", str(error))
    return DataRow(name, "real", str(found.folder), size, "ready", "")


def _weights_row() -> DataRow:
    folder = _weights_folder()
    files = sorted(folder.glob("*.pth")) if folder.is_dir() else []
    if not files:
        todo = (
            "built with weights for the first time, a network fetches its own; without a network, "
            "put the .pth file there or set TORCH_HOME to a folder with hub/checkpoints"
        )
        return DataRow("imagenet", "weights", str(folder), "", "missing", todo)
    size = in_words(sum(path.stat().st_size for path in files))
    names = ", ".join(path.name for path in files)
    return DataRow("imagenet", "weights", str(folder), f"{size}: {names}", "ready", "")


def _weights_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _bytes_below(folder: Path) -> int:
    return sum(
        (Path(path) / name).stat().st_size for path, _, names in os.walk(folder) for name in names
    )


def _module(name: str) -> ModuleType:
    # By name: the package shows the loader mnist() where its module of the same name would be.
    import importlib

    return importlib.import_module(f"tlcourse.data.{name}")
