"""The simplest baseline of probe-cifar10: logistic regression on the pixels of the same images.

A seed draws the images that probe-cifar10 learns from with this seed, and the test images are the
same. The strength of the regularisation is chosen on the last fifth of the drawn images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, few_per_class
from tlcourse.experiments._engine.experiment import Data, Experiment, Settings
from tlcourse.experiments._shared import load_cifar10, per_cent
from tlcourse.experiments.finetuning._parts import linear_head, table


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of logistic regression on pixels at several numbers of labels."""
    test, found = flat(data["test"]), {}
    for n in settings["labels_per_class"]:
        few = flat(few_per_class(data["train"], n, seed=seed))
        found[f"pixels-{n}"] = per_cent(linear_head(few, settings["strengths"]), test)
    return found


def flat(images: LabelledImages) -> TensorDataset:
    """Return the pixels side by side, (N, C H W), with their labels."""
    return TensorDataset(images.images.flatten(1), images.labels)


FULL: dict[str, Any] = {
    "data": "CIFAR-10 (JPEG)",
    "test_per_class": 100,
    "labels_per_class": [10, 50, 100, 500],
    "strengths": [1e-5, 1e-4, 1e-3],
}
PIXELS_CIFAR10 = Experiment(
    name="pixels-cifar10",
    title="Logistic regression on the pixels of CIFAR-10 (JPEG) with few labels",
    chapter="methods/feature-extraction",
    unit="test accuracy, %",
    better="higher",
    rows=table({"pixels": "logistic regression on pixels"}, FULL["labels_per_class"]),
    source="",
    settings={"quick": FULL | {"test_per_class": 50}, "full": FULL},
    seeds={"quick": 1, "full": 5},
    load=load_cifar10,
    run_seed=run_seed,
)
