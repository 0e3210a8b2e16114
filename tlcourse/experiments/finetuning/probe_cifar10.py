"""Few labels: frozen features of two ImageNet networks, fine-tuned, and from scratch."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import TensorDataset

from tlcourse.data import few_per_class, random_crop_flip
from tlcourse.experiments._engine.experiment import Data, Experiment, Settings
from tlcourse.experiments._shared import load_cifar10, per_cent
from tlcourse.experiments.finetuning._parts import (
    IMAGENET,
    STRENGTHS,
    finetuning_rates,
    flip,
    from_scratch,
    imagenet_features,
    linear_head,
    table,
    train,
    with_head,
)
from tlcourse.finetuning import extract_features


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Compare probe, fine-tuning and training from scratch at several numbers of labels."""
    labels, test = settings["labels_per_class"], data["test"]
    most = few_per_class(data["train"], max(labels), seed=seed)
    draws = [most.subset(range(n * most.n_classes)) for n in labels]  # the first n of every class
    found = {}
    for key, network in settings["networks"].items():
        # The draws are nested, so that one pass gives the features for all of them.
        backbone = imagenet_features(network, settings["size"])
        features, test_features = (extract_features(backbone, data) for data in (most, test))
        for n, few, epochs in zip(labels, draws, settings["finetune_epochs"], strict=True):
            head = linear_head(TensorDataset(*features[: len(few)]), settings["strengths"])
            found[f"{key}-probe-{n}"] = per_cent(head, test_features)

            model = with_head(imagenet_features(network, settings["size"]), head)
            file = folder / f"{key}-{n}.safetensors"
            train(model, finetuning_rates(model, network), few, settings, epochs, seed, file, flip)
            found[f"{key}-finetune-{n}"] = per_cent(model, test)

    for n, few, epochs in zip(labels, draws, settings["scratch_epochs"], strict=True):
        file = folder / f"scratch-{n}.safetensors"
        scratch = from_scratch(few, settings, epochs, seed, file, random_crop_flip)
        found[f"scratch-{n}"] = per_cent(scratch, test)
    return found


# --- the settings ---------------------------------------------------------------------------------

FULL = IMAGENET | {
    "labels_per_class": [10, 50, 100, 500],
    "strengths": STRENGTHS,
    "finetune_epochs": [20, 8, 5, 3],
    "scratch_epochs": [100, 60, 40, 15],
}
QUICK = FULL | {
    "size": 64,
    "test_per_class": 50,
    "finetune_epochs": [4, 2, 1, 1],
    "scratch_epochs": [10, 8, 6, 2],
}
WAYS = {
    "squeezenet-probe": "SqueezeNet 1.0, linear head on frozen features",
    "squeezenet-finetune": "SqueezeNet 1.0, all layers fine-tuned",
    "lite0-probe": "EfficientNet-Lite0, linear head on frozen features",
    "lite0-finetune": "EfficientNet-Lite0, all layers fine-tuned",
    "scratch": "small residual net from scratch",
}

PROBE_CIFAR10 = Experiment(
    name="probe-cifar10",
    title="Two ImageNet networks on CIFAR-10 (JPEG) with few labels",
    chapter="methods/feature-extraction",
    unit="test accuracy, %",
    better="higher",
    rows=table(WAYS, FULL["labels_per_class"]),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 5},
    load=load_cifar10,
    run_seed=run_seed,
)
