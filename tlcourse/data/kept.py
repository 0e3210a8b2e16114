"""What takes long to make is made once: tensors in the cache folder, with sums that show damage."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from tlcourse.data.store import writing
from tlcourse.settings import cache_dir


def keep_once(
    folder: str, name: str, what: str, make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors that are kept under a name, or make and keep them.

    Without room for them the next call makes them again, and this one goes on with a warning.

    Parameters
    ----------
    folder
        Below the cache folder.
    name
        Of the file; it must change with everything that ``make`` depends on.
    what
        What they are, for the warning.
    make
        Called where nothing is kept, or what is kept is damaged.
    """
    try:
        kept = cache_dir() / folder / f"{name}.safetensors"
    except OSError as error:
        warnings.warn(f"The {what} are not kept: {error}", stacklevel=4)
        return make()
    if (tensors := _load(kept)) is None:
        tensors = make()
        try:
            _save(kept, tensors)
        except OSError as error:
            warnings.warn(f"The {what} are not kept: {error}", stacklevel=4)
    return tensors


def _load(kept: Path) -> dict[str, Tensor] | None:
    """Return the kept tensors, or None if there are none or the file is damaged."""
    from safetensors import SafetensorError, safe_open

    if not kept.exists():
        return None
    try:
        with safe_open(kept, "pt") as file:
            sums = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    return tensors if sums == _sums(tensors) else None


def _save(kept: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    with writing(kept) as file:
        file.write(save(tensors, _sums(tensors)))


def _sums(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {key: f"{zlib.crc32(tensor.numpy().data):08x}" for key, tensor in tensors.items()}
