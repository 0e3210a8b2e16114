"""Selective joint fine-tuning: the source images like the target's, and what they are worth.

Eight ways to a classifier of a small target, after the table of Ge and Yu (2017). Three see no
source image, or see it in their first weights alone; the others learn source and target together,
with all source images, with a random part of them, or with the nearest to the target images.

Every row takes the same number of steps, with the same number of target images in each; a joint
step has as many source images beside them. A seed draws the few target images, the random weights
and the random part, which is as large as what the selective row ends with. Settings were chosen
with other draws, measured on training images; no test image took part.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcourse.data import (
    LabelledImages,
    cifar10,
    digits,
    few_per_class,
    glyphs,
    random_crop_flip,
    random_shift,
)
from tlcourse.experiments.common import cross_entropy, per_cent, say_if_other
from tlcourse.experiments.experiment import Data, Experiment, Row, Settings
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
from tlcourse.source import glyph_network
from tlcourse.training import cosine_decay, fit

Augment = Callable[[Tensor], Tensor]


# --- the experiments ------------------------------------------------------------------------------


def run_digits(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """From printed characters to a few handwritten digits."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    augment = functools.partial(random_shift, pixels=settings["shift"])
    network = glyph_network(progress=False)
    return compare(data["source"], few, data["test"], network, settings, seed, folder, augment)


