"""Forgetting: ten classes learnt two at a time, with and without remedies.

Five steps of two classes each; after every step all classes learnt so far are tested. There are two
ways to ask, and they are problems of different difficulty:

- *all classes*: the answer is one of all classes so far, as in Fayiz et al. (2022). Only here must
  classes of different steps be told from each other;
- *step known*: somebody says of which step the image is, and the head of that step answers.

All methods have the same hidden layers, rate, batches and epochs a step; fine-tuning and LwF warm
each new head up before, for half as many epochs:

1. fine-tuning: only the new step's images, and nothing is held on to;
2. the same, from a network that was tuned on all ten classes first, as in Fayiz et al. (2022);
3. LwF: the old heads' answers on the new images are held on to. Where all classes are asked for, it
   is run twice: as one softmax over all of them, whose old part is held on to as one distribution,
   and with heads that are trained each for itself;
4. a progressive network with MLP adapters, a column a step;
5. a network of its own from scratch for each step;
6. joint training: all images of all steps so far, going on from step to step; the upper bound.

Heads and columns that were trained each for itself know their own two classes alone. Where all
classes are asked for, their logits are compared as they are.

A seed draws the weights, the order of the batches, and for CIFAR-10 the images. Rate, epochs and
widths were chosen with another seed, on a fifth of the training images held out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tlcourse.continual import (
    LearningWithoutForgetting,
    ProgressiveNetwork,
    accuracy_matrix,
    average_accuracy,
    forgetting,
    lwf_old_task_loss,
)
from tlcourse.data import few_per_class
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, load_cifar10, load_digits, say_if_other
from tlcourse.experiments.continual import _parts
from tlcourse.finetuning import extract_features
from tlcourse.models import MLP, pretrained_backbone

PER_STEP = 2  # classes
N_STEPS = 5
LABELS = {
    "tuned": "fine-tuning, tuned on all ten classes first",
    "finetune": "fine-tuning",
    "lwf": "LwF",
    "lwf-heads": "LwF, heads trained each for itself",
    "progressive": "progressive network",
    "separate": "a network for each step, from scratch",
    "joint": "joint training",
}
METHODS = {
    "all": ("tuned", "finetune", "lwf", "lwf-heads", "progressive", "joint"),
    "known": ("finetune", "lwf", "progressive", "separate", "joint"),
}
SCENARIOS = {"all": "all classes asked", "known": "step known"}


def run_digits(data: Data, settings: Settings, seed: int, _: Path) -> dict[str, float]:
    """Learn scikit-learn's digits two at a time."""
    train, test = (TensorDataset(data[p].images.flatten(1), data[p].labels) for p in PARTS)
    return forget(train, test, settings, seed)


def run_cifar10(data: Data, settings: Settings, seed: int, _: Path) -> dict[str, float]:
    """Learn CIFAR-10 two classes at a time, on the features of a frozen pre-trained network."""
    few = few_per_class(data["train"], settings["train_per_class"], seed=seed)
    train, test = (extract_features(_frozen(settings), part) for part in (few, data["test"]))
    train, test = _standardised(train, test)
    return forget(train, test, settings, seed)


def forget(
    train: TensorDataset, test: TensorDataset, settings: Settings, seed: int
) -> dict[str, float]:
    """Return a number for every row, in per cent."""
    found = {}
    for scenario, methods in METHODS.items():
        for method in methods:
            torch.manual_seed(seed)
            R = sequence_matrix(train, test, scenario, method, settings, seed)
            if scenario == "all":
                for i in range(N_STEPS):
                    found[f"all-{method}-{i + 1}"] = 100 * average_accuracy(R, i)
            else:
                found[f"known-{method}"] = 100 * average_accuracy(R)
            found[f"{scenario}-{method}-forgetting"] = 100 * forgetting(R)
    return found


def sequence_matrix(
    train: TensorDataset,
    test: TensorDataset,
    scenario: str,
    method: str,
    settings: Settings,
    seed: int,
) -> Tensor:
    """Learn the classes two at a time with one method; return the accuracy matrix, (5, 5)."""
    steps = [_classes(train, i, i) for i in range(N_STEPS)]
    so_far = [_classes(train, 0, i) for i in range(N_STEPS)]
    tests = [_classes(test, i, i) for i in range(N_STEPS)]
    go = _Go(settings, seed, one_softmax=scenario == "all" and method != "lwf-heads")
    widths = (train.tensors[0].shape[1], *settings["widths"])
    learner: _Learner
    if method == "tuned":
        learner = _Tuned(train, steps, widths, go)
    elif method in ("finetune", "lwf", "lwf-heads"):
        weight = 0.0 if method == "finetune" else settings["old_weight"]
        learner = _Heads(steps, widths, go, weight)
    elif method == "joint":
        learner = _Joint(so_far, widths, go)
    else:
        learner = _Columns(steps, widths, go, lateral=method == "progressive")

    def right(j: int) -> float:
        x, y = tests[j].tensors  # (N, D), (N,)
        with torch.no_grad():
            z = learner.logits(x)  # (N, classes so far)
        if scenario == "known":
            first = j * PER_STEP
            answers = first + z[:, first : first + PER_STEP].argmax(1)
        else:
            answers = z.argmax(1)
        return float((answers == y).double().mean())

    return accuracy_matrix(learner.learn, right, N_STEPS)


