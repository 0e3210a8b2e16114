"""Feature extraction and fine-tuning against training from scratch, with few labels.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, few_per_class, random_crop_flip
from tlcourse.experiments.common import (
    cross_entropy,
    load_cifar10,
    load_digits,
    per_cent,
    say_if_other,
)
from tlcourse.experiments.experiment import Data, Experiment, Row, Settings
from tlcourse.finetuning import UnfreezeSchedule, extract_features, layerwise_parameter_groups
from tlcourse.models import Classifier, SmallResNet, pretrained_backbone
from tlcourse.models.pretrained import Backbone
from tlcourse.source import glyph_network
from tlcourse.training import cosine_decay, fit

Augment = Callable[[Tensor], Tensor]
# Fine-tuning takes a few epochs, and its images are only mirrored; from scratch there are many, and
# they are shifted too.
flip = functools.partial(random_crop_flip, padding=0)


# --- the experiments ------------------------------------------------------------------------------


def run_probe(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Compare probe, fine-tuning and training from scratch at several numbers of labels."""
    labels, test = settings["labels_per_class"], data["test"]
    most = few_per_class(data["train"], max(labels), seed=seed)
    # The draws are nested, so that one pass gives the features for all of them.
    features = extract_features(_imagenet_features(settings), most)
    test_features = extract_features(_imagenet_features(settings), test)
    found = {}
    for i, n in enumerate(labels):
        few = most.subset(range(n * most.n_classes))  # the first n of every class
        head = linear_head(TensorDataset(*features[: len(few)]), settings["strengths"])
        found[f"probe-{n}"] = per_cent(head, test_features)

        model, groups = with_head(_imagenet_features(settings), head), settings["groups"]
        rates = layerwise_parameter_groups(
            model, groups, settings["finetune_rate"], settings["rate_decay"]
        )
        epochs, file = settings["finetune_epochs"][i], folder / f"finetune-{n}.safetensors"
        train(model, rates, few, settings, epochs, seed, file, flip)
        found[f"finetune-{n}"] = per_cent(model, test)

        epochs, file = settings["scratch_epochs"][i], folder / f"scratch-{n}.safetensors"
        scratch = from_scratch(few, settings, epochs, seed, file, random_crop_flip)
        found[f"scratch-{n}"] = per_cent(scratch, test)
    return found


