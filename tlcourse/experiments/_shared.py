"""What several experiments share: objectives, a measure, their data, and tables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, cifar10, digits, few_per_class, mnist
from tlcourse.distillation import distillation_loss
from tlcourse.experiments._engine.experiment import Row, Settings
from tlcourse.metrics import accuracy


def cross_entropy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the cross-entropy of the model's logits with the labels."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def distilled(z: Tensor, v: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Return the distillation loss of logits z (N, K), the teacher's v (N, K), and the labels."""
    T, alpha = settings["temperature"], settings["alpha"]
    return distillation_loss(z, v, labels, temperature=T, alpha=alpha)


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


def rows(
    labels: Mapping[str, str],
    figures: Sequence[float | None] | None = None,
    *,
    key: str = "{}",
    label: str = "{}",
) -> tuple[Row, ...]:
    """Return a row for each label by key, with the source's figures in that order.

    ``key`` and ``label`` say what stands around each, such as ``"{}, 5 a class"``.
    """
    papers = [None] * len(labels) if figures is None else figures
    pairs = zip(labels.items(), papers, strict=True)
    return tuple(Row(key.format(k), label.format(text), paper) for (k, text), paper in pairs)