# --- the methods ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Go:
    """How everything is trained."""

    settings: Settings
    seed: int
    one_softmax: bool

    def __call__(
        self,
        model: nn.Module,
        objective: Callable[[Any, tuple[Tensor, ...]], Tensor],
        data: Dataset[Any],
        epochs: str = "epochs",
    ) -> None:
        _parts.train(model, objective, data, self.settings, self.seed, epochs=epochs)


class _Learner(Protocol):
    """Learns the steps in order; answers with the logits of all classes so far."""

    def learn(self, i: int) -> None: ...

    def logits(self, x: Tensor) -> Tensor: ...


class _Heads:
    """Fine-tuning and LwF: shared layers, and two more outputs a step."""

    def __init__(
        self, steps: list[TensorDataset], widths: tuple[int, ...], go: _Go, old_weight: float
    ) -> None:
        self.steps, self.go = steps, go
        self.net = LearningWithoutForgetting(MLP((*widths, PER_STEP)), old_weight=old_weight)

    def learn(self, i: int) -> None:
        step = TensorDataset(self.steps[i].tensors[0], self.steps[i].tensors[1] - i * PER_STEP)
        if i == 0:
            self.go(self.net, cross_entropy, step)
            return
        recording = self.net.new_task(step, PER_STEP)
        self.go(self.net.heads[-1], cross_entropy, recording.features, "warm_up_epochs")
        loss = _one_softmax_loss if self.go.one_softmax else LearningWithoutForgetting.loss
        self.go(self.net, loss, recording.answers)

    def logits(self, x: Tensor) -> Tensor:
        return torch.cat(self.net.logits(x), dim=1)


def _one_softmax_loss(net: LearningWithoutForgetting, batch: tuple[Tensor, ...]) -> Tensor:
    """LwF with one head over all classes: the old outputs are held on to together."""
    x, labels, *recorded = batch
    z = torch.cat(net.logits(x), dim=1)  # (N, classes so far)
    n_old = z.shape[1] - PER_STEP
    loss = F.cross_entropy(z, labels + n_old)
    if net.old_weight > 0:
        old = lwf_old_task_loss(
            z[:, :n_old], torch.cat(recorded, dim=1), temperature=net.temperature
        )
        loss = loss + net.old_weight * old
    return loss


class _Joint:
    """All images of all steps so far; outputs of steps to come are left out of the softmax."""

    def __init__(self, so_far: list[TensorDataset], widths: tuple[int, ...], go: _Go) -> None:
        self.so_far, self.go = so_far, go
        self.net = MLP((*widths, N_STEPS * PER_STEP))
        self.n_classes = 0

    def learn(self, i: int) -> None:
        self.n_classes = (i + 1) * PER_STEP
        self.go(self.net, self._loss, self.so_far[i])

    def _loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x, labels = batch
        z = net(x)[:, : self.n_classes]  # (N, classes so far)
        if self.go.one_softmax:
            return F.cross_entropy(z, labels)
        step, local = labels // PER_STEP, labels % PER_STEP
        own = z.unflatten(1, (-1, PER_STEP))[torch.arange(len(z)), step]  # (N, PER_STEP)
        return F.cross_entropy(own, local)

    def logits(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)[:, : self.n_classes]
        return z


