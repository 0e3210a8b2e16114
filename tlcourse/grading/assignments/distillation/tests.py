"""Tests of the assignment on distillation; they run on the grader's side.

``student`` has the functions of a submission; arrays reach them as tensors. A hidden test draws its
numbers from ``rng``, which the instructor's secret seed sets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse.distillation import distillation_loss, logit_gradient, soften
from tlcourse.grading.assignment import Failed, Tests, close
from tlcourse.grading.sandbox import Student

tests = Tests()
# The first optimiser of a process loads much of torch.
warm_up = "import torch\ntorch.optim.SGD([torch.zeros(1)], lr=0.1)"
Generator = np.random.Generator


# The references: the course's own functions, where there is one.


def soft_targets(teacher_logits: Tensor, T: float) -> Tensor:
    """Return the mean of the teachers' softened probabilities."""
    return torch.stack([soften(logits, T) for logits in teacher_logits]).mean(0)


def loss(z: Tensor, p: Tensor, labels: Tensor, T: float, alpha: float) -> Tensor:
    """Return the loss with labels of -1, from the course's own for those that have one."""
    log_p = p.log() * T  # logits whose softened probabilities are p
    soft = distillation_loss(z, log_p, labels.clamp(min=0), temperature=T, alpha=1.0)
    known = labels >= 0
    hard = F.cross_entropy(z[known], labels[known]) if known.any() else torch.zeros(())
    return alpha * soft + (1 - alpha) * hard


def numbers(rng: Generator, *shape: int, scale: float = 2.0) -> Tensor:
    """Return random logits."""
    return torch.from_numpy(scale * rng.standard_normal(shape)).float()


def sizes(rng: Generator) -> tuple[int, int, float]:
    """Return N, K and a temperature; N and K differ, so that no axis passes for another."""
    n, k = rng.choice(np.arange(4, 12), size=2, replace=False)
    return int(n), int(k), float(rng.uniform(2.0, 6.0))


@tests.visible("test-soft-targets", 4, "Two teachers, one sample, two classes.")
def shown_soft_targets(student: Student, rng: Generator) -> None:
    z = torch.tensor([[[0.0, 2.0]], [[2.0, 2.0]]])
    close(student.soft_targets(z, 2.0), soft_targets(z, 2.0))


@tests.hidden("test-soft-targets", 8, "More teachers, samples and classes, another temperature.")
def any_soft_targets(student: Student, rng: Generator) -> None:
    n, k, T = sizes(rng)
    z = numbers(rng, 3, n, k)
    mistakes = {
        "Average the probabilities, not the logits.": soften(z.mean(0), T),
        "The temperature is missing.": soft_targets(z, 1.0),
        "The softmax runs over the samples; it should run over the classes.": torch.softmax(
            z / T, dim=1
        ).mean(0),
    }
    close(student.soft_targets(z, T), soft_targets(z, T), mistakes=mistakes)


@tests.hidden("test-soft-targets", 4, "Large logits.")
def large_soft_targets(student: Student, rng: Generator) -> None:
    n, k, T = sizes(rng)
    z = numbers(rng, 2, n, k, scale=500.0)
    close(student.soft_targets(z, T), soft_targets(z, T))


