"""What the methods of the family check alike."""

from __future__ import annotations

import torch
from torch import Tensor

from tlcourse._checks import check_dtype, shape_of, widened


def check_features(*, at_least: int, **features: Tensor) -> list[Tensor]:
    """Return two or more batches of features (n, D), half precision as float32.

    Raise unless each has so many samples, and all have one D and one dtype.
    """
    for name, z in features.items():
        check_dtype(name, z)
        if z.ndim != 2 or z.shape[1] == 0:
            raise ValueError(
                f"{name} must have shape (n, D): n samples of D features; got {shape_of(z)}. "
                "Feature maps must be flattened first."
            )
        if len(z) < at_least:
            raise ValueError(f"{name} must have at least {at_least} samples, got {len(z)}.")
    wide = [widened(z) for z in features.values()]
    (first, a), *others = zip(features, wide, strict=True)
    for name, z in others:
        if z.shape[1] != a.shape[1]:
            raise ValueError(
                f"{first} and {name} must have the same features, got shapes {shape_of(a)} and "
                f"{shape_of(z)}."
            )
        if z.dtype != a.dtype:
            raise TypeError(
                f"{first} and {name} must have the same dtype, got {a.dtype} and {z.dtype}."
            )
    return wide


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in the type of a, where mixed precision would compute it in half."""
    if a.is_meta:  # no values, and no mixed precision
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
