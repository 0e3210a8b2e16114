"""What the tests of the experiments on few labels share: tiny data and networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import _digits, get
from tlcourse.experiments.finetuning import _parts as parts
from tlcourse.experiments.finetuning import (
    finetune_cases,
    finetune_digits,
    probe_cifar10,
    unfreeze_cifar10,
)
from tlcourse.finetuning import changed, snapshot
from tlcourse.models import SmallResNet, pretrained_backbone

RANDOM = {"squeezenet": "SqueezeNet 1.0", "lite0": "EfficientNet-Lite0"}
IMAGENET = parts.IMAGENET | {
    "size": 32,
    "networks": {
        key: network | {"weights": f"{RANDOM[key]} (random weights)"}
        for key, network in parts.NETWORKS.items()
    },
    "scratch_width": 2,
    "batch_size": 8,
}
SETTINGS = {
    "probe-cifar10": probe_cifar10.QUICK
    | IMAGENET
    | {
        "labels_per_class": [2, 5],
        "strengths": [0.01, 1.0],
        "finetune_epochs": [1, 1],
        "scratch_epochs": [2, 1],
    },
    "unfreeze-cifar10": unfreeze_cifar10.QUICK
    | IMAGENET
    | {
        "labels_per_class": 3,
        "strengths": [0.01, 1.0],
        "stage_epochs": [1] * 4,
        "scratch_epochs": 1,
    },
    "finetune-digits": finetune_digits.DIGITS
    | {"scratch_width": 4, "labels_per_class": [1, 2], "epochs": [3, 3]},
}
ROWS = {
    "probe-cifar10": parts.table(probe_cifar10.WAYS, (2, 5)),
    "unfreeze-cifar10": unfreeze_cifar10.ROWS,
    "finetune-digits": parts.table(finetune_digits.WAYS, (1, 2)),
}


def few_images(n_per_class, *, channels=3, n_classes=3, seed=0, name="CIFAR-10 (JPEG)"):
    """Noise with a brightness of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_per_class * n_classes) % n_classes
    noise = torch.rand(len(labels), channels, 32, 32, generator=generator)
    pixels = 0.6 * noise + 0.4 * labels[:, None, None, None] / (n_classes - 1)
    return LabelledImages(pixels, labels, tuple("abcdefghij"[:n_classes]), name)


@pytest.fixture
def images():
    return few_images


@pytest.fixture(autouse=True)
def random_networks(monkeypatch, tmp_path):
    """Put networks of fixed random weights in the place of the trained ones."""

    def backbone(name):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return pretrained_backbone(name, weights=None)

    def glyphs(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SmallResNet(62).eval()

    monkeypatch.setattr(parts, "pretrained_backbone", backbone)
    for module in (_digits, finetune_cases, finetune_digits):
        monkeypatch.setattr(module, "glyph_network", glyphs)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny():
    """Return what makes an experiment with tiny settings and tiny data."""

    def tiny(name):
        channels = 1 if name == "finetune-digits" else 3
        data = {
            "train": few_images(6, channels=channels),
            "test": few_images(4, channels=channels, seed=1),
        }
        return dataclasses.replace(
            get(name),
            settings={"quick": SETTINGS[name]},
            rows=ROWS[name],
            load=lambda _: data,
        )

    return tiny


@pytest.fixture
def fits(monkeypatch):
    """Return a record of every training: its checkpoint's name, and the weights that moved."""
    done, real = [], parts.fit

    def spy(model, *arguments, **how):
        before = snapshot(model)
        real(model, *arguments, **how)
        moved = {name for name in changed(model, before) if not name.endswith("tracked")}
        done.append((how["checkpoint"].stem, moved, model))

    monkeypatch.setattr(parts, "fit", spy)
    return done
