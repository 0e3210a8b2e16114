"""Students of one teacher, trained side by side, in the ways of attention transfer.

They share no weight, so the gradient of the sum of their losses is for each that of its own, and
the teacher runs only once.
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

from tlcourse.data import LabelledImages, random_crop_flip, random_shift
from tlcourse.experiments._engine.experiment import Settings
from tlcourse.experiments._shared import distilled
from tlcourse.matching import activation_matching_loss, attention_transfer_loss, capture
from tlcourse.models import NetworkInNetwork, SmallResNet, WideResNet
from tlcourse.training import Objective, cosine_decay, fit, step_decay

STAGES = ("stage1", "stage2", "stage3")
NIN_WIDTHS = {"thin": 96, "wide": 192}  # 0.2 and 1.0 million weights, as in the table
LAYERS = tuple(f"net.backbone.{stage}" for stage in STAGES)
AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "crops and flips": random_crop_flip,  # reflected by 4 pixels
    "flips": functools.partial(random_crop_flip, padding=0),
    "shifts": functools.partial(random_shift, pixels=2),
}
ON_DIGITS: dict[str, Any] = {
    "size": 32,
    "batch_size": 32,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "milestones": None,
    "augmentation": "shifts",
    "temperature": 4.0,
    "alpha": 0.9,
    "mean": [0.0],
    "std": [1.0],
    "precision": "float32",
}


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
        For F-ActT, if it is among the ways: 1 x 1 convolutions from the student's channels to the
        teacher's, or identities where the numbers are the same.
    step
        How many batches were seen; part of the state, so that a resumed run goes on with it.
    """

    def __init__(self, first: Network, teacher: Network, ways: Sequence[str]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({way: copy.deepcopy(first) for way in ways})
        channels = zip(first.n_channels(), teacher.n_channels(), strict=True)
        self.adapters = nn.ModuleList(
            nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1, bias=False)
            for n_in, n_out in (channels if "act" in ways else ())
        )
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))


def side_by_side(teacher: Network, settings: Settings, steps: int) -> Objective:
    """Return the objective of all students: the sum of their losses, one forward of the teacher."""
    step: int | None = None

    def objective(students: Students, batch: tuple[Tensor, ...]) -> Tensor:
        nonlocal step  # counted here too: to read the students' own waits for the device
        step = int(students.step) if step is None else step + 1
        images, labels = batch
        with torch.no_grad(), capture(teacher, LAYERS) as found:
            v = teacher(images)
        A_T = list(found.values())
        left = 1 - step / steps  # from 1 down to 0
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
    kd = distilled(z, v, labels, settings)
    if way == "kd":
        return kd
    return kd + attention_transfer_loss(A_S, A_T, beta=left * settings["beta"], mode="code")


def repeated(few: LabelledImages, n: int) -> LabelledImages:
    """Return n images: all of the few, in turn, as often as it takes."""
    return few.subset(torch.arange(n) % len(few))


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
