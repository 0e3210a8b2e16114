"""Selective joint fine-tuning: the source images like the target's, and what they are worth.

Ten ways to a classifier of a small target, after the tables of Ge and Yu (2017). Two see no source
image, or see it in their first weights alone; the others learn source and target together, with all
source images, with a random part of them, or with the nearest to the target images.

Every row takes the same number of steps, with the same number of target images in each; a joint
step has as many source images beside them, which are not augmented. A seed draws the few target
images, the random weights and the random part, which is as large as what the selective row ends
with. Settings were chosen with other draws, measured on training images; no test image took part.

The tables that Park and Jang quote have two rows more that they do not explain. For "model fusion"
we take the mean of the probabilities of two networks, trained beside what either bank of filters
finds near. For "with val set" we add a validation set, as large as the target's training set, to
it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
from tlcourse.experiments._engine.experiment import Data, Experiment, Settings
from tlcourse.experiments._shared import per_cent, rows, say_if_other
from tlcourse.experiments.multitask._parts import Augment, nearest, pretrain, start, train
from tlcourse.models import Classifier, SmallResNet
from tlcourse.multitask import (
    ConvBank,
    GaborBank,
    JointFineTuning,
    SelectiveJointFineTuning,
)
from tlcourse.source import glyph_network

# --- the experiments ------------------------------------------------------------------------------


def run_digits(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """From printed characters to a few handwritten digits."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    augment = functools.partial(random_shift, pixels=settings["shift"])
    network = glyph_network(progress=False)
    return compare(data, few, network, settings, seed, folder, augment)


def run_cifar10(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """From most classes of CIFAR-10 to a few images of the others."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    source = data["source"]
    network = SmallResNet(source.n_classes, in_channels=3, width=settings["width"])
    file = folder / "source.safetensors"
    pretrain(network, source, settings, seed, file, random_crop_flip, batch_size=128)
    return compare(data, few, network, settings, seed, folder, random_crop_flip)


def compare(
    data: Data,
    few: LabelledImages,
    network: SmallResNet,
    settings: Settings,
    seed: int,
    folder: Path,
    augment: Augment,
) -> dict[str, float]:
    """Return the accuracy of every row, given a network that was trained on the source."""
    source, test = data["source"], data["test"]
    conv: ConvBank | GaborBank = ConvBank(network, settings["layers"])
    begin = functools.partial(start, network, source, settings, seed)

    def selective(
        name: str,
        bank: ConvBank | GaborBank,
        target: LabelledImages = few,
        *,
        scratch: bool = False,
        iterate: bool = True,
    ) -> SelectiveJointFineTuning:
        backbone, head = begin(scratch=scratch)
        model = SelectiveJointFineTuning(
            backbone,
            source,
            target,
            nearest(bank, source, target, settings),
            source_head=head,
            **settings["retrieval"],
        )
        learn(name, model, target, scratch=scratch, iterate=iterate)
        return model

    def learn(
        name: str,
        model: Classifier,
        target: LabelledImages = few,
        *,
        scratch: bool = False,
        iterate: bool = False,
    ) -> None:
        rate = settings["scratch_rate" if scratch else "rate"]
        train(model, target, settings, rate, seed, folder / name, augment, iterate=iterate)

    chosen = selective("selective", conv)
    by_gabor = selective("gabor", GaborBank())
    models: dict[str, nn.Module] = {
        "selective": chosen,
        "gabor": by_gabor,
        "fusion": Fusion([chosen, by_gabor]),
        "once": selective("once", conv, iterate=False),
        "selective-scratch": selective("selective-scratch", conv, scratch=True),
    }

    # Draws are nested: the first half of a draw of twice as many are the few.
    twice = few_per_class(data["train"], 2 * settings["labels_per_class"], seed=seed)
    models["val"] = selective("val", conv, twice)

    generator = torch.Generator().manual_seed(seed)
    part = torch.randperm(len(source), generator=generator)[: len(chosen.selected)]
    for name, selected in (("all", None), ("random", part)):
        backbone, head = begin(scratch=False)
        joint = JointFineTuning(
            backbone, source, few.n_classes, selected=selected, source_head=head
        )
        learn(name, joint)
        models[name] = joint

    for name, scratch in (("finetune", False), ("scratch", True)):
        backbone, _ = begin(scratch=scratch)
        alone = Classifier(backbone, few.n_classes)
        learn(name, alone, scratch=scratch)
        models[name] = alone
    return {name: per_cent(model, test) for name, model in models.items()}


# --- their parts ----------------------------------------------------------------------------------


class Fusion(nn.Module):
    """Images (N, C, H, W) -> the mean of the models' probabilities (N, K)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of the probabilities."""
        return torch.stack([model(images).softmax(1) for model in self.models]).mean(0)


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

LABELS = {
    "scratch": "Training from scratch using target only",
    "selective-scratch": "Selective joint training from scratch",
    "finetune": "Fine-tuning w/o source domain",
    "all": "Joint fine-tuning with all source samples",
    "random": "Selective joint FT with random source samples",
    "once": "Selective joint FT w/o iterative NN retrieval",
    "gabor": "Selective joint FT with Gabor filter bank",
    "selective": "Selective joint fine-tuning",
    "fusion": "Selective joint FT with model fusion",
    "val": "Selective joint FT with val set",
}
# Mean accuracy over the classes in per cent, from ImageNet, as Park and Jang quote it.
FLOWERS = (58.2, 80.6, 92.3, 93.4, 93.2, 94.2, 93.8, 94.7, 95.8, 97.0)
DOGS = (53.8, 83.4, 80.4, 85.6, 85.5, 88.3, 87.5, 90.2, 90.3, None)
_SOURCE = "Ge and Yu (2017): ImageNet to {}, mean accuracy over the classes"


SELECTIVE_JOINT = Experiment(
    name="selective-joint",
    title="Selective joint fine-tuning: printed characters -> 5 handwritten images a digit",
    chapter="methods/selective-joint",
    unit="test accuracy, %",
    better="higher",
    rows=rows(LABELS, FLOWERS),
    source=_SOURCE.format("Oxford Flowers 102"),
    settings={"quick": DIGITS_QUICK, "full": DIGITS},
    seeds={"quick": 1, "full": 8},
    load=load_glyphs_and_digits,
    run_seed=run_digits,
)

SELECTIVE_JOINT_CIFAR10 = Experiment(
    name="selective-joint-cifar10",
    title="Selective joint fine-tuning: six classes of CIFAR-10 (JPEG) -> 25 images of each other",
    chapter="methods/selective-joint",
    unit="test accuracy, %",
    better="higher",
    rows=rows(LABELS, DOGS),
    source=_SOURCE.format("Stanford Dogs 120"),
    settings={"quick": CIFAR10_QUICK, "full": CIFAR10},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10_parts,
    run_seed=run_cifar10,
)
