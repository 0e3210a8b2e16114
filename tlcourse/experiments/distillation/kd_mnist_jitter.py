"""Does a distilled perceptron gain from a jittered transfer set? ``kd-mnist`` asks no such thing.

The teacher of ``kd-mnist`` learnt from shifted images, its student from the images as they are,
with answers that were recorded once. Here the student sees the shifted images too, and the teacher
answers each of them anew. All else is as in ``kd-mnist``.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from tlcourse.data import random_shift
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, distilled, load_mnist
from tlcourse.experiments.distillation._parts import MNIST_FULL, MNIST_QUICK, error
from tlcourse.metrics import predict
from tlcourse.models import MLP
from tlcourse.training import cosine_decay, fit


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Train the teacher of ``kd-mnist``, and one student on images that are shifted at random."""
    train, test = data["train"], data["test"]
    wide, narrow = settings["teacher_width"], settings["student_width"]
    teacher = MLP((784, wide, wide, 10), dropout=settings["teacher_dropout"])
    student = MLP((784, narrow, narrow, 10))

    def distil(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            teacher_logits = teacher.eval()(images)
        return distilled(model(images), teacher_logits, labels, settings)

    objectives = {"teacher": (teacher, cross_entropy), "jittered": (student, distil)}
    for name, (model, objective) in objectives.items():
        fit(
            model,
            objective,
            train,
            optimizer=torch.optim.Adam(model.parameters(), settings["learning_rate"], fused=True),
            epochs=settings[f"{name}_epochs"],
            batch_size=settings["batch_size"],
            schedule=cosine_decay,
            augment=functools.partial(random_shift, pixels=settings["teacher_jitter"]),
            seed=seed,
            checkpoint=folder / f"{name}.safetensors",
        )
    return {
        "teacher": error(predict(teacher, test), test.labels),
        "jittered": error(predict(student, test), test.labels),
    }


FULL = MNIST_FULL | {"jittered_epochs": 30}
QUICK = MNIST_QUICK | {"jittered_epochs": 2}

KD_MNIST_JITTER = Experiment(
    name="kd-mnist-jitter",
    title="The student of kd-mnist, distilled on jittered images",
    chapter="methods/distillation",
    unit="test error, %",
    better="lower",
    rows=(
        Row("teacher", "teacher, on jittered images", 0.67),
        Row("jittered", "student, distilled on jittered images", 0.74),
    ),
    source="Hinton, Vinyals and Dean (2015), section 3, whose student saw no jittered images",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 3},
    load=load_mnist,
    run_seed=run_seed,
)