def run_unfreeze(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Find the head on the frozen features, then unfreeze layer by layer from the end."""
    few, test = few_per_class(data["train"], settings["labels_per_class"], seed=seed), data["test"]
    backbone = _imagenet_features(settings)
    head = linear_head(extract_features(backbone, few), settings["strengths"])
    model = with_head(backbone, head)
    found = {"head": per_cent(model, test)}

    names, groups = settings["stages"], settings["groups"]
    schedule = UnfreezeSchedule(model, groups[::-1])
    for name, epochs in zip(names[1:], settings["stage_epochs"], strict=True):
        schedule.advance()
        rates = layerwise_parameter_groups(
            model, groups, settings["finetune_rate"], settings["rate_decay"]
        )
        file = folder / f"{name}.safetensors"
        train(model, rates, few, settings, epochs, seed, file, flip)
        found[name] = per_cent(model, test)

    epochs, file = settings["scratch_epochs"], folder / "scratch.safetensors"
    scratch = from_scratch(few, settings, epochs, seed, file, random_crop_flip)
    return found | {"scratch": per_cent(scratch, test)}


def run_digits(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """From printed characters to handwritten digits: frozen, fine-tuned, staged, from scratch."""
    test, groups = data["test"], settings["groups"]
    found = {}
    for i, n in enumerate(settings["labels_per_class"]):
        few = few_per_class(data["train"], n, seed=seed)
        epochs = settings["epochs"][i]

        file = folder / f"scratch-{n}.safetensors"
        scratch = from_scratch(few, settings, epochs, seed, file)
        found[f"scratch-{n}"] = per_cent(scratch, test)

        backbone = glyph_network(progress=False).backbone
        head = linear_head(extract_features(backbone, few), settings["strengths"])
        found[f"frozen-{n}"] = per_cent(with_head(backbone, head), test)

        tuned = with_head(backbone, head)
        rates = layerwise_parameter_groups(
            tuned, groups, settings["finetune_rate"], settings["rate_decay"]
        )
        train(tuned, rates, few, settings, epochs, seed, folder / f"tuned-{n}.safetensors")
        found[f"finetuned-{n}"] = per_cent(tuned, test)

        staged = with_head(glyph_network(progress=False).backbone, head)
        schedule = UnfreezeSchedule(staged, groups[::-1])
        while not schedule.done:
            schedule.advance()
            rates = layerwise_parameter_groups(
                staged, groups, settings["finetune_rate"], settings["rate_decay"]
            )
            file = folder / f"staged-{n}-{schedule.stage}.safetensors"
            train(staged, rates, few, settings, epochs // (len(groups) - 1), seed, file)
        found[f"staged-{n}"] = per_cent(staged, test)
    return found


# --- their parts ----------------------------------------------------------------------------------


class Resized(nn.Module):
    """A pre-trained backbone that takes images of any size and makes its own of them.

    Images (N, C, H, W) in [0, 1] -> features (N, D). The data stays at its own 32 x 32 pixels, in
    memory and under augmentation.
    """

    def __init__(self, backbone: Backbone, size: int) -> None:
        super().__init__()
        self.net, self.size, self.n_features = backbone, size, backbone.n_features

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


def _imagenet_features(settings: Settings) -> Resized:
    backbone = pretrained_backbone(settings["network"])
    say_if_other("weights", backbone.weights_name, settings["weights"])
    return Resized(backbone, settings["size"])


# --- the settings ---------------------------------------------------------------------------------

# SqueezeNet 1.0 in groups, the earliest layers first: features.0 is the first convolution, 3 to 12
# are the fire modules 2 to 9. It has no BatchNorm, so that no running statistic can drift.
_BLOCKS = [
    [f"backbone.net.features.{i}" for i in (0, 3, 4, 5, 7)],
    [f"backbone.net.features.{i}" for i in (8, 9)],
    ["backbone.net.features.10"],
    ["backbone.net.features.12"],
    ["head"],
]
_SQUEEZENET: dict[str, Any] = {
    "network": "squeezenet1_0",
    "weights": "SqueezeNet 1.0 (compressed release)",
    "data": "CIFAR-10 (JPEG)",
    "size": 96,
    "test_per_class": 100,
    "groups": _BLOCKS,
    "finetune_rate": 2e-4,
    "rate_decay": 1.5,
    "scratch_width": 16,
    "scratch_rate": 2e-3,
    "weight_decay": 1e-2,
    "batch_size": 32,
}
PROBE_FULL = _SQUEEZENET | {
    "labels_per_class": [10, 50, 100, 500],
    "strengths": [1e-4, 1e-3, 1e-2, 1e-1],
    "finetune_epochs": [20, 8, 5, 3],
    "scratch_epochs": [100, 60, 40, 15],
}
PROBE_QUICK = PROBE_FULL | {
    "size": 64,
    "test_per_class": 50,
    "finetune_epochs": [4, 2, 1, 1],
    "scratch_epochs": [10, 8, 6, 2],
}
UNFREEZE_FULL = _SQUEEZENET | {
    "labels_per_class": 200,
    "strengths": PROBE_FULL["strengths"],
    "stages": ["head", "fire9", "fire8", "fires6-7", "all"],
    "stage_epochs": [4, 4, 4, 4],
    "scratch_epochs": 30,
}
UNFREEZE_QUICK = UNFREEZE_FULL | {
    "size": 64,
    "test_per_class": 50,
    "labels_per_class": 50,
    "stage_epochs": [2, 2, 1, 1],
    "scratch_epochs": 5,
}
DIGITS: dict[str, Any] = {
    "size": 32,
    "labels_per_class": [1, 5, 20],
    "strengths": [1.0],  # a fifth of one image per class is none: C cannot be chosen there
    "groups": [["backbone.stem", "backbone.stage1"], "backbone.stage2", "backbone.stage3", "head"],
    "epochs": [60, 60, 30],
    "finetune_rate": 3e-3,
    "rate_decay": 3.0,
    "scratch_width": 16,
    "scratch_rate": 5e-3,
    "weight_decay": 1e-2,
    "batch_size": 32,
}


def _probe_rows(labels: Sequence[int]) -> tuple[Row, ...]:
    ways = {
        "probe": "linear head on frozen features",
        "finetune": "all layers fine-tuned",
        "scratch": "small residual net from scratch",
    }
    return tuple(
        Row(f"{key}-{n}", f"{way}, {n} a class") for n in labels for key, way in ways.items()
    )


def _digits_rows(labels: Sequence[int]) -> tuple[Row, ...]:
    ways = {
        "scratch": "from scratch",
        "frozen": "linear head on frozen features",
        "finetuned": "all layers fine-tuned",
        "staged": "unfrozen stage by stage",
    }
    return tuple(
        Row(f"{key}-{n}", f"{way}, {n} a class") for n in labels for key, way in ways.items()
    )


UNFREEZE_ROWS = (
    Row("head", "head alone (source: ResNet-18)", 77.0),
    Row("fire9", "and the last fire module"),
    Row("fire8", "and the one before (source: ResNet-18, two layers)", 97.0),
    Row("fires6-7", "and the two before"),
    Row("all", "and all the rest"),
    Row("scratch", "small residual net from scratch"),
)

PROBE_CIFAR10 = Experiment(
    name="probe-cifar10",
    title="Features of SqueezeNet 1.0 (compressed release) for CIFAR-10 (JPEG), few labels",
    chapter="methods/feature-extraction",
    unit="test accuracy, %",
    better="higher",
    rows=_probe_rows(PROBE_FULL["labels_per_class"]),
    source="",
    settings={"quick": PROBE_QUICK, "full": PROBE_FULL},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_probe,
)

UNFREEZE_CIFAR10 = Experiment(
    name="unfreeze-cifar10",
    title="Unfreezing SqueezeNet 1.0 (compressed release) on CIFAR-10 (JPEG), 200 images a class",
    chapter="methods/fine-tuning",
    unit="test accuracy, %",
    better="higher",
    rows=UNFREEZE_ROWS,
    source="Fayiz et al., NMA 2022 report, Results: ResNet-18, tuned on CIFAR-10",
    settings={"quick": UNFREEZE_QUICK, "full": UNFREEZE_FULL},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_unfreeze,
)

FINETUNE_DIGITS = Experiment(
    name="finetune-digits",
    title="From printed characters to handwritten digits with 1, 5 and 20 labels a digit",
    chapter="methods/fine-tuning",
    unit="test accuracy, %",
    better="higher",
    rows=_digits_rows(DIGITS["labels_per_class"]),
    source="",
    settings={"quick": DIGITS, "full": DIGITS},
    seeds={"quick": 3, "full": 10},
    load=load_digits,
    run_seed=run_digits,
)
