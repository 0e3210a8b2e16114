"""Grown networks beside fine-tuning: in width and depth, with and without normalised activations.

The source is a perceptron of three hidden layers that reads printed characters; the target is
handwritten digits. The head is new in every way:

1. fine-tuning: the layers as they are;
2. deeper: a new layer of units between the last hidden layer and the head;
3. wider: new units beside those of the last hidden layer, from random weights or as noisy copies of
   the old ones.

Each of 2 and 3 is run as it is and with normalised and scaled activations. Each way is run four
times: only what is new learns, then the last hidden layer too, then the one below it, then all.
Beside them stand the perceptron from random weights, as it is and with the new units in width, and
logistic regression on the pixels.

On a network of ImageNet, with photographs of eight surfaces: the head alone, a new layer between
the frozen features and the head, with normalised activations too, and logistic regression on the
same features.

All networks have the same images, the same batches and the same number of steps. The rate of every
way, out of 0.0003, 0.001, 0.003 and 0.01, and the size at which scaled activations begin, out of 2,
8 and 24, are those which read most of 500 training images held out, with two seeds of their own.
For the surfaces other training images are drawn for that. Where the best lay at an end, the next
candidate beyond was tried too (0.0001 or 0.03; 72).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, digits, few_per_class, glyphs, surfaces
from tlcourse.experiments._digits import on_pixels
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import per_cent
from tlcourse.experiments.finetuning._parts import Resized, linear_head
from tlcourse.experiments.finetuning._two_targets import train_steps
from tlcourse.finetuning import NormalizedScale, deepen, extract_features, freeze, widen
from tlcourse.models import MLP, pretrained_backbone

LAST = "backbone.hidden3"
WAYS = {
    "finetune": "fine-tuning",
    "deep-rand": "deeper",
    "deep-scaled": "deeper, scaled",
    "wide-rand": "wider",
    "wide-copy": "wider, from copies",
    "wide-scaled": "wider, scaled",
}
LEARNS = {  # and the hidden layers that stay as they are
    "new": ("only what is new", 3),
    "last": ("the last layer too", 2),
    "two": ("the last two too", 1),
    "all": ("all layers", 0),
}
DEEP = ("head", "deep-rand", "deep-scaled")


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of every way, in per cent."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    test, found = data["test"], {"pixels": on_pixels(few, data["test"], settings["strength"])}
    source = reader_of_print(settings["size"])
    for way in WAYS:
        for learns in LEARNS:
            chosen = settings["chosen"][f"{way}-{learns}"]
            model = learn(way, learns, few, source, chosen, settings, seed)
            found[f"{way}-{learns}"] = per_cent(model, test)
    for way in ("finetune", "wide-rand"):
        model = learn(way, "all", few, None, settings["chosen"][f"scratch-{way}"], settings, seed)
        found[f"scratch-{way}"] = per_cent(model, test)
    few = few_per_class(data["photos-train"], settings["photos_per_class"], seed=seed)
    features, exam = (
        extract_features(imagenet(settings["photo_size"]), part)
        for part in (few, data["photos-test"])
    )
    logistic = linear_head(features, [settings["photo_strength"]])
    found["photos-logistic"] = per_cent(logistic, exam)
    for way in DEEP:
        chosen = settings["chosen"][f"photos-{way}"]
        found[f"photos-{way}"] = per_cent(on_features(way, features, chosen, settings, seed), exam)
    return found


@functools.cache
def reader_of_print(size: int) -> MLP:
    """Return the source network: a perceptron that reads printed characters."""
    train, _ = glyphs(12_000, 1, size=size)
    torch.manual_seed(0)
    model = MLP((size**2, 512, 256, 256, train.n_classes))
    groups = [{"params": list(model.parameters()), "lr": 1e-3}]
    train_steps(model, groups, train, steps=3_000, batch_size=64, shift=0, seed=0)
    return model


def learn(
    way: str,
    learns: str,
    few: LabelledImages,
    source: MLP | None,
    chosen: dict[str, float],
    settings: Settings,
    seed: int,
) -> MLP:
    """Return the source network, grown and trained on the target; None is random weights."""
    torch.manual_seed(seed)
    model = MLP((few.images[0].numel(), 512, 256, 256, few.n_classes))
    if source is not None:
        model.backbone.load_state_dict(source.backbone.state_dict())
    old = [model.get_submodule(f"backbone.hidden{i}") for i in (1, 2, 3)]
    gamma = chosen.get("gamma")
    if way.startswith("deep"):
        deepen(model, LAST, settings["extra"], gamma=gamma)
    elif way.startswith("wide"):
        init = "copy+rand" if way == "wide-copy" else "rand"
        widen(model, LAST, settings["extra"], init=init, gamma=gamma)
    for layer in old[: LEARNS[learns][1]]:
        freeze(layer)
    return trained(model, few, chosen["rate"], settings["steps"], settings, seed)


def on_features(
    way: str, features: TensorDataset, chosen: dict[str, float], settings: Settings, seed: int
) -> nn.Module:
    """Return a head for the features of a frozen network, with a new layer below it or without."""
    torch.manual_seed(seed)
    x, y = features.tensors  # (N, D), (N,)
    width, extra, n_classes = x.shape[1], settings["extra"], int(y.max()) + 1
    layers: list[nn.Module]
    if way == "head":
        layers = [nn.Linear(width, n_classes)]
    else:
        layers = [nn.Linear(width, extra), nn.ReLU(), nn.Linear(extra, n_classes)]
    if way == "deep-scaled":
        gamma = chosen["gamma"]
        layers.insert(2, NormalizedScale(extra, gamma))
        layers.insert(0, NormalizedScale(width, gamma))
    model = nn.Sequential(*layers)
    return trained(model, features, chosen["rate"], settings["photo_steps"], settings, seed)


def trained(model: Any, on: Any, rate: float, steps: int, settings: Settings, seed: int) -> Any:
    """Return the model, trained where it is not frozen, in evaluation mode."""
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}]
    train_steps(model, groups, on, steps, settings["batch_size"], 0, seed)
    return model


def imagenet(size: int) -> Resized:
    """Return EfficientNet-Lite0 without its head, for images of any size."""
    return Resized(pretrained_backbone("efficientnet_lite0"), size)


def load(settings: Settings) -> dict[str, LabelledImages]:
    """Return handwritten digits and photographs of surfaces."""
    parts = [*digits(size=settings["size"]), *surfaces(n_train=100, n_test=50)]
    return dict(zip(("train", "test", "photos-train", "photos-test"), parts, strict=True))


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "size": 16,
    "labels_per_class": 20,
    "extra": 128,  # new units
    "steps": 160,
    "batch_size": 25,
    "strength": 1.0,  # scikit-learn's C, on pixels
    "photo_size": 96,
    "photos_per_class": 5,
    "photo_steps": 160,
    "photo_strength": 0.01,  # scikit-learn's C, on features
    "chosen": {
        "finetune-new": {"rate": 0.003},
        "finetune-last": {"rate": 0.01},
        "finetune-two": {"rate": 0.003},
        "finetune-all": {"rate": 0.001},
        "deep-rand-new": {"rate": 0.003},
        "deep-rand-last": {"rate": 0.003},
        "deep-rand-two": {"rate": 0.001},
        "deep-rand-all": {"rate": 0.001},
        "deep-scaled-new": {"rate": 0.003, "gamma": 24.0},
        "deep-scaled-last": {"rate": 0.003, "gamma": 2.0},
        "deep-scaled-two": {"rate": 0.003, "gamma": 2.0},
        "deep-scaled-all": {"rate": 0.003, "gamma": 8.0},
        "wide-rand-new": {"rate": 0.003},
        "wide-rand-last": {"rate": 0.01},
        "wide-rand-two": {"rate": 0.01},
        "wide-rand-all": {"rate": 0.001},
        "wide-copy-new": {"rate": 0.003},
        "wide-copy-last": {"rate": 0.01},
        "wide-copy-two": {"rate": 0.003},
        "wide-copy-all": {"rate": 0.001},
        "wide-scaled-new": {"rate": 0.003, "gamma": 24.0},
        "wide-scaled-last": {"rate": 0.003, "gamma": 8.0},
        "wide-scaled-two": {"rate": 0.001, "gamma": 2.0},
        "wide-scaled-all": {"rate": 0.003, "gamma": 24.0},
        "scratch-finetune": {"rate": 0.003},
        "scratch-wide-rand": {"rate": 0.003},
        "photos-head": {"rate": 0.001},
        "photos-deep-rand": {"rate": 0.0001},
        "photos-deep-scaled": {"rate": 0.0003, "gamma": 24.0},
    },
}
SOURCE = (
    "Wang, Ramanan and Hebert (2017), SUN-397 with AlexNet, as their ablation is shown in the "
    "slides of EE807 (other data, another network)"
)
PAPER = {
    "finetune": (53.63, 54.75, 54.29, 55.93),
    "deep-rand": (53.82, 56.47, 56.25, 57.21),
    "deep-scaled": (53.51, 56.15, 57.14, 58.07),
    "wide-rand": (53.78, 54.66, 49.72, 51.34),
    "wide-copy": (53.62, 54.35, 53.70, 55.31),
    "wide-scaled": (56.81, 56.99, 57.84, 58.95),
}


def _rows() -> list[Row]:
    rows = [Row("pixels", "digits: logistic regression on pixels")]
    for way, name in (("finetune", "from scratch"), ("wide-rand", "from scratch, wider")):
        rows.append(Row(f"scratch-{way}", f"digits: {name}"))
    for way, name in WAYS.items():
        for (learns, (words, _)), figure in zip(LEARNS.items(), PAPER[way], strict=True):
            rows.append(Row(f"{way}-{learns}", f"digits: {name}, {words}", figure))
    rows.append(Row("photos-logistic", "surfaces: logistic regression on ImageNet's features"))
    for way in DEEP:
        name = "the head alone" if way == "head" else f"a new layer, {WAYS[way]}"
        rows.append(Row(f"photos-{way}", f"surfaces: {name}"))
    return rows


GROWING = Experiment(
    name="growing",
    title="Networks that grow for the target, from printed to handwritten digits",
    chapter="methods/growing",
    unit="test accuracy, %",
    better="higher",
    rows=tuple(_rows()),
    source=SOURCE,
    settings={"quick": FULL, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load,
    run_seed=run_seed,
)
