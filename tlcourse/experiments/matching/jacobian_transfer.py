"""Jacobians in transfer, as in Srinivas and Fleuret (2018): from ImageNet to MIT Scenes there.

The teacher knows another task: the source network, which reads 45 printed characters, frozen. The
student learns handwritten digits from a few labelled images. It has the teacher's architecture,
random weights, and beside its head for the digits a second linear head on the same features. The
second head answers the teacher's question; what it learns shapes the features.

1. CE: the labels alone;
2. oracle: the labels alone too, but the student starts from the teacher's backbone;
3. activations: on the new images, the second head's logits equal the teacher's, by squared
   distance. That is learning without forgetting (Li and Hoiem, 2016) with another distance: theirs
   is a cross-entropy at temperature 2;
4. with Jacobians: the gradient of the teacher's largest logit by the image and the same row of the
   second head point in one direction. The paper takes the Jacobians of the attention maps' largest
   value instead;
5. with attention: attention maps of the three stages, in the form of their authors' code;
6. all three.

All see the same number of images, with repetitions, and are trained side by side on the same
batches: they share no weight, so the gradient of the sum of their losses is for each that of its
own. The five untrained students start from the same weights. A seed draws the images, the weights
and the order.

The weights of activations, Jacobians and attention were chosen among 0.02, 1, 30 (the last is that
of at-digits), a tenth of these, and about a fortieth: by the accuracy on training images held out,
in the mean over the four rows that match, three other draws, and 5 and 25 labels a digit.

The students learn in train mode, where batch normalisation lets the images of a batch see one
another. So the gradient by an image that is matched is that of the whole batch's row.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse.data import few_per_class, random_shift
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import load_digits, per_cent
from tlcourse.experiments.matching._side_by_side import repeated
from tlcourse.matching import (
    activation_matching_loss,
    attention_transfer_loss,
    capture,
    jacobian_matching_loss,
)
from tlcourse.models import SmallResNet
from tlcourse.source import glyph_network
from tlcourse.training import Objective, cosine_decay, fit

# Which parts each row's loss has beside the labels.
WAYS: Mapping[str, tuple[str, ...]] = {
    "ce": (),
    "oracle": (),
    "act": ("act",),
    "act+jac": ("act", "jac"),
    "act+att": ("act", "att"),
    "act+att+jac": ("act", "att", "jac"),
}
STAGES = ("backbone.stage1", "backbone.stage2", "backbone.stage3")


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Train at each number of labels the six students, side by side."""
    train, test = data["train"], data["test"]
    teacher = glyph_network(progress=False).requires_grad_(False).eval()
    found: dict[str, float] = {}
    for n in settings["labels_per_class"]:
        few = train if n is None else few_per_class(train, n, seed=seed)
        students = new_students(teacher, train.n_classes, settings["width"])
        fit(
            students,
            side_by_side(teacher, settings),
            repeated(few, settings["steps"] * settings["batch_size"]),
            optimizer=torch.optim.Adam(students.parameters(), settings["learning_rate"]),
            epochs=1,
            batch_size=settings["batch_size"],
            schedule=cosine_decay,
            augment=lambda images: random_shift(images, settings["shift"]),
            seed=seed,
            checkpoint=folder / f"students-{name_of(n)}.safetensors",
        )
        found |= {f"{way}-{name_of(n)}": per_cent(net, test) for way, net in students.items()}
    return found


def name_of(n: int | None) -> str:
    """Return the number of labels a digit as the rows' keys have it."""
    return "all" if n is None else str(n)


