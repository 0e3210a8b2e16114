"""What crosses between grader and sandbox: numbers, texts, lists and dicts of them, plain arrays.

A message is two lengths, a JSON text and the bytes of the arrays in their order. In the text an
array stands as ``{"npy": number of bytes}`` and a dict as ``{"dict": [[key, value], ...]}``. The
bytes are those of the .npy format and are read without pickle, here and not by ``numpy.load``, so
that no header can ask for more than what has arrived.

This file runs on both sides, so it imports NumPy and the standard library alone. What it says of
a message that it refuses quotes nothing of it: a submission could tell a hidden test in that way.
"""

from __future__ import annotations

import io
import json
import math
import struct
from typing import Any

import numpy as np

HEAD = struct.Struct(">II")  # bytes of JSON, bytes of arrays
MAX_TEXT = 4 << 20
MAX_ARRAYS = 128 << 20
MAX_DEPTH = 16
MAX_ITEMS = 100_000  # of all lists and dicts of a message
MAX_NDIM = 8
KINDS = "biuf"  # bool, integers, floats: no complex numbers, texts, dates, records or objects


class WireError(ValueError):
    """A message that is not well formed, or a value that does not cross."""


def pack(message: dict[str, Any]) -> bytes:
    """Return the bytes of a message.

    Raises
    ------
    WireError
        If a value is of a kind that does not cross, or the message is too large.
    """
    arrays: list[bytes] = []
    text = json.dumps(_plain(message, arrays, 0)).encode()
    size = sum(map(len, arrays))
    if len(text) > MAX_TEXT or size > MAX_ARRAYS:
        raise WireError(
            f"it is too large: {len(text) + size:,} bytes; at most {MAX_TEXT:,} of texts and lists "
            f"and {MAX_ARRAYS:,} of arrays are taken"
        )
    return b"".join([HEAD.pack(len(text), size), text, *arrays])


def sizes(head: bytes) -> tuple[int, int]:
    """Return the two lengths that a message begins with; raise `WireError` if one is too large."""
    text, arrays = HEAD.unpack(head)
    if text > MAX_TEXT or arrays > MAX_ARRAYS:
        raise WireError("a message claims to be too large")
    return text, arrays


def unpack(text: bytes, arrays: bytes) -> dict[str, Any]:
    """Return the message of its two parts; raise `WireError` at anything unexpected."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("a message is no JSON") from None
    reader = _Reader(arrays)
    message = reader.value(raw, 0)
    if not isinstance(message, dict) or reader.at != len(arrays):
        raise WireError("a message is no dict, or has bytes that belong to no array")
    return message


def to_npy(array: np.ndarray) -> bytes:
    """Return the .npy bytes of an array of numbers."""
    if array.dtype.kind not in KINDS:
        raise WireError(f"an array of dtype {array.dtype} does not cross: numbers and bools do")
    if array.dtype.itemsize > 8:  # numpy.longdouble differs between machines
        array = array.astype(np.float64)
    if array.ndim > MAX_NDIM:
        raise WireError(f"an array of {array.ndim} dimensions does not cross; at most {MAX_NDIM}")
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array).reshape(array.shape), (1, 0), False)
    return file.getvalue()


def from_npy(data: bytes) -> np.ndarray:
    """Return the array of .npy bytes; raise `WireError` unless they are one, whole, of numbers."""
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise WireError("an array is not in version 1.0 of the .npy format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=2000)
    except WireError:
        raise
    except Exception:  # whatever NumPy's reader makes of hostile bytes
        raise WireError("an array has no .npy header") from None
    if dtype.kind not in KINDS or dtype.itemsize > 8 or dtype.subdtype or dtype.hasobject:
        raise WireError("an array does not hold numbers or bools")
    if len(shape) > MAX_NDIM or any(type(n) is not int or not 0 <= n <= MAX_ARRAYS for n in shape):
        raise WireError("an array's shape is no list of up to 8 sizes that memory could hold")
    body = data[file.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise WireError("an array's bytes are not as many as its shape says")
    # A copy: own memory, writable, in the machine's byte order.
    array = np.frombuffer(body, dtype).astype(dtype.newbyteorder("="))
    return array.reshape(shape, order="F" if fortran else "C")


class _Reader:
    """Takes a parsed text and the arrays' bytes apart, and counts what it has made."""

    def __init__(self, arrays: bytes) -> None:
        self.arrays, self.at, self.items = arrays, 0, 0

    def value(self, raw: Any, depth: int) -> Any:
        if raw is None or isinstance(raw, (bool, float)):
            return raw
        if isinstance(raw, str):
            return _text(raw)
        if isinstance(raw, int):
            if not -(2**63) <= raw < 2**64:
                raise WireError("a whole number has more than 64 bits")
            return raw
        if depth >= MAX_DEPTH:
            raise WireError(f"lists are nested more than {MAX_DEPTH} deep")
        if isinstance(raw, list):
            self._count(raw)
            return [self.value(item, depth + 1) for item in raw]
        if set(raw) == {"npy"}:
            return self._array(raw["npy"])
        if set(raw) == {"dict"} and isinstance(raw["dict"], list):
            self._count(raw["dict"])
            found: dict[str, Any] = {}
            for pair in raw["dict"]:
                if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
                    raise WireError("a dict is no list of texts with values")
                if pair[0] in found:
                    raise WireError("a dict has one key twice")
                found[_text(pair[0])] = self.value(pair[1], depth + 1)
            return found
        raise WireError("a message has an object of no known kind")

    def _count(self, raw: list[Any]) -> None:
        self.items += len(raw)
        if self.items > MAX_ITEMS:
            raise WireError(f"lists and dicts hold more than {MAX_ITEMS:,} items in all")

    def _array(self, size: Any) -> np.ndarray:
        if type(size) is not int or not 0 < size <= len(self.arrays) - self.at:
            raise WireError("an array claims bytes that have not come")
        data = self.arrays[self.at : self.at + size]
        self.at += size
        return from_npy(data)


def _text(text: str) -> str:
    """Return a text that a file can hold: a lone surrogate, which none can, is refused."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WireError("a text has a character that is half of one") from None
    return text


def _plain(value: Any, arrays: list[bytes], depth: int) -> Any:
    """Return a value as JSON takes it; its arrays' bytes are put at the end of the list."""
    if depth > MAX_DEPTH:
        raise WireError(f"lists are nested more than {MAX_DEPTH} deep")
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is str:
        return _text(value)
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise WireError("a whole number has more than 64 bits")
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, arrays, depth + 1) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise WireError("a dict has a key that is no text")
        pairs = [[_text(str(key)), _plain(item, arrays, depth + 1)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, np.generic):
        return _plain(value.item(), arrays, depth)
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a tensor, without importing torch
        value = value.detach().cpu()
        value = (
            value.float() if value.is_floating_point() and value.itemsize < 4 else value
        ).numpy()
    if isinstance(value, np.ndarray):
        data = to_npy(value)
        arrays.append(data)
        return {"npy": len(data)}
    if isinstance(value, (bool, int, float, str)):  # subclasses, such as those of an enum
        base = next(kind for kind in (bool, int, float, str) if isinstance(value, kind))
        return _plain(base(value), arrays, depth)
    raise WireError(f"a value of type {type(value).__name__} does not cross")
