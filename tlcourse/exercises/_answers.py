"""How an answer is compared with another: numbers, arrays, texts, and what holds them."""

from __future__ import annotations

import dis
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

import numpy as np

# What a body of `...`, `pass`, `return ...` or a docstring alone compiles to, in every version.
_NOTHING = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "CACHE"}


def is_empty(answer: Any) -> bool:
    """Say whether an answer is the placeholder, has one in it, or does nothing yet.

    Examples
    --------
    >>> is_empty(...), is_empty(lambda x: ...), is_empty(lambda x: x), is_empty({"a": ...})
    (True, True, False, True)
    """
    if answer is ... or answer is None:
        return True
    if isinstance(answer, Mapping):
        return any(one is ... for one in answer.values())
    if not isinstance(answer, FunctionType):
        return False
    steps = list(dis.get_instructions(answer))
    returned = {step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")}
    return {step.opname for step in steps} <= _NOTHING and returned <= {None, ...}


def difference(given: Any, wanted: Any, tolerance: float, *, tell: bool = True) -> str | None:
    """Say how an answer differs from the one wanted, or return None where it does not.

    Parameters
    ----------
    given, wanted
        Numbers, texts, truths, None, arrays, tensors, and mappings and sequences of them.
    tolerance
        Of numbers, relative, and absolute near 0.
    tell
        False keeps the wanted value out of the text.

    Examples
    --------
    >>> difference(1.0, 1.00001, 1e-4) is None
    True
    >>> difference(2.0, 4.0, 1e-4)
    'got 2.0, not 4.0.'
    """
    if wanted is None:
        return None if given is None else _not(given, wanted, tell)
    if isinstance(wanted, (str, bool)):
        if isinstance(given, np.bool_):
            given = bool(given)
        if type(given) is not type(wanted):
            return f"{_kind(wanted)} is asked for, got {_short(given)}."
        if isinstance(wanted, str):
            same = str(given).strip().lower() == wanted.lower()
        else:
            same = given is wanted
        return None if same else _not(given, wanted, tell)
    if isinstance(wanted, Mapping):
        if not isinstance(given, Mapping):
            return f"a dictionary with {_names(wanted)} is asked for, got {_short(given)}."
        if set(given) != set(wanted):
            return f"the entries are {_names(given)}; asked for are {_names(wanted)}."
        for name in wanted:
            if said := difference(given[name], wanted[name], tolerance, tell=tell):
                return f"{name!r}: {said}"
        return None
    if isinstance(wanted, Sequence) and not all(_is_number(one) for one in wanted):
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            return f"{len(wanted)} values in order are asked for, got {_short(given)}."
        if len(given) != len(wanted):
            return f"{len(wanted)} values are asked for, got {len(given)}."
        for number, (one, other) in enumerate(zip(given, wanted, strict=True), start=1):
            if said := difference(one, other, tolerance, tell=tell):
                return f"value {number}: {said}"
        return None
    got, want = _array(given), _array(wanted)
    assert want is not None
    if got is None or (_truths(given) and not _truths(wanted)):
        return f"{_kind(wanted)} is asked for, got {_short(given)}."
    if got.shape != want.shape:
        return f"the shape is {got.shape}; asked for is {want.shape}."
    if np.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True):
        return None
    if want.size == 1:
        return _not(got.item(), want.item(), tell)
    apart = float(np.max(np.abs(got - want)))
    return f"the values differ, by up to {apart:.3g}."


def _not(given: Any, wanted: Any, tell: bool) -> str:
    return f"got {given!r}, not {wanted!r}." if tell else f"{given!r} is not the answer."


def _is_number(one: Any) -> bool:
    return isinstance(one, (int, float, np.number)) and not isinstance(one, bool)


def _array(one: Any) -> np.ndarray[Any, Any] | None:
    """Return numbers as an array of doubles, or None where they are none."""
    if hasattr(one, "detach"):
        one = one.detach().cpu().numpy()
    try:
        found = np.asarray(one)
    except (TypeError, ValueError):
        return None
    return found.astype(np.float64) if found.dtype.kind in "bifu" else None


def _truths(one: Any) -> bool:
    """Say whether these are truths, which NumPy would take for 0 and 1."""
    if isinstance(one, (list, tuple)):
        return any(map(_truths, one))
    dtype = str(getattr(one, "dtype", type(one).__name__))
    return dtype in ("bool", "torch.bool")


def _kind(wanted: Any) -> str:
    if isinstance(wanted, bool):
        return "True or False"
    if isinstance(wanted, str):
        return "a text"
    return "a number" if _is_number(wanted) else "an array of numbers"


def _short(given: Any) -> str:
    text = repr(given)
    return f"{text if len(text) < 40 else text[:37] + '...'} ({type(given).__name__})"


def _names(mapping: Mapping[Any, Any]) -> str:
    return ", ".join(repr(name) for name in mapping) or "none"
