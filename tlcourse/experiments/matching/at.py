"""Attention transfer, activation transfer and distillation: Zagoruyko and Komodakis (2017).

For every pair of networks a teacher is trained on its own; then small networks of one shape and one
set of first weights are trained in several ways: on the labels alone, with attention transfer (AT),
with full-activation transfer (F-ActT), with distillation (KD), and with AT and KD together.

The students of a pair are trained side by side on the same batches. They share no weight, so the
gradient of the sum of their losses is for each that of its own, and the teacher runs only once. A
network that is the student of two pairs is trained alone once, with the first of them; the students
of the second pair begin with other weights.

Where there is no GPU, at-cifar10 takes a short schedule: small enough for two cores, it stops long
before the networks have learnt what they can. Its images, steps and rates were chosen on held-out
training images with another draw; the weights of the losses are the paper's, except where a setting
says otherwise. bfloat16 halves its time on processors that compute in it; on others it is slow.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse.data import LabelledImages, few_per_class, random_crop_flip, random_shift
from tlcourse.distillation import distillation_loss
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, load_cifar10, load_digits
from tlcourse.matching import activation_matching_loss, attention_transfer_loss, capture
from tlcourse.metrics import error_rate
from tlcourse.models import NetworkInNetwork, SmallResNet, WideResNet
from tlcourse.training import Objective, cosine_decay, fit, step_decay

STAGES = ("stage1", "stage2", "stage3")
NIN_WIDTHS = {"thin": 96, "wide": 192}  # 0.2 and 1.0 million weights, as in the table
LAYERS = tuple(f"net.backbone.{stage}" for stage in STAGES)


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Train each teacher once, and each pair's students in all ways, side by side."""
    train, test = data["train"], data["test"]
    few = _draw(train, settings["student_images_per_class"], seed)
    many = _draw(train, settings["teacher_images_per_class"], seed)
    teachers: dict[str, Network] = {}
    alone: dict[str, float] = {}
    found: dict[str, float] = {}
    for student_name, teacher_name in settings["pairs"]:
        if teacher_name not in teachers:
            teacher = Network(teacher_name, train, settings)
            file = folder / f"{teacher_name}.safetensors"
            train_network(
                teacher, cross_entropy, many, settings, settings["teacher_epochs"], seed, file
            )
            teachers[teacher_name] = teacher.eval()
        teacher = teachers[teacher_name]

        pair = f"{student_name}-from-{teacher_name}"
        ways = [w for w in settings["ways"] if w != "student" or student_name not in alone]
        students = Students(Network(student_name, train, settings), teacher, ways, settings)
        epochs, file = settings["student_epochs"], folder / f"{pair}.safetensors"
        steps = epochs * -(-len(few) // settings["batch_size"])
        objective = side_by_side(teacher, settings, steps)
        train_network(students, objective, few, settings, epochs, seed, file)

        errors = {way: 100 * error_rate(net, test) for way, net in students.nets.items()}
        alone.setdefault(student_name, errors.get("student", float("nan")))
        errors |= {"student": alone[student_name], "teacher": 100 * error_rate(teacher, test)}
        found |= {f"{pair}-{way}": error for way, error in errors.items()}
    return found


class Network(nn.Module):
    """A network by its name, with the normalisation of its images and its precision.

    ``WRN-16-2``, ``NIN-thin`` or ``SmallResNet-16``; images (N, C, H, W) in [0, 1] -> logits (N, K)
    in float32.
    """

    def __init__(self, name: str, data: LabelledImages, settings: Settings) -> None:
        super().__init__()
        channels, (kind, *sizes) = data.images.shape[1], name.split("-")
        self.net: nn.Module
        if kind == "WRN":
            depth, width = map(int, sizes)
            self.net = WideResNet(depth, width, data.n_classes, in_channels=channels)
        elif kind == "NIN":
            width = NIN_WIDTHS[sizes[0]]
            self.net = NetworkInNetwork(width, data.n_classes, in_channels=channels)
        else:
            (width,) = map(int, sizes)
            self.net = SmallResNet(data.n_classes, in_channels=channels, width=width)
        self.mean: Tensor
        self.std: Tensor
        for buffer in ("mean", "std"):
            value = torch.tensor(settings[buffer]).view(1, -1, 1, 1)
            self.register_buffer(buffer, value, persistent=False)
        self.dtype = getattr(torch, settings["precision"])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        x = (images - self.mean) / self.std
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.net(x)
        return logits.float()

    def n_channels(self) -> list[int]:
        """Return the channels of each stage's output."""
        backbone = self.net.get_submodule("backbone")
        last = [list(backbone.get_submodule(stage).modules()) for stage in STAGES]
        convolutions = [[m for m in modules if isinstance(m, nn.Conv2d)] for modules in last]
        return [found[-1].out_channels for found in convolutions]


class Students(nn.Module):
    """Students of one teacher that share no weights, one for each way to train them.

    Attributes
    ----------
    nets
        The students by way, all with the same first weights.
    adapters
        For F-ActT, 1 x 1 convolutions from the student's channels to the teacher's, or identities
        where the numbers are the same.
    step
        How many batches were seen; part of the state, so that a resumed run goes on with it.
    """

    def __init__(
        self, first: Network, teacher: Network, ways: Sequence[str], settings: Settings
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({way: copy.deepcopy(first) for way in ways})
        self.adapters = nn.ModuleList(
            nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)
            for n_in, n_out in zip(first.n_channels(), teacher.n_channels(), strict=True)
        )
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))


