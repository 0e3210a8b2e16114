"""What the experiments on continual learning share: the training of all their networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from tlcourse.experiments._engine.experiment import Settings
from tlcourse.training import Objective, fit


def train(
    model: nn.Module,
    objective: Objective,
    data: Dataset[Any],
    settings: Settings,
    seed: int,
    *,
    epochs: str = "epochs",
    rate: str = "rate",
    batch_size: str = "batch_size",
    **how: Any,
) -> list[dict[str, float]]:
    """Train by AdamW what is not frozen, and leave the model on the CPU in evaluation mode.

    ``epochs``, ``rate`` and ``batch_size`` name settings; the rest goes to `fit`. Returns the
    history's rows.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    history = fit(
        model,
        objective,
        data,
        optimizer=torch.optim.AdamW(
            learning, lr=settings[rate], weight_decay=settings["weight_decay"]
        ),
        epochs=settings[epochs],
        batch_size=settings[batch_size],
        seed=seed,
        progress=False,
        **how,
    )
    model.cpu().eval()
    return history.rows
