"""Small sets in the place of the real ones: noise with a mark, and simulated sensors."""

from __future__ import annotations

import pytest
import torch

from tlcourse.data import LabelledImages, imu
from tlcourse.experiments.instances import _parts as parts


def digits(kind: int, n: int) -> LabelledImages:
    """Three classes, each brighter in one row, which is partly another one in each kind."""
    g = torch.Generator().manual_seed(10 * kind + n)
    labels = torch.arange(n) % 3
    images = torch.rand(n, 1, 8, 8, generator=g)
    images[torch.arange(n), 0, 2 * labels, : 2 * kind] += 0.5
    images[torch.arange(n), 0, 2 * labels + 1, 2 * kind :] += 0.5
    return LabelledImages(images / 1.5, labels, ("0", "1", "2"), parts.DIGITS[kind])


@pytest.fixture(scope="package")
def data():
    found = {
        name + part: digits(kind, n)
        for kind, name in enumerate(parts.DIGITS)
        for part, n in (("", 60), (" test", 30))
    }
    torso, waist = imu(people=8, windows=6, matched=True)
    return found | {"torso": torso, "leg": parts._turned(torso), "waist": waist}
