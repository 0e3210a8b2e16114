"""What the experiments on few labels share: the head, the training, networks of ImageNet.

Three ways to a classifier from the same few images per class:

1. a linear head on the cached features of a frozen network, standardised (logistic regression);
2. fine-tuning: that head put on the network, then the layers below it trained too, each group of
   earlier layers more slowly, all at once or one stage after another from the end;
3. a small residual network from random weights.

A seed draws the images, and the random weights with them. Nothing is chosen on test images: the
strength of the head's regularisation is chosen on the last fifth of the drawn images, all else was
fixed beforehand with another draw of training images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, random_crop_flip
from tlcourse.experiments._engine.experiment import Row, Settings
from tlcourse.experiments._shared import cross_entropy, say_if_other
from tlcourse.finetuning import freeze, layerwise_parameter_groups
from tlcourse.models import Classifier, SmallResNet, pretrained_backbone
from tlcourse.models.pretrained import Backbone
from tlcourse.training import cosine_decay, fit

Augment = Callable[[Tensor], Tensor]
# Fine-tuning takes a few epochs, and its images are only mirrored; from scratch there are many, and
# they are shifted too.
flip = functools.partial(random_crop_flip, padding=0)


class Resized(nn.Module):
    """A pre-trained backbone that takes images of any size and makes its own of them.

    Images (N, C, H, W) in [0, 1] -> features (N, D). The data stays at its own 32 x 32 pixels, in
    memory and under augmentation.
    """

    def __init__(self, backbone: Backbone, size: int) -> None:
        super().__init__()
        # A third quicker on a CPU; the numbers are the same but for rounding.
        self.net = backbone.to(memory_format=torch.channels_last)
        self.size, self.n_features = size, backbone.n_features

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, (N, D)."""
        features: Tensor = self.net(self.net.preprocess(images, size=self.size))
        return features


