"""What the experiments on selective joint fine-tuning share: first weights, retrieval, training."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tlcourse.data import LabelledImages
from tlcourse.experiments._engine.experiment import Settings
from tlcourse.experiments._shared import cross_entropy
from tlcourse.models import Classifier, SmallResNet
from tlcourse.multitask import (
    ConvBank,
    GaborBank,
    JointFineTuning,
    Retrieval,
    SelectiveJointFineTuning,
    describe,
    fit_bin_edges,
    retrieve,
)
from tlcourse.training import cosine_decay, fit

Augment = Callable[[Tensor], Tensor]


def start(
    network: SmallResNet, source: LabelledImages, settings: Settings, seed: int, *, scratch: bool
) -> tuple[nn.Module, nn.Linear | None]:
    """Return a backbone and a source head to begin with: those of the network, or random ones."""
    torch.manual_seed(seed)  # one draw of heads, and of backbones, for all rows
    if not scratch:
        return copy.deepcopy(network.backbone), network.head
    channels, width = source.images.shape[1], settings["width"]
    return SmallResNet(source.n_classes, in_channels=channels, width=width).backbone, None


def pretrain(
    network: SmallResNet,
    source: LabelledImages,
    settings: Settings,
    seed: int,
    checkpoint: Path,
    augment: Augment,
    *,
    batch_size: int,
) -> None:
    """Train the network that all rows start from."""
    fit(
        network,
        cross_entropy,
        source,
        optimizer=torch.optim.AdamW(network.parameters(), lr=settings["source_rate"]),
        epochs=settings["source_epochs"],
        batch_size=batch_size,
        schedule=cosine_decay,
        augment=augment,
        seed=seed,
        checkpoint=checkpoint,
    )
    network.cpu().eval()


def nearest(
    bank: ConvBank | GaborBank, source: LabelledImages, few: LabelledImages, settings: Settings
) -> Retrieval:
    """Return the nearest source images of every target image, as a bank of filters sees them."""
    sample = source.subset(range(min(settings["images_for_edges"], len(source))))
    edges = fit_bin_edges(bank(sample.images), bins=settings["bins"])
    near, target = (describe(data.images, bank, edges) for data in (source, few))
    most = min(settings["most"], len(source))
    return retrieve(near, target, most, weights=bank.weights, method="exact")


def train(
    model: Classifier,
    few: LabelledImages,
    settings: Settings,
    rate: float,
    seed: int,
    files: Path,
    augment: Augment,
    *,
    iterate: bool,
) -> None:
    """Train a row in rounds; to ``iterate`` is to let hard images ask for more after each.

    The learning rate falls along one cosine over all rounds, and the optimiser keeps its averages,
    so that a row without retrieval is trained as if there were no rounds.
    """
    rounds = settings["rounds"]
    steps = settings["epochs"] * settings["labels_per_class"] * few.n_classes
    epochs = steps // len(few) // rounds  # fewer for more images: all rows see as many
    objective = model.__class__.loss if isinstance(model, JointFineTuning) else cross_entropy
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, weight_decay=settings["weight_decay"]
    )
    for i in range(rounds):
        fit(
            model,
            objective,
            few,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=settings["batch_size"],
            schedule=functools.partial(_part_of_cosine, i, rounds),
            augment=augment,
            seed=rounds * seed + i,
            checkpoint=files.with_name(f"{files.name}-{i}.safetensors"),
        )
        if iterate and isinstance(model, SelectiveJointFineTuning) and i + 1 < rounds:
            model.ask_for_more()


def _part_of_cosine(part: int, parts: int, progress: float) -> float:
    return cosine_decay((part + progress) / parts)
