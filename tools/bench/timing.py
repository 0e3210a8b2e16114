"""What the cases share: a row of the table, and how functions are timed against each other."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Two timings of the same code differ by a few per cent on a busy machine.
NOISE = 1.05


@dataclass(frozen=True)
class Row:
    """One measured value and its limit: a ratio of two times, or seconds."""

    case: str
    size: str
    value: float
    limit: float
    unit: str = ""  # "" for a ratio, "s" for seconds
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the value keeps to its limit."""
        return self.value <= self.limit


Case = Callable[[], list[Row]]


def alternate(
    functions: Sequence[Callable[[], object]], *, seconds: float = 1.5, least: int = 30
) -> list[list[float]]:
    """Time functions in turns.

    Parameters
    ----------
    functions
        What to time; each is called once in every turn, in an order that rotates.
    seconds
        How long to go on.
    least
        The least number of turns.

    Returns
    -------
    list of list of float
        For every function its times in seconds, turn by turn.
    """
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    order = list(range(len(functions)))
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while time.perf_counter() < end or len(times[0]) < least:
            for number in order:
                start = time.perf_counter()
                functions[number]()
                times[number].append(time.perf_counter() - start)
            order.append(order.pop(0))
    finally:
        gc.enable()
    return times


def in_fresh_python(program: str, *arguments: str) -> float:
    """Run a program in an interpreter of its own; return the number that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    return float(done.stdout)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: two that share a core with something else wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
