"""How nbval runs the chapters, wherever `pytest --nbval book` is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from notebooks import CELL_TIMEOUT, ROOT, kernel_environment

# The kernels run as they do for the site. Above all they draw no progress bars: nbval reads what a
# cell sends only when the cell is done, a bar sends hundreds of messages, more where a machine is
# slow, and once the queue is full the word that the cell is done is lost.
for name, value in kernel_environment(ROOT / "_build" / "ipython").items():
    os.environ.setdefault(name, value)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Wait for that word as long as for the cell, not the 5 s that nbval gives it."""
    if hasattr(item, "output_timeout"):
        item.output_timeout = CELL_TIMEOUT
