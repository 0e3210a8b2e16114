"""Random state: what a piece of the course draws is its own, the caller's stays as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Put the state of Python's, NumPy's and every device's generator back at the end.

    `torch.manual_seed` seeds the generators of all devices, so all are kept, not that of one.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> with kept_random_state():
    ...     _ = torch.manual_seed(99)
    >>> torch.initial_seed()
    0
    """
    python, numeric, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    backends = [b for b in (torch.cuda, torch.xpu) if b.is_available()]
    others = [b.get_rng_state_all() for b in backends]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numeric)
        torch.set_rng_state(cpu)
        for backend, states in zip(backends, others, strict=True):
            backend.set_rng_state_all(states)
        if mps is not None:
            torch.mps.set_rng_state(mps)
