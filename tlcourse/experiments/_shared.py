"""What several experiments share: the plain objective, a measure, and their data."""

from __future__ import annotations

import warnings

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, cifar10, digits, few_per_class, mnist
from tlcourse.experiments._engine.experiment import Settings
from tlcourse.metrics import accuracy


def cross_entropy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the cross-entropy of the model's logits with the labels."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def per_cent(model: nn.Module, test: TensorDataset) -> float:
    """Return the accuracy in per cent."""
    return 100.0 * accuracy(model, test)


def load_digits(settings: Settings) -> dict[str, LabelledImages]:
    """Return scikit-learn's digits at ``settings["size"]`` pixels."""
    return dict(zip(("train", "test"), digits(size=settings["size"]), strict=True))


def load_mnist(_: Settings) -> dict[str, LabelledImages]:
    """Return MNIST."""
    return dict(zip(("train", "test"), mnist(), strict=True))


def framed(data: LabelledImages, pixels: int) -> LabelledImages:
    """Return the images with a dark border: (N, C, H, W) -> (N, C, H + 2 pixels, W + 2 pixels)."""
    images = F.pad(data.images, (pixels, pixels, pixels, pixels))
    return LabelledImages(images, data.labels, data.classes, data.name)


def load_cifar10(settings: Settings) -> dict[str, LabelledImages]:
    """Return CIFAR-10, and ``settings["test_per_class"]`` of its test images if that is named."""
    train, test = cifar10()
    say_if_other("data", train.name, settings["data"])
    n = settings.get("test_per_class")
    return {"train": train, "test": test if n is None else few_per_class(test, n, seed=0)}


def say_if_other(what: str, found: str, named: str) -> None:
    """Warn where a run's data or weights are not those of the recorded result."""
    if found != named:
        warnings.warn(
            f"This run's {what}: {found}. The title and the settings name those of the recorded "
            f"result, {named}; the numbers will differ a little.",
            stacklevel=3,
        )