def run_cifar10(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """From most classes of CIFAR-10 to a few images of the others."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    source = data["source"]
    network = SmallResNet(source.n_classes, in_channels=3, width=settings["width"])
    fit(
        network,
        cross_entropy,
        source,
        optimizer=torch.optim.AdamW(network.parameters(), lr=settings["source_rate"]),
        epochs=settings["source_epochs"],
        batch_size=128,
        schedule=cosine_decay,
        augment=random_crop_flip,
        seed=seed,
        checkpoint=folder / "source.safetensors",
    )
    return compare(source, few, data["test"], network, settings, seed, folder, random_crop_flip)


def compare(
    source: LabelledImages,
    few: LabelledImages,
    test: LabelledImages,
    network: SmallResNet,
    settings: Settings,
    seed: int,
    folder: Path,
    augment: Augment,
) -> dict[str, float]:
    """Return the accuracy of every row, given a network that was trained on the source."""
    network = network.cpu().eval()
    banks: dict[str, ConvBank | GaborBank] = {
        "conv": ConvBank(network, settings["layers"]),
        "gabor": GaborBank(),
    }
    near = {name: nearest(bank, source, few, settings) for name, bank in banks.items()}
    found, size = {}, 0
    begin = functools.partial(start, network, source, settings, seed)

    def score(name: str, model: Classifier, rate: float, *, iterate: bool = False) -> float:
        train(model, few, settings, rate, seed, folder / name, augment, iterate=iterate)
        return per_cent(model, test)

    tuned, fresh = settings["rate"], settings["scratch_rate"]
    for name, bank, scratch, iterate in (
        ("selective", "conv", False, True),
        ("gabor", "gabor", False, True),
        ("once", "conv", False, False),
        ("selective-scratch", "conv", True, True),
    ):
        backbone, head = begin(scratch=scratch)
        model = SelectiveJointFineTuning(
            backbone, source, few, near[bank], source_head=head, **settings["retrieval"]
        )
        found[name] = score(name, model, fresh if scratch else tuned, iterate=iterate)
        if name == "selective":
            size = len(model.selected)

    generator = torch.Generator().manual_seed(seed)
    for name, selected in (
        ("all", None),
        ("random", torch.randperm(len(source), generator=generator)[:size]),
    ):
        backbone, head = begin(scratch=False)
        joint = JointFineTuning(
            backbone, source, few.n_classes, selected=selected, source_head=head
        )
        found[name] = score(name, joint, tuned)

    for name, scratch in (("finetune", False), ("scratch", True)):
        backbone, _ = begin(scratch=scratch)
        alone = Classifier(backbone, few.n_classes)
        found[name] = score(name, alone, fresh if scratch else tuned)
    return found


# --- their parts ----------------------------------------------------------------------------------


def start(
    network: SmallResNet, source: LabelledImages, settings: Settings, seed: int, *, scratch: bool
) -> tuple[nn.Module, nn.Linear | None]:
    """Return a backbone and a source head to begin with: those of the network, or random ones."""
    torch.manual_seed(seed)  # one draw of heads, and of backbones, for all rows
    if not scratch:
        return copy.deepcopy(network.backbone), network.head
    channels, width = source.images.shape[1], settings["width"]
    return SmallResNet(source.n_classes, in_channels=channels, width=width).backbone, None


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

    The learning rate falls along one cosine over all rounds, and the optimizer keeps its averages,
    so that a row without retrieval is trained as if there were no rounds.
    """
    rounds, epochs = settings["rounds"], settings["epochs"] // settings["rounds"]
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


def load_glyphs_and_digits(settings: Settings) -> dict[str, LabelledImages]:
    """Return the printed characters of the source network, and the digits."""
    source, _ = glyphs(settings["n_source"], 1)
    train, test = digits()
    return {"source": source, "train": train, "test": test}


def load_cifar10_parts(settings: Settings) -> dict[str, LabelledImages]:
    """Return CIFAR-10 in two: the target's classes, and images of the others as the source."""
    train, test = cifar10()
    say_if_other("data", train.name, settings["data"])
    names = settings["target_classes"]
    parts = {"train": only(train, names), "test": only(test, names)}
    others = only(train, [name for name in train.classes if name not in names])
    return {"source": few_per_class(others, settings["source_per_class"], seed=0)} | parts


def only(data: LabelledImages, names: list[str]) -> LabelledImages:
    """Return the images of some classes, labelled in the order of ``names``."""
    number = torch.full((data.n_classes,), -1)
    number[[data.classes.index(name) for name in names]] = torch.arange(len(names))
    kept = number[data.labels] >= 0
    return LabelledImages(data.images[kept], number[data.labels[kept]], names, data.name)


# --- the settings ---------------------------------------------------------------------------------

DIGITS: dict[str, Any] = {
    "n_source": 12_000,
    "labels_per_class": 5,
    "layers": ["backbone.stem.0", "backbone.stage1.conv1"],
    "images_for_edges": 2_000,
    "bins": 20,
    "most": 1_500,
    "retrieval": {"start": 150, "if_wrong": 150, "if_uncertain": 75, "entropy_threshold": 0.1},
    "rounds": 4,
    "epochs": 160,
    "batch_size": 25,
    "rate": 1e-3,
    "scratch_rate": 3e-3,
    "weight_decay": 1e-2,
    "width": 16,
    "shift": 2,
}
DIGITS_QUICK = DIGITS | {"epochs": 16, "n_source": 3_000}
CIFAR10: dict[str, Any] = {
    "data": "CIFAR-10 (JPEG)",
    "target_classes": ["cat", "deer", "dog", "horse"],
    "source_per_class": 2_000,
    "source_epochs": 5,
    "source_rate": 3e-3,
    "labels_per_class": 25,
    "layers": ["backbone.stem.0", "backbone.stage1.conv1"],
    "images_for_edges": 2_000,
    "bins": 20,
    "most": 400,
    "retrieval": {"start": 20, "if_wrong": 40, "if_uncertain": 20, "entropy_threshold": 0.1},
    "rounds": 4,
    "epochs": 80,
    "batch_size": 50,
    "rate": 1e-3,
    "scratch_rate": 3e-3,
    "weight_decay": 1e-2,
    "width": 16,
}
CIFAR10_QUICK = CIFAR10 | {"source_per_class": 300, "source_epochs": 2, "epochs": 8}

_ROWS = (
    Row("scratch", "Training from scratch using target only", 53.8),
    Row("selective-scratch", "Selective joint training from scratch", 83.4),
    Row("finetune", "Fine-tuning w/o source domain", 80.4),
    Row("all", "Joint fine-tuning with all source samples", 85.6),
    Row("random", "Selective joint FT with random source samples", 85.5),
    Row("once", "Selective joint FT w/o iterative NN retrieval", 88.3),
    Row("gabor", "Selective joint FT with Gabor filter bank", 87.5),
    Row("selective", "Selective joint fine-tuning", 90.2),
)
_SOURCE = "EE807 lecture 11, after Ge and Yu 2017: ImageNet -> Stanford Dogs 120, mean accuracy"

SELECTIVE_JOINT = Experiment(
    name="selective-joint",
    title="Selective joint fine-tuning: printed characters -> 5 handwritten images a digit",
    chapter="methods/multi-task",
    unit="test accuracy, %",
    better="higher",
    rows=_ROWS,
    source=_SOURCE,
    settings={"quick": DIGITS_QUICK, "full": DIGITS},
    seeds={"quick": 1, "full": 5},
    load=load_glyphs_and_digits,
    run_seed=run_digits,
)

SELECTIVE_JOINT_CIFAR10 = Experiment(
    name="selective-joint-cifar10",
    title="Selective joint fine-tuning: six classes of CIFAR-10 (JPEG) -> 25 images of each other",
    chapter="methods/multi-task",
    unit="test accuracy, %",
    better="higher",
    rows=_ROWS,
    source=_SOURCE,
    settings={"quick": CIFAR10_QUICK, "full": CIFAR10},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10_parts,
    run_seed=run_cifar10,
)