def side_by_side(teacher: Network, settings: Settings, steps: int) -> Objective:
    """Return the objective of all students: the sum of their losses, one forward of the teacher."""

    def objective(students: Students, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        with torch.no_grad(), capture(teacher, LAYERS) as found:
            v = teacher(images)
        A_T = list(found.values())
        left = 1 - int(students.step) / steps  # from 1 down to 0
        students.step += 1
        total = torch.zeros((), device=v.device)
        for way, net in students.nets.items():
            with capture(net, LAYERS) as found:
                z = net(images)
            A_S = list(found.values())
            if way == "act":
                adapters = zip(students.adapters, A_S, strict=True)
                A_S = [adapter(A.float()) for adapter, A in adapters]
            total = total + loss_of(way, z, A_S, labels, v, A_T, settings, left)
        return total

    return objective


def loss_of(
    way: str,
    z: Tensor,
    A_S: Sequence[Tensor],
    labels: Tensor,
    v: Tensor,
    A_T: Sequence[Tensor],
    settings: Settings,
    left: float,
) -> Tensor:
    """Return the loss of one way: logits z and v, activations A_S and A_T, the part still to run.

    As in the paper's section 4.1, the weight of F-ActT, and that of AT beside KD, decays; the paper
    does not say how, here it falls in a straight line.
    """
    if way == "student":
        return F.cross_entropy(z, labels)
    if way == "at":
        at = attention_transfer_loss(A_S, A_T, beta=settings["beta"], mode="code")
        return F.cross_entropy(z, labels) + at
    if way == "at-paper":
        at = attention_transfer_loss(A_S, A_T, beta=settings["beta_paper"], mode="paper")
        return F.cross_entropy(z, labels) + at
    if way == "act":
        unit_S, unit_T = (
            [F.normalize(A.float().flatten(1)) for A in found] for found in (A_S, A_T)
        )
        act = activation_matching_loss(unit_S, unit_T)
        return F.cross_entropy(z, labels) + left * settings["act_weight"] * act
    T, alpha = settings["temperature"], settings["alpha"]
    kd = distillation_loss(z, v, labels, temperature=T, alpha=alpha)
    if way == "kd":
        return kd
    return kd + attention_transfer_loss(A_S, A_T, beta=left * settings["beta"], mode="code")


def _draw(train: LabelledImages, n: int | None, seed: int) -> LabelledImages:
    return train if n is None else few_per_class(train, n, seed=seed)


def train_network(
    model: nn.Module,
    objective: Objective,
    on: LabelledImages,
    settings: Settings,
    epochs: int,
    seed: int,
    checkpoint: Path,
) -> None:
    """Train by stochastic gradient descent, as the settings say."""
    milestones = settings["milestones"]
    fit(
        model,
        objective,
        on,
        optimizer=torch.optim.SGD(
            model.parameters(),
            settings["learning_rate"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
        ),
        epochs=epochs,
        batch_size=settings["batch_size"],
        schedule=cosine_decay if milestones is None else step_decay(milestones, 0.2),
        augment=AUGMENTATIONS[settings["augmentation"]],
        seed=seed,
        checkpoint=checkpoint,
    )


# --- the settings ---------------------------------------------------------------------------------

AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "crops and flips": random_crop_flip,  # reflected by 4 pixels
    "flips": functools.partial(random_crop_flip, padding=0),
    "shifts": functools.partial(random_shift, pixels=2),
}
WAYS = {
    "student": "student alone",
    "at": "AT",
    "act": "F-ActT",
    "kd": "KD",
    "at+kd": "AT + KD",
    "teacher": "teacher",
}
DIGITS_WAYS = {
    "student": "student alone",
    "at": "AT, the authors' form",
    "at-paper": "AT, the paper's form",
    "act": "F-ActT",
    "kd": "KD",
    "at+kd": "AT + KD",
    "teacher": "teacher",
}
# Test errors in per cent, medians of 5 runs: table 1 of the paper, the lecture's table.
PAPER: Mapping[tuple[str, str], Sequence[float]] = {
    ("WRN-16-1", "WRN-16-2"): (8.77, 7.93, 8.51, 7.41, 7.51, 6.31),
    ("WRN-16-1", "WRN-40-1"): (8.77, 8.25, 8.62, 8.39, 8.01, 6.58),
    ("WRN-16-2", "WRN-40-2"): (6.31, 5.85, 6.24, 6.08, 5.71, 5.23),
}
PAPER_NIN: Mapping[tuple[str, str], Sequence[float]] = {
    ("NIN-thin", "NIN-wide"): (9.38, 8.93, 9.05, 8.55, 8.33, 7.28),
}
CIFAR_FULL: dict[str, Any] = {
    "data": "CIFAR-10 (JPEG)",
    "pairs": [list(pair) for pair in PAPER],
    "ways": [way for way in WAYS if way != "teacher"],
    "student_images_per_class": None,
    "teacher_images_per_class": None,
    "student_epochs": 200,
    "teacher_epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "milestones": [0.3, 0.6, 0.8],
    "augmentation": "crops and flips",
    "beta": 1e3,
    "act_weight": 1.0,
    "temperature": 4.0,
    "alpha": 0.9,
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.2470, 0.2435, 0.2616],
    "precision": "float32",
}
CIFAR_SHORT = CIFAR_FULL | {
    "schedule": "Short schedule without a GPU: each teacher sees 30,000 training images once, each "
    "student 2,000 of them six times, instead of all 50,000 two hundred times; errors are on 3,000 "
    "of the 10,000 test images",
    "test_per_class": 300,
    "student_images_per_class": 200,
    "teacher_images_per_class": 3000,
    "student_epochs": 6,
    "teacher_epochs": 1,
    "batch_size": 32,
    "milestones": None,
    "augmentation": "flips",
    "precision": "bfloat16",
}
CIFAR_QUICK = CIFAR_SHORT | {
    "schedule": "A trial of the code: 400 images a student, 1,000 a teacher, one epoch",
    "test_per_class": 50,
    "student_images_per_class": 40,
    "teacher_images_per_class": 100,
    "student_epochs": 1,
}
DIGITS: dict[str, Any] = {
    "size": 32,
    "pairs": [["SmallResNet-4", "SmallResNet-16"]],
    "ways": [way for way in DIGITS_WAYS if way != "teacher"],
    "student_images_per_class": 10,
    "teacher_images_per_class": None,
    "student_epochs": 60,
    "teacher_epochs": 20,
    "batch_size": 32,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "milestones": None,
    "augmentation": "shifts",
    # 1e3 belongs to maps of 32 x 32 to 8 x 8; these are of 16 x 16 to 4 x 4. Of 300 held-out images
    # 1e3 misread 47 in 100, and 30 misread 10, the fewest of 3, 10, 30, 300 and 1e3.
    "beta": 30.0,
    "beta_paper": 1.0,
    "act_weight": 1.0,
    "temperature": 4.0,
    "alpha": 0.9,
    "mean": [0.0],
    "std": [1.0],
    "precision": "float32",
}


