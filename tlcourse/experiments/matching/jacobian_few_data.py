"""Jacobian matching with few images, as in Srinivas and Fleuret (2018), section 5.1.

A teacher is trained on all training images. A smaller student is trained on a few per class, in six
ways: on the labels (CE), on the teacher's logits (activations), on the direction of the gradient of
the teacher's largest logit (Jacobians), and on mixtures.

The paper's networks are VGG-9 and VGG-4 on CIFAR-100; ours are small residual nets on CIFAR-10, so
that its figures tell the order of the rows, not their size. Each student sees the same number of
images, with repetitions. The six are trained side by side on the same batches: they share no
weight, so the gradient of the sum of their losses is for each that of its own. The weights of the
losses were chosen with another draw, of 0.02, 0.1, 0.5 and 3, 10, 30, by the accuracy of CE +
activations and CE + Jacobians on held-out training images, summed over 10 and 100 a class.

The students learn in train mode, where batch normalisation lets the images of a batch see one
another. So the gradient by an image that is matched is that of the whole batch's row.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse.data import LabelledImages, few_per_class, random_crop_flip
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, load_cifar10, per_cent
from tlcourse.experiments.matching._side_by_side import repeated
from tlcourse.matching import activation_matching_loss, jacobian_matching_loss
from tlcourse.models import SmallResNet
from tlcourse.training import Objective, cosine_decay, fit

# Which parts each row's loss has.
WAYS: Mapping[str, tuple[str, ...]] = {
    "ce": ("ce",),
    "ce+act": ("ce", "act"),
    "ce+jac": ("ce", "jac"),
    "ce+act+jac": ("ce", "act", "jac"),
    "act": ("act",),
    "act+jac": ("act", "jac"),
}


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Train the teacher on everything, then at each number of images the six students."""
    train, test = data["train"], data["test"]

    def network(width: int) -> SmallResNet:
        channels = train.images.shape[1]
        return SmallResNet(train.n_classes, in_channels=channels, width=width)

    def learn(
        model: nn.Module, objective: Objective, on: LabelledImages, epochs: int, checkpoint: Path
    ) -> None:
        fit(
            model,
            objective,
            on,
            optimizer=torch.optim.AdamW(model.parameters(), settings["learning_rate"]),
            epochs=epochs,
            batch_size=settings["batch_size"],
            schedule=cosine_decay,
            augment=random_crop_flip,
            seed=seed,
            checkpoint=checkpoint,
        )

    teacher = network(settings["teacher_width"])
    epochs, file = settings["teacher_epochs"], folder / "teacher.safetensors"
    learn(teacher, cross_entropy, train, epochs, file)
    teacher.eval()
    found = {"teacher": per_cent(teacher, test)}
    for n in settings["labels_per_class"]:
        few = repeated(few_per_class(train, n, seed=seed), settings["student_images"])
        first = network(settings["student_width"])
        students = nn.ModuleDict({way: copy.deepcopy(first) for way in WAYS})
        file = folder / f"students-{n}.safetensors"
        learn(students, side_by_side(teacher, settings), few, 1, file)
        found |= {f"{way}-{n}": per_cent(net, test) for way, net in students.items()}
    return found


def side_by_side(teacher: nn.Module, settings: Settings) -> Objective:
    """Return the objective of the six students: the sum of their losses."""

    def objective(students: nn.ModuleDict, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            v = teacher(images)
        losses = [
            loss_of(parts, students[way], teacher, images, labels, v, settings)
            for way, parts in WAYS.items()
        ]
        return torch.stack(losses).sum()

    return objective


def loss_of(
    parts: Sequence[str],
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    v: Tensor,
    settings: Settings,
) -> Tensor:
    """Return the weighted sum of the parts; v are the teacher's logits for the images."""
    seen = []

    def looked_at(x: Tensor) -> Tensor:
        seen.append(student(x))
        return seen[-1]

    loss = torch.zeros((), device=v.device)
    if "jac" in parts:  # its forward pass gives the logits for the other parts
        loss = loss + settings["jacobian_weight"] * jacobian_matching_loss(
            looked_at, teacher, images
        )
    z = seen[-1] if seen else student(images)
    if "ce" in parts:
        loss = loss + F.cross_entropy(z, labels)
    if "act" in parts:
        loss = loss + settings["activation_weight"] * activation_matching_loss(z, v)
    return loss


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "data": "CIFAR-10 (JPEG)",
    "labels_per_class": [1, 5, 10, 50, 100, 500],
    "teacher_width": 16,
    "teacher_epochs": 4,
    "student_width": 8,
    "student_images": 38_400,
    "test_per_class": 500,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "activation_weight": 0.1,
    "jacobian_weight": 10.0,
}
QUICK = FULL | {"teacher_epochs": 1, "student_images": 320, "test_per_class": 50}
LABELS = {
    "ce": "labels (CE)",
    "ce+act": "CE + activations",
    "ce+jac": "CE + Jacobians",
    "ce+act+jac": "CE + activations + Jacobians",
    "act": "activations alone",
    "act+jac": "activations + Jacobians",
}
# Test accuracies in per cent: table 1 of the paper. CIFAR-100.
PAPER: Mapping[str, Sequence[float]] = {
    "ce": (5.69, 13.9, 20.03, 37.6, 44.92, 54.28),
    "ce+act": (12.13, 26.97, 33.92, 46.47, 50.92, 56.65),
    "ce+jac": (6.78, 23.94, 32.03, 45.71, 51.47, 53.44),
    "ce+act+jac": (13.78, 33.39, 39.55, 49.49, 52.43, 54.57),
    "act": (10.73, 28.56, 33.6, 45.73, 50.15, 56.59),
    "act+jac": (13.09, 33.31, 38.16, 47.79, 50.06, 51.33),
}


def _rows() -> tuple[Row, ...]:
    rows = [
        Row(f"{way}-{n}", f"{n} a class: {LABELS[way]}", figures[i])
        for i, n in enumerate(FULL["labels_per_class"])
        for way, figures in PAPER.items()
    ]
    return (*rows, Row("teacher", "teacher, on all training images"))


JACOBIAN_FEW_DATA = Experiment(
    name="jacobian-few-data",
    title="Matching logits and Jacobians with few images, small residual nets on CIFAR-10 (JPEG)",
    chapter="methods/jacobian-matching",
    unit="test accuracy, %",
    better="higher",
    rows=_rows(),
    source="Srinivas and Fleuret (2018), table 1: VGG-4 from VGG-9 on CIFAR-100",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_seed,
)
