"""What experiments on the two targets share: digits, and the same images in shuffled tiles."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tlcourse.data import LabelledImages, random_shift, shuffle_tiles
from tlcourse.experiments._engine.experiment import Settings
from tlcourse.experiments._shared import cross_entropy, load_digits
from tlcourse.training import cosine_decay, fit

TARGETS = ("similar", "different")


def load_two_targets(settings: Settings) -> dict[str, LabelledImages]:
    """Return training and test images of both targets."""
    plain = load_digits(settings)
    return {f"similar-{part}": images for part, images in plain.items()} | {
        f"different-{part}": shuffle_tiles(images) for part, images in plain.items()
    }


def train_steps(
    model: nn.Module,
    groups: list[dict[str, Any]],
    few: LabelledImages,
    steps: int,
    batch_size: int,
    shift: int,
    seed: int,
) -> None:
    """Train parameter groups for about so many steps; leave the model in evaluation mode.

    ``shift`` is the largest random shift of the images in pixels.
    """
    fit(
        model,
        cross_entropy,
        few,
        optimizer=torch.optim.AdamW(groups, weight_decay=1e-2),
        epochs=max(1, round(steps * batch_size / len(few))),
        batch_size=batch_size,
        schedule=cosine_decay,
        augment=partial(random_shift, pixels=shift) if shift else None,
        seed=seed,
        progress=False,
    )
    model.cpu().eval()