def _cifar_rows(
    paper: Mapping[tuple[str, str], Sequence[float]],
) -> tuple[Row, ...]:
    return tuple(
        Row(f"{student}-from-{teacher}-{way}", f"{student} from {teacher}: {label}", figure)
        for (student, teacher), figures in paper.items()
        for (way, label), figure in zip(WAYS.items(), figures, strict=True)
    )


def _digits_rows() -> tuple[Row, ...]:
    ((student, teacher),) = DIGITS["pairs"]
    return tuple(
        Row(f"{student}-from-{teacher}-{way}", label) for way, label in DIGITS_WAYS.items()
    )


_SOURCE = (
    "Zagoruyko and Komodakis (2017), table 1, medians of 5 runs of 200 epochs on all of CIFAR-10; "
    "the lecture's table"
)

AT_CIFAR10 = Experiment(
    name="at-cifar10",
    title="Attention transfer between wide residual networks on CIFAR-10 (JPEG)",
    chapter="methods/matching-features",
    unit="test error, %",
    better="lower",
    rows=_cifar_rows(PAPER),
    source=_SOURCE,
    settings={"quick": CIFAR_QUICK, "full": CIFAR_FULL, "full, without a GPU": CIFAR_SHORT},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_seed,
)

_NIN_PAIRS = {"pairs": [list(pair) for pair in PAPER_NIN]}

AT_CIFAR10_NIN = Experiment(
    name="at-cifar10-nin",
    title="Attention transfer between networks in networks on CIFAR-10 (JPEG)",
    chapter="methods/matching-features",
    unit="test error, %",
    better="lower",
    rows=_cifar_rows(PAPER_NIN),
    source=_SOURCE,
    settings={
        name: settings | _NIN_PAIRS
        for name, settings in (
            ("quick", CIFAR_QUICK),
            ("full", CIFAR_FULL),
            ("full, without a GPU", CIFAR_SHORT),
        )
    },
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_seed,
)

AT_DIGITS = Experiment(
    name="at-digits",
    title="Attention transfer into a quarter of the channels on scikit-learn's digits, in seconds",
    chapter="methods/matching-features",
    unit="test error, %",
    better="lower",
    rows=_digits_rows(),
    source="",
    settings={"quick": DIGITS, "full": DIGITS},
    seeds={"quick": 3, "full": 10},
    load=load_digits,
    run_seed=run_seed,
)
