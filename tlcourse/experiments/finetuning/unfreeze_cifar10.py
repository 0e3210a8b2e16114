"""Two ImageNet networks unfrozen layer by layer, from the head down, and one from scratch."""

from __future__ import annotations

from pathlib import Path

from tlcourse.data import few_per_class, random_crop_flip
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import load_cifar10, per_cent
from tlcourse.experiments.finetuning._parts import (
    IMAGENET,
    STRENGTHS,
    finetuning_rates,
    flip,
    from_scratch,
    imagenet_features,
    linear_head,
    train,
    with_head,
)
from tlcourse.finetuning import UnfreezeSchedule, extract_features


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Find the head on the frozen features, then unfreeze layer by layer from the end."""
    few, test = few_per_class(data["train"], settings["labels_per_class"], seed=seed), data["test"]
    found = {}
    for key, network in settings["networks"].items():
        backbone = imagenet_features(network, settings["size"])
        head = linear_head(extract_features(backbone, few), settings["strengths"])
        model = with_head(backbone, head)
        first, *later = (f"{key}-{stage}" for stage in network["stages"])
        found[first] = per_cent(model, test)

        schedule = UnfreezeSchedule(model, network["groups"][::-1])
        for name, epochs in zip(later, settings["stage_epochs"], strict=True):
            schedule.advance()
            file = folder / f"{name}.safetensors"
            train(model, finetuning_rates(model, network), few, settings, epochs, seed, file, flip)
            found[name] = per_cent(model, test)

    epochs, file = settings["scratch_epochs"], folder / "scratch.safetensors"
    scratch = from_scratch(few, settings, epochs, seed, file, random_crop_flip)
    return found | {"scratch": per_cent(scratch, test)}


# --- the settings ---------------------------------------------------------------------------------

FULL = IMAGENET | {
    "labels_per_class": 200,
    "strengths": STRENGTHS,
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
    Row("squeezenet-head", "SqueezeNet 1.0: head alone (source: ResNet-18)", 77.0),
    Row("squeezenet-fire9", "and the last fire module"),
    Row("squeezenet-fire8", "and the one before (source: ResNet-18, two layers)", 97.0),
    Row("squeezenet-fires6-7", "and the two before"),
    Row("squeezenet-all", "and all the rest"),
    Row("lite0-head", "EfficientNet-Lite0: head alone (source: ResNet-18)", 77.0),
    Row("lite0-top", "and the last convolution"),
    Row("lite0-stage7", "and the last stage (source: ResNet-18, two layers)", 97.0),
    Row("lite0-stages5-6", "and the two before"),
    Row("lite0-all", "and all the rest"),
    Row("scratch", "small residual net from scratch"),
)

UNFREEZE_CIFAR10 = Experiment(
    name="unfreeze-cifar10",
    title="Unfreezing two ImageNet networks on CIFAR-10 (JPEG), 200 images a class",
    chapter="methods/fine-tuning",
    unit="test accuracy, %",
    better="higher",
    rows=ROWS,
    source="Fayiz et al. (2022), results: ResNet-18, tuned on CIFAR-10",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 5},
    load=load_cifar10,
    run_seed=run_seed,
)