class Student(nn.Module):
    """A classifier of digits with a second head for the teacher's classes.

    Images (N, C, H, W) -> logits of the digits (N, K); ``net`` is the classifier, ``answers`` the
    second head.
    """

    def __init__(self, net: SmallResNet, n_answers: int) -> None:
        super().__init__()
        self.net = net
        self.answers = nn.Linear(net.head.in_features, n_answers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the digits."""
        logits: Tensor = self.net(images)
        return logits


def new_students(teacher: SmallResNet, n_classes: int, width: int) -> nn.ModuleDict:
    """Return a student for each row: all start alike, but the oracle has the teacher's backbone."""
    first = Student(SmallResNet(n_classes, width=width), teacher.head.out_features)
    students = {way: copy.deepcopy(first) for way in WAYS}
    students["oracle"].net.backbone.load_state_dict(teacher.backbone.state_dict())
    return nn.ModuleDict(students)


def side_by_side(teacher: nn.Module, settings: Settings) -> Objective:
    """Return the objective of the six students: the sum of their losses."""

    def objective(students: nn.ModuleDict, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        teacher.to(images.device)
        with torch.no_grad(), capture(teacher, STAGES) as activations:
            v = teacher(images)  # (N, 45)
        A_T = list(activations.values())
        losses = [
            loss_of(parts, cast(Student, students[way]), teacher, images, labels, v, A_T, settings)
            for way, parts in WAYS.items()
        ]
        return torch.stack(losses).sum()

    return objective


def loss_of(
    parts: Sequence[str],
    student: Student,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    v: Tensor,
    A_T: Sequence[Tensor],
    settings: Settings,
) -> Tensor:
    """Return cross-entropy and the weighted parts; v and A_T are the teacher's, for the images."""
    seen: list[tuple[Tensor, Tensor]] = []

    def answers(x: Tensor) -> Tensor:
        features = student.net.backbone(x)  # (N, D)
        seen.append((features, student.answers(features)))
        return seen[-1][1]

    loss = torch.zeros((), device=v.device)
    with capture(student.net, STAGES) as activations:
        if "jac" in parts:  # its forward pass serves the other parts
            weight = settings["jacobian_weight"]
            loss = loss + weight * jacobian_matching_loss(answers, teacher, images)
        else:
            answers(images)
    ((features, z),) = seen
    loss = loss + F.cross_entropy(student.net.head(features), labels)
    if "act" in parts:
        loss = loss + settings["activation_weight"] * activation_matching_loss(z, v)
    if "att" in parts:
        A_S = list(activations.values())
        loss = loss + attention_transfer_loss(A_S, A_T, beta=settings["beta"], mode="code")
    return loss


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "size": 32,
    "width": 16,  # the teacher's
    "labels_per_class": [5, 10, 25, 50, None],
    "steps": 250,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "shift": 2,
    "activation_weight": 0.002,
    "jacobian_weight": 0.1,
    "beta": 3.0,
}
QUICK = FULL | {"steps": 10}
LABELS = {
    "ce": "labels (CE), untrained student",
    "oracle": "CE, pre-trained student (oracle)",
    "act": "CE + activations",
    "act+jac": "CE + activations + Jacobians",
    "act+att": "CE + activations + attention",
    "act+att+jac": "CE + activations + attention + Jacobians",
}
# Test accuracies in per cent, as Park and Jang quote them. ImageNet to MIT Scenes.
PAPER: Mapping[str, Sequence[float]] = {
    "ce": (11.64, 20.30, 35.19, 46.38, 59.33),
    "oracle": (25.93, 43.81, 57.65, 64.18, 71.42),
    "act": (17.08, 27.13, 45.08, 55.22, 65.22),
    "act+jac": (17.88, 28.25, 45.26, 56.49, 66.04),
    "act+att": (16.53, 28.35, 46.01, 57.80, 67.24),
    "act+att+jac": (18.02, 29.25, 47.31, 58.35, 67.31),
}


def _rows() -> tuple[Row, ...]:
    return tuple(
        Row(f"{way}-{name_of(n)}", f"{name_of(n)} a digit: {LABELS[way]}", figures[i])
        for i, n in enumerate(FULL["labels_per_class"])
        for way, figures in PAPER.items()
    )


JACOBIAN_TRANSFER = Experiment(
    name="jacobian-transfer",
    title="Matching logits, attention and Jacobians in transfer, printed characters to digits",
    chapter="methods/jacobian-matching",
    unit="test accuracy, %",
    better="higher",
    rows=_rows(),
    source="Srinivas and Fleuret (2018): ImageNet to MIT Scenes, 5 to all images a class",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load_digits,
    run_seed=run_seed,
)