def linear_head(features: TensorDataset, strengths: Sequence[float]) -> nn.Linear:
    r"""Return the linear head that logistic regression finds on standardised features.

    The standardisation is folded into the head, which so takes the features as they are:

    .. math:: W \frac{y - m}{s} + b = W' y + b', \qquad W' = W / s, \quad b' = b - W' m

    where y, m, s: (D,) are features, their means and deviations; W: (K, D) and b: (K,), K > 2.

    Parameters
    ----------
    features
        Of (N, D) features and (N,) labels, one image of every class after the other, as
        ``few_per_class`` orders them.
    strengths
        Values of scikit-learn's C to choose from. That with the fewest errors on the last fifth of
        the images, learnt on the others, is taken for all of them.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = (t.double().numpy() for t in features.tensors)  # (N, D), (N,)
    n_classes = int(y.max()) + 1

    def fitted(strength: float, n: int) -> tuple[StandardScaler, LogisticRegression]:
        scaler, model = StandardScaler(), LogisticRegression(C=strength, max_iter=5_000)
        make_pipeline(scaler, model).fit(x[:n], y[:n])
        return scaler, model

    strength = strengths[0]
    if len(strengths) > 1:
        n = len(y) * 4 // 5 // n_classes * n_classes  # whole rounds of the classes

        def right(strength: float) -> float:
            scaler, model = fitted(strength, n)
            return float(model.score(scaler.transform(x[n:]), y[n:]))

        strength = max(strengths, key=right)
    scaler, model = fitted(strength, len(y))
    weight = torch.from_numpy(model.coef_ / scaler.scale_)  # (K, D)
    bias = torch.from_numpy(model.intercept_) - weight @ torch.from_numpy(scaler.mean_)  # (K,)
    head = nn.Linear(x.shape[1], n_classes)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


def with_head(backbone: nn.Module, head: nn.Linear) -> Classifier:
    """Return a classifier of the backbone and a copy of a trained head."""
    model = Classifier(backbone, head.out_features)
    model.head.load_state_dict(head.state_dict())
    return model


def train(
    model: nn.Module,
    groups: list[dict[str, Any]],
    on: TensorDataset,
    settings: Settings,
    epochs: int,
    seed: int,
    checkpoint: Path,
    augment: Augment | None = None,
) -> None:
    """Train the parameter groups of a model in place; a killed run goes on at its checkpoint."""
    fit(
        model,
        cross_entropy,
        on,
        optimizer=torch.optim.AdamW(groups, weight_decay=settings["weight_decay"]),
        epochs=epochs,
        batch_size=settings["batch_size"],
        schedule=cosine_decay,
        augment=augment,
        seed=seed,
        checkpoint=checkpoint,
    )


def from_scratch(
    few: LabelledImages,
    settings: Settings,
    epochs: int,
    seed: int,
    checkpoint: Path,
    augment: Augment | None = None,
) -> SmallResNet:
    """Return a small residual network that learnt from these images alone."""
    width = settings["scratch_width"]
    model = SmallResNet(few.n_classes, in_channels=few.images.shape[1], width=width)
    groups = [{"params": list(model.parameters()), "lr": settings["scratch_rate"]}]
    train(model, groups, few, settings, epochs, seed, checkpoint, augment)
    return model


def imagenet_features(network: Mapping[str, Any], size: int) -> Resized:
    """Return the network that an entry of ``settings["networks"]`` names, without its head."""
    backbone = pretrained_backbone(network["name"])
    say_if_other("weights", backbone.weights_name, network["weights"])
    return Resized(backbone, size)


def finetuning_rates(model: Classifier, network: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return parameter groups for what is not frozen, BatchNorm left out: that stays as it is.

    BatchNorm in training mode replaces ImageNet's statistics by those of small batches of few
    images. On ten images a class, that costs more than fine-tuning brings.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            freeze(module)
    return layerwise_parameter_groups(model, network["groups"], network["rate"], network["decay"])


def table(ways: Mapping[str, str], labels: Sequence[int]) -> tuple[Row, ...]:
    """Return a row for each number of labels per class and each way."""
    return tuple(
        Row(f"{key}-{n}", f"{way}, {n} a class") for n in labels for key, way in ways.items()
    )


# --- the settings ---------------------------------------------------------------------------------


def _groups(*layers: Sequence[str]) -> list[list[str]]:
    return [*([f"backbone.net.features.{name}" for name in names] for names in layers), ["head"]]


# Each network in groups, the earliest layers first, with a name for the stage that unfreezes each.
# SqueezeNet: 0 is the first convolution, 3 to 12 are the fire modules 2 to 9. It has no BatchNorm.
# EfficientNet-Lite0: `top` is the last convolution, of 1 x 1 pixel.
NETWORKS: dict[str, dict[str, Any]] = {
    "squeezenet": {
        "name": "squeezenet1_0",
        "weights": "SqueezeNet 1.0 (compressed release)",
        "groups": _groups(["0", "3", "4", "5", "7"], ["8", "9"], ["10"], ["12"]),
        "stages": ["head", "fire9", "fire8", "fires6-7", "all"],
        "rate": 2e-4,
        "decay": 1.5,
    },
    "lite0": {
        "name": "efficientnet_lite0",
        "weights": "EfficientNet-Lite0 (Python package)",
        "groups": _groups(
            ["stem", "stage1", "stage2", "stage3", "stage4"],
            ["stage5", "stage6"],
            ["stage7"],
            ["top"],
        ),
        "stages": ["head", "top", "stage7", "stages5-6", "all"],
        "rate": 5e-4,
        "decay": 1.5,
    },
}
IMAGENET: dict[str, Any] = {
    "networks": NETWORKS,
    "data": "CIFAR-10 (JPEG)",
    "size": 96,
    "test_per_class": 100,
    "scratch_width": 16,
    "scratch_rate": 2e-3,
    "weight_decay": 1e-2,
    "batch_size": 32,
}
STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1]