def _instance(rng: Generator, labelled: str) -> tuple[Tensor, Tensor, Tensor, float, float]:
    n, k, T = sizes(rng)
    labels = torch.from_numpy(rng.integers(0, k, n))
    if labelled == "some":
        labels[torch.from_numpy(rng.permutation(n)[: n // 2])] = -1
    elif labelled == "none":
        labels[:] = -1
    return (
        numbers(rng, n, k),
        soften(numbers(rng, n, k), T),
        labels,
        T,
        float(rng.uniform(0.2, 0.8)),
    )


def _check_loss(student: Student, z: Tensor, p: Tensor, y: Tensor, T: float, alpha: float) -> None:
    known = y >= 0
    soft, hard = loss(z, p, y, T, 1.0), loss(z, p, y, T, 0.0)
    mistakes = {
        "The soft term lacks the factor T^2.": alpha * soft / T**2 + (1 - alpha) * hard,
        "alpha weighs the soft term, and 1 - alpha the labels' one.": (1 - alpha) * soft
        + alpha * hard,
        "The labels' term is a mean over the labelled samples, not over all.": alpha * soft
        + (1 - alpha) * hard * known.float().mean(),
        "The labels' term takes the logits without the temperature.": alpha * soft
        + (1 - alpha) * loss(z / T, p, y, 1.0, 0.0),
        "The soft term is a cross-entropy, not the divergence KL.": alpha
        * (soft + T**2 * (p * p.log()).sum(1).mean())
        + (1 - alpha) * hard,
    }
    close(
        student.partly_labelled_loss(z, p, y, T, alpha),
        loss(z, p, y, T, alpha),
        what="The loss",
        mistakes=mistakes,
    )


@tests.visible("test-loss", 6, "Two samples, one without a label.")
def shown_loss(student: Student, rng: Generator) -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    p = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    _check_loss(student, z, p, torch.tensor([0, -1]), 2.0, 0.5)


@tests.hidden("test-loss", 8, "Half of the samples have labels.")
def some_labels(student: Student, rng: Generator) -> None:
    _check_loss(student, *_instance(rng, "some"))


@tests.hidden("test-loss", 6, "All samples have labels.")
def all_labels(student: Student, rng: Generator) -> None:
    _check_loss(student, *_instance(rng, "all"))


@tests.hidden("test-loss", 6, "No sample has a label.")
def no_labels(student: Student, rng: Generator) -> None:
    _check_loss(student, *_instance(rng, "none"))


@tests.visible("test-gradient", 4, "Two samples, three classes, against autograd.")
def shown_gradient(student: Student, rng: Generator) -> None:
    z = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
    p = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    _check_gradient(student, z, p, 3.0)


@tests.hidden("test-gradient", 12, "Other sizes, another temperature.")
def any_gradient(student: Student, rng: Generator) -> None:
    z, p, _, T, _ = _instance(rng, "none")
    _check_gradient(student, z, p, T)


def _check_gradient(student: Student, z: Tensor, p: Tensor, T: float) -> None:
    per_sample = logit_gradient(z, p.log() * T, T)  # of CE alone: (q - p) / T
    right = T**2 * per_sample / len(z)
    mistakes = {
        "The soft term is a mean over the samples: divide by N.": right * len(z),
        "The soft term has the factor T^2.": right / T**2,
        "Its chain rule through z / T gives a factor 1 / T.": right * T,
        "The sign is the other one.": -right,
    }
    close(student.soft_gradient(z, p, T), right, what="The gradient", mistakes=mistakes)


@tests.visible("test-bugs", 4, "A student that agrees, and one that does not.")
def shown_bugs(student: Student, rng: Generator) -> None:
    z = torch.tensor([[1.0, 0.0, 0.0]])
    close(student.kl_term(z, z, 4.0), 0.0)
    close(student.kl_term(z, -z, 2.0), _kl(z, -z, 2.0))


@tests.hidden("test-bugs", 8, "More samples.")
def any_bugs(student: Student, rng: Generator) -> None:
    n, k, T = sizes(rng)
    z, v = numbers(rng, n, k), numbers(rng, n, k)
    right = _kl(z, v, T)
    mistakes = {
        'reduction="mean" divides by the number of classes, too.': right / k,
        "The student's logits are not softened.": T**2
        * F.kl_div(F.log_softmax(z, 1), soften(v, T), reduction="batchmean"),
        "One softmax runs over the samples.": T**2
        * F.kl_div(F.log_softmax(z / T, 1), torch.softmax(v / T, 0), reduction="batchmean"),
    }
    close(student.kl_term(z, v, T), right, mistakes=mistakes)


def _kl(z: Tensor, v: Tensor, T: float) -> Tensor:
    p, q = soften(v, T), soften(z, T)
    return T**2 * (p * (p / q).log()).sum(1).mean()


@tests.visible("test-train", 4, "The state dict has the network's shapes.")
def shown_train(student: Student, rng: Generator) -> None:
    x = numbers(rng, 30, 20)
    p = torch.softmax(x[:, :4], dim=1)
    _network(student.train_student(x, p, torch.full((30,), -1), 2.0), 4)


@tests.hidden("test-train", 10, "Right on samples that it has not seen.")
def learns(student: Student, rng: Generator) -> None:
    k = 6
    teacher = _teacher(rng, k)
    x, unseen = numbers(rng, 400, 20, scale=1.0), numbers(rng, 2000, 20, scale=1.0)
    labels = torch.full((400,), -1)
    labels[:6] = teacher(x[:6]).argmax(1)
    p = soften(teacher(x), 2.0)
    network = _network(student.train_student(x, p, labels, 2.0), k)
    with torch.no_grad():
        right = (network(unseen).argmax(1) == teacher(unseen).argmax(1)).float().mean().item()
    if right < NEEDED:
        hint = f"It is right on {100 * right:.0f} %; {100 * NEEDED:.0f} % are needed."
        raise Failed(hint, hint)


NEEDED = 0.85


def _teacher(rng: Generator, k: int) -> Callable[[Tensor], Tensor]:
    weights = numbers(rng, 20, k, scale=1.0)
    return lambda x: x @ weights


def _network(state: object, k: int) -> nn.Module:
    """Return the student of a state dict that came as named arrays."""
    network = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, k))
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {}
    if isinstance(state, dict):
        given = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    if {name: value.shape for name, value in given.items()} != expected:
        message = "train_student should return the network's state_dict()."
        raise Failed(message, message)
    network.load_state_dict({n: torch.from_numpy(v).float() for n, v in given.items()})
    return network
