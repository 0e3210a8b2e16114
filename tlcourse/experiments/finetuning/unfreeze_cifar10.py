"""Unfreezing SqueezeNet layer by layer, from the head down, against training from scratch."""

from __future__ import annotations

from pathlib import Path

from tlcourse.data import few_per_class, random_crop_flip
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import load_cifar10, per_cent
from tlcourse.experiments.finetuning._parts import (
    SQUEEZENET,
    STRENGTHS,
    flip,
    from_scratch,
    imagenet_features,
    linear_head,
    train,
    with_head,
)
from tlcourse.finetuning import UnfreezeSchedule, extract_features, layerwise_parameter_groups


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Find the head on the frozen features, then unfreeze layer by layer from the end."""
    few, test = few_per_class(data["train"], settings["labels_per_class"], seed=seed), data["test"]
    backbone = imagenet_features(settings)
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


# --- the settings ---------------------------------------------------------------------------------

FULL = SQUEEZENET | {
    "labels_per_class": 200,
    "strengths": STRENGTHS,
    "stages": ["head", "fire9", "fire8", "fires6-7", "all"],
    "stage_epochs": [4, 4, 4, 4],
    "scratch_epochs": 30,
}
QUICK = FULL | {
    "size": 64,
    "test_per_class": 50,
    "labels_per_class": 50,
    "stage_epochs": [2, 2, 1, 1],
    "scratch_epochs": 5,
}
ROWS = (
    Row("head", "head alone (source: ResNet-18)", 77.0),
    Row("fire9", "and the last fire module"),
    Row("fire8", "and the one before (source: ResNet-18, two layers)", 97.0),
    Row("fires6-7", "and the two before"),
    Row("all", "and all the rest"),
    Row("scratch", "small residual net from scratch"),
)

UNFREEZE_CIFAR10 = Experiment(
    name="unfreeze-cifar10",
    title="Unfreezing SqueezeNet 1.0 (compressed release) on CIFAR-10 (JPEG), 200 images a class",
    chapter="methods/fine-tuning",
    unit="test accuracy, %",
    better="higher",
    rows=ROWS,
    source="Fayiz et al., NMA 2022 report, Results: ResNet-18, tuned on CIFAR-10",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_seed,
)
