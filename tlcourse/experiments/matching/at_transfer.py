"""Attention transfer between fine-tuned networks: Zagoruyko and Komodakis (2017).

Teacher and student have both learnt a source task; the teacher is the larger one. The teacher is
fine-tuned on the target first. Then students with the same first weights are fine-tuned on the same
target images in three ways: on the labels alone, with distillation (KD), and with attention
transfer (AT).

In the paper, networks that know ImageNet go on to birds and to indoor scenes; in ours, networks
that know printed characters go on to handwritten digits, of two collections. A seed draws the
target's images and all weights. The weights of the losses are those of at-digits, but for that of
AT, which was chosen of 1, 3, 10 and 30 with three other draws, by the accuracy on training digits
held out.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tlcourse.data import LabelledImages, few_per_class, glyphs
from tlcourse.experiments._engine.experiment import Data, Experiment, Settings
from tlcourse.experiments._shared import cross_entropy, framed, load_digits, load_mnist, rows
from tlcourse.experiments.matching._side_by_side import (
    ON_DIGITS,
    Network,
    Students,
    side_by_side,
    train_network,
)
from tlcourse.metrics import error_rate


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the error of each way and of the teacher, in per cent."""
    source, test = data["source"], data["test"]
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    tuning = {**settings, "learning_rate": settings["tuning_rate"]}

    def pretrained(name: str) -> Network:
        network = Network(name, source, settings)
        file = folder / f"{name}-source.safetensors"
        epochs = settings["source_epochs"]
        train_network(network, cross_entropy, source, settings, epochs, seed, file)
        head = network.net.get_submodule("head")
        assert isinstance(head, nn.Linear)
        network.net.head = nn.Linear(head.in_features, few.n_classes)
        return network

    teacher, epochs = pretrained(settings["teacher"]), settings["epochs"]
    file = folder / "teacher.safetensors"
    train_network(teacher, cross_entropy, few, tuning, epochs, seed, file)
    teacher.eval()

    students = Students(pretrained(settings["student"]), teacher, settings["ways"])
    objective = side_by_side(
        teacher, settings, steps=epochs * -(-len(few) // settings["batch_size"])
    )
    file = folder / "students.safetensors"
    train_network(students, objective, few, tuning, epochs, seed, file)
    nets = {**students.nets, "teacher": teacher}
    return {way: 100 * error_rate(net, test) for way, net in nets.items()}


# --- data and settings ----------------------------------------------------------------------------


def load_characters_and_digits(settings: Settings) -> dict[str, LabelledImages]:
    """Return the printed characters and scikit-learn's digits."""
    source, _ = glyphs(settings["n_source"], 1)
    return load_digits(settings) | {"source": source}


def load_characters_and_mnist(settings: Settings) -> dict[str, LabelledImages]:
    """Return the printed characters and MNIST, with a border that makes it 32 x 32."""
    source, _ = glyphs(settings["n_source"], 1)
    parts = {name: framed(images, 2) for name, images in load_mnist(settings).items()}
    return parts | {"source": source}


FULL = ON_DIGITS | {
    "teacher": "SmallResNet-16",
    "student": "SmallResNet-4",
    "ways": ["student", "kd", "at"],
    "n_source": 12_000,
    "source_epochs": 6,
    "learning_rate": 0.05,
    "labels_per_class": 10,
    "epochs": 60,
    "tuning_rate": 0.01,
    "beta": 3.0,
}
QUICK = FULL | {"n_source": 3_000, "source_epochs": 2, "epochs": 10}
LABELS = {
    "student": "student, fine-tuned",
    "kd": "KD",
    "at": "AT",
    "teacher": "teacher, fine-tuned",
}
# Test errors in per cent, as Park and Jang quote them. ResNet-18 from ResNet-34.
CUB = (28.5, 27.0, 27.0, 26.5)
SCENES = (28.2, 28.1, 27.1, 26.0)
_SOURCE = "Zagoruyko and Komodakis (2017): ImageNet to {}, ResNet-18 from ResNet-34"


AT_TRANSFER = Experiment(
    name="at-transfer",
    title="Attention transfer while fine-tuning: printed characters to handwritten digits",
    chapter="methods/attention-transfer",
    unit="test error, %",
    better="lower",
    rows=rows(LABELS, CUB),
    source=_SOURCE.format("CUB (birds)"),
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load_characters_and_digits,
    run_seed=run_seed,
)

AT_TRANSFER_MNIST = Experiment(
    name="at-transfer-mnist",
    title="Attention transfer while fine-tuning: printed characters to MNIST, 10 labels a digit",
    chapter="methods/attention-transfer",
    unit="test error, %",
    better="lower",
    rows=rows(LABELS, SCENES),
    source=_SOURCE.format("MIT Scenes"),
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 5},
    load=load_characters_and_mnist,
    run_seed=run_seed,
)