class _Tuned:
    """Tuned on all classes, then fine-tuned on two at a time; always with all ten outputs."""

    def __init__(
        self, train: TensorDataset, steps: list[TensorDataset], widths: tuple[int, ...], go: _Go
    ) -> None:
        self.steps, self.go = steps, go
        self.net = MLP((*widths, N_STEPS * PER_STEP))
        self.go(self.net, cross_entropy, train)

    def learn(self, i: int) -> None:
        self.go(self.net, cross_entropy, self.steps[i])

    def logits(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return z


class _Columns:
    """A progressive network, or without lateral connections a network for each step."""

    def __init__(
        self, steps: list[TensorDataset], widths: tuple[int, ...], go: _Go, *, lateral: bool
    ) -> None:
        self.steps, self.go, self.widths, self.lateral = steps, go, widths, lateral
        self.nets: list[ProgressiveNetwork] = []

    def learn(self, i: int) -> None:
        if i == 0 or not self.lateral:
            self.nets.append(ProgressiveNetwork(self.widths[0], self.widths[1:]))
        net = self.nets[-1]
        net.add_column(PER_STEP)
        x, y = self.steps[i].tensors
        self.go(net, cross_entropy, TensorDataset(x, y - i * PER_STEP))

    def logits(self, x: Tensor) -> Tensor:
        return torch.cat(
            [net(x, column=k) for net in self.nets for k in range(len(net.columns))], dim=1
        )


# --- their parts ----------------------------------------------------------------------------------

PARTS = ("train", "test")


def _classes(data: TensorDataset, first: int, last: int) -> TensorDataset:
    """Return the samples of some steps, the labels as they are."""
    x, y = data.tensors
    step = y // PER_STEP
    chosen = (step >= first) & (step <= last)
    return TensorDataset(x[chosen], y[chosen])


def _standardised(train: TensorDataset, test: TensorDataset) -> tuple[TensorDataset, ...]:
    """Scale features by what is known from the beginning: the first step's training images."""
    first, _ = _classes(train, 0, 0).tensors  # (N, D)
    mean, deviation = first.mean(0), first.std(0).clamp(min=1.0)  # (D,): some are all but 0
    return tuple(
        TensorDataset((d.tensors[0] - mean) / deviation, d.tensors[1]) for d in (train, test)
    )


def _frozen(settings: Settings) -> nn.Module:
    backbone = pretrained_backbone(settings["network"])
    say_if_other("weights", backbone.weights_name, settings["weights"])
    return _Resized(functools.partial(backbone.preprocess, size=settings["size"]), backbone)


class _Resized(nn.Module):
    def __init__(self, preprocess: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.net = preprocess, net

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.net(self.preprocess(images))
        return features


# --- the settings ---------------------------------------------------------------------------------

DIGITS: dict[str, Any] = {
    "size": 16,
    "widths": [100, 100],
    "old_weight": 1.0,
    "rate": 3e-3,
    "weight_decay": 1e-2,
    "batch_size": 20,
    "epochs": 20,
    "warm_up_epochs": 10,
}
CIFAR10_FULL: dict[str, Any] = {
    "data": "CIFAR-10 (JPEG)",
    "network": "squeezenet1_0",
    "weights": "SqueezeNet 1.0 (compressed release)",
    "size": 96,
    "train_per_class": 500,
    "test_per_class": 100,
    "widths": [200],
    "old_weight": 1.0,
    "rate": 1e-3,
    "weight_decay": 1e-2,
    "batch_size": 50,
    "epochs": 10,
    "warm_up_epochs": 5,
}
CIFAR10_QUICK = CIFAR10_FULL | {"size": 64, "train_per_class": 50, "test_per_class": 20}


def _rows() -> tuple[Row, ...]:
    rows = []
    for method in METHODS["all"]:
        asked = f"{LABELS[method]}, {SCENARIOS['all']}"
        rows += [
            Row(f"all-{method}-{i + 1}", f"{asked}: after step {i + 1}") for i in range(N_STEPS)
        ]
        rows.append(Row(f"all-{method}-forgetting", f"{asked}: forgetting", unit="points"))
    for method in METHODS["known"]:
        asked = f"{LABELS[method]}, {SCENARIOS['known']}"
        rows.append(Row(f"known-{method}", f"{asked}: after step {N_STEPS}"))
        rows.append(Row(f"known-{method}-forgetting", f"{asked}: forgetting", unit="points"))
    return tuple(rows)


FORGETTING_DIGITS = Experiment(
    name="forgetting-digits",
    title="scikit-learn's digits, two classes at a time: what is forgotten",
    chapter="methods/continual",
    unit="average test accuracy, %",
    better="higher",
    rows=_rows(),
    source="",
    settings={"quick": DIGITS, "full": DIGITS},
    seeds={"quick": 3, "full": 10},
    load=load_digits,
    run_seed=run_digits,
)

FORGETTING_CIFAR10 = Experiment(
    name="forgetting-cifar10",
    title=(
        "CIFAR-10 (JPEG), two classes at a time, on features of a frozen SqueezeNet 1.0: what is "
        "forgotten"
    ),
    chapter="methods/continual",
    unit="average test accuracy, %",
    better="higher",
    rows=_rows(),
    source="",
    settings={"quick": CIFAR10_QUICK, "full": CIFAR10_FULL},
    seeds={"quick": 1, "full": 3},
    load=load_cifar10,
    run_seed=run_cifar10,
)
