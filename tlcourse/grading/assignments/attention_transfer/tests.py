"""Tests of the assignment on attention transfer; they run on the grader's side.

``student`` has the functions of a submission; arrays reach them as tensors. A hidden test draws its
numbers from ``rng``, which the instructor's secret seed sets.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse.grading.assignment import Failed, Tests, close
from tlcourse.grading.sandbox import Student
from tlcourse.matching import attention_map, attention_transfer_loss

tests = Tests()
# The first optimiser of a process loads much of torch.
warm_up = "import torch\ntorch.optim.SGD([torch.zeros(1)], lr=0.1)"
Generator = np.random.Generator


def numbers(rng: Generator, *shape: int) -> Tensor:
    """Return random activations, of both signs."""
    return torch.from_numpy(rng.standard_normal(shape)).float()


def sizes(rng: Generator, count: int) -> list[int]:
    """Return different sizes, so that no axis passes for another."""
    return [int(n) for n in rng.choice(np.arange(3, 11), size=count, replace=False)]


def averaged(large: Tensor, small: Tensor) -> Tensor:
    """Return the larger maps, averaged to the height and width of the smaller ones."""
    height, width = small.shape[-2:]
    return F.adaptive_avg_pool2d(large, (height, width))


def _check_map(student: Student, A: Tensor, p: float, kind: str) -> None:
    strength = A.abs() ** p
    right = attention_map(A, p) if kind == "sum" else strength.amax(1)
    mistakes = {
        "Take the absolute values first.": (A**p).sum(1) if kind == "sum" else (A**p).amax(1),
        "It is a sum over the channels, not a mean.": strength.mean(1),
        "The absolute value comes before the sum.": A.sum(1).abs() ** p,
        "The two kinds are exchanged.": strength.amax(1) if kind == "sum" else strength.sum(1),
    }
    close(student.attention_map(A, p, kind), right, what="The map", mistakes=mistakes)


@tests.visible("test-maps", 4, "One sample, two channels.")
def shown_maps(student: Student, rng: Generator) -> None:
    A = torch.tensor([[[[1.0, 0.0]], [[-2.0, 3.0]]]])
    _check_map(student, A, 2, "sum")
    _check_map(student, A, 1, "max")


@tests.hidden("test-maps", 6, "Sums over more channels, with an odd power.")
def any_sums(student: Student, rng: Generator) -> None:
    _check_map(student, numbers(rng, *sizes(rng, 4)), int(rng.choice([1, 3])), "sum")


@tests.hidden("test-maps", 6, "The largest of more channels, with an odd power.")
def any_largest(student: Student, rng: Generator) -> None:
    _check_map(student, numbers(rng, *sizes(rng, 4)), int(rng.choice([1, 3])), "max")


def _distance(student: list[Tensor], teacher: list[Tensor], weights: list[float]) -> Tensor:
    """Return the course's own loss, of each layer with its weight."""
    pairs = zip(student, teacher, weights, strict=True)
    return torch.stack([attention_transfer_loss([s], [t], beta=w) for s, t, w in pairs]).sum()


def _check_distance(
    student: Student, ours: list[Tensor], theirs: list[Tensor], weights: list[float]
) -> None:
    right = _distance(ours, theirs, weights)
    maps = []  # what a wrong way of normalising would be given
    for a, b in zip(ours, theirs, strict=True):
        small, large = a.square().sum(1), b.square().sum(1)
        maps.append((small.flatten(1), averaged(large, small).flatten(1)))
    positions = [weight * q.shape[1] for (q, _), weight in zip(maps, weights, strict=True)]
    pooled = [averaged(b, a) for a, b in zip(ours, theirs, strict=True)]

    def other(normalise: object) -> Tensor:
        assert callable(normalise)
        pairs = zip(maps, weights, strict=True)
        return torch.stack(
            [w * (normalise(q) - normalise(t)).square().mean() for (q, t), w in pairs]
        ).sum()

    mistakes = {
        "The mean is over the positions, too.": _distance(ours, theirs, positions),
        "The layers' weights are missing.": _distance(ours, theirs, [1.0] * len(weights)),
        "Divide each map by its own length.": other(lambda Q: Q),
        "Each sample's map has a length of its own, not the batch.": other(
            lambda Q: Q / Q.norm().clamp(min=1e-12)
        ),
        "The length is the root of the sum of squares, not the sum.": other(
            lambda Q: F.normalize(Q, p=1)
        ),
        "Average the map over the blocks, not the activations.": _distance(ours, pooled, weights),
    }
    found = student.attention_distance(ours, theirs, weights)
    close(found, right, what="The distance", mistakes=mistakes)


@tests.visible("test-distance", 6, "Two positions, with one layer and with two.")
def shown_distance(student: Student, rng: Generator) -> None:
    left, right = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    _check_distance(student, [left], [right], [1.0])
    _check_distance(student, [left, left], [right, right], [1.0, 3.0])


@tests.hidden("test-distance", 8, "More layers, samples and channels.")
def any_distance(student: Student, rng: Generator) -> None:
    n, height, width, ours, theirs = sizes(rng, 5)
    shapes = [(n, ours, height, width), (n, 2 * ours, width, height)]
    others = [(n, theirs, height, width), (n, theirs + 1, width, height)]
    weights = rng.uniform(0.5, 2.0, 2).tolist()
    _check_distance(
        student, [numbers(rng, *s) for s in shapes], [numbers(rng, *s) for s in others], weights
    )


@tests.hidden("test-distance", 6, "Larger maps of the teacher.")
def larger_maps(student: Student, rng: Generator) -> None:
    n, height, width, ours, theirs = sizes(rng, 5)
    k = int(rng.choice([2, 3]))
    large = numbers(rng, n, theirs, k * height, k * width)
    _check_distance(student, [numbers(rng, n, ours, height, width)], [large], [1.0])


@tests.hidden("test-distance", 6, "A sample without any activation, and one with large ones.")
def no_activation(student: Student, rng: Generator) -> None:
    n, height, width, ours, theirs = sizes(rng, 5)
    a, b = numbers(rng, n, ours, height, width), numbers(rng, n, theirs, height, width)
    a[0], a[1] = 0.0, 300 * a[1]
    _check_distance(student, [a], [b], [1.0])


def _check_gradient(student: Student, Q: Tensor, R: Tensor) -> None:
    free = Q.double().requires_grad_()
    unit = F.normalize(free)
    (unit - F.normalize(R.double())).square().sum(1).mean().backward()
    assert free.grad is not None
    right, q, r = free.grad, unit.detach(), F.normalize(R.double())
    length = Q.double().norm(dim=1, keepdim=True)
    mistakes = {
        "It is a mean over the samples: divide by N.": right * len(Q),
        "It is no mean over the positions.": right / Q.shape[1],
        "The length of Q changes with Q, too.": 2 * (q - r) / length / len(Q),
        "The square gives a factor 2.": right / 2,
        "The chain rule through Q / |Q| gives a factor 1 / |Q|.": right * length,
        "The sign is the other one.": -right,
    }
    close(student.map_gradient(Q, R), right, what="The gradient", mistakes=mistakes)


@tests.visible("test-gradient", 4, "Two samples, two positions, against autograd.")
def shown_gradient(student: Student, rng: Generator) -> None:
    _check_gradient(
        student, torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    )


@tests.hidden("test-gradient", 12, "More samples and positions.")
def any_gradient(student: Student, rng: Generator) -> None:
    n, p = sizes(rng, 2)
    _check_gradient(student, numbers(rng, n, p).square(), numbers(rng, n, p).square())


LINES = """
s, t = ours.clone().requires_grad_(), theirs.clone().requires_grad_()
loss = paper_distance(s, t)
loss.backward()
result = [loss, s.grad, torch.zeros_like(t) if t.grad is None else t.grad]
"""


def _check_paper(student: Student, ours: Tensor, theirs: Tensor) -> None:
    free = ours.clone().requires_grad_()
    right = attention_transfer_loss([free], [theirs], beta=1.0, mode="paper")
    right.backward()
    found = student.run(f"import torch\n{LINES}", ours=ours, theirs=theirs)
    if not isinstance(found, list) or len(found) != 3:
        raise Failed("The loss is no tensor with a gradient.")
    q, t = (F.normalize(A.square().sum(1).flatten(1)) for A in (ours, theirs))
    rows, columns = (
        [F.normalize(A.square().mean(1).flatten(1), dim=d) for A in (ours, theirs)] for d in (1, 0)
    )
    mistakes = {
        "One length over the whole batch is no mean of the samples' lengths.": (q - t).norm() / 2,
        "A map is normalised over its positions, not over the samples.": (
            (columns[0] - columns[1]).norm(dim=1).mean() / 2
        ),
        "The half is missing.": (rows[0] - rows[1]).norm(dim=1).mean(),
    }
    close(found[0], right, what="The distance", mistakes=mistakes)
    try:
        close(found[1], free.grad, what="The student's gradient")
    except Failed as error:
        hint = error.hint if "NaN" in error.hint else "The student's gradient is not right."
        raise Failed(str(error), hint) from None
    try:
        close(found[2], torch.zeros_like(theirs), what="The teacher's gradient", atol=0)
    except Failed as error:
        raise Failed(str(error), "A gradient reaches the teacher.") from None


@tests.visible("test-bugs", 4, "Two samples, one of which agrees.")
def shown_bugs(student: Student, rng: Generator) -> None:
    ours = torch.tensor([[[[3.0, 1.0]]], [[[1.0, 2.0]]]])
    _check_paper(student, ours, torch.tensor([[[[1.0, 2.0]]], [[[1.0, 2.0]]]]))


@tests.hidden("test-bugs", 8, "More samples and positions.")
def any_bugs(student: Student, rng: Generator) -> None:
    n, height, width, ours, theirs = sizes(rng, 5)
    _check_paper(
        student, numbers(rng, n, ours, height, width), numbers(rng, n, theirs, height, width)
    )


SIDE, NEEDED, APART = 12, 0.85, 0.4
MARKS = np.stack(
    [
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        np.eye(3),
        np.eye(3)[::-1],
    ]
)


def _pictures(rng: Generator, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures with a bright mark of one of four kinds and a dark one, maps, classes.

    The bright mark is the class, and the map is 1 where it stands. The dark one tells nothing.
    """
    x, maps = 0.3 * rng.standard_normal((n, SIDE, SIDE)), np.zeros((n, SIDE, SIDE))
    labels = rng.integers(0, 4, n)
    for k in range(n):
        row, column = rng.integers(0, SIDE // 2 - 2, 2)
        first = (slice(row, row + 3), slice(column, column + 3))
        other = (slice(9 - row, 12 - row), slice(9 - column, 12 - column))  # far from the first
        if rng.random() < 0.5:
            first, other = other, first
        x[k][first] += 1.5 * MARKS[labels[k]]
        x[k][other] -= 1.5 * MARKS[rng.integers(0, 4)]
        maps[k][first] = 1.0
    return (
        torch.from_numpy(x).float()[:, None],
        torch.from_numpy(maps).float(),
        torch.tensor(labels),
    )


def _network(state: object) -> nn.Sequential:
    """Return the student of a state dict that came as named arrays."""
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {}
    if isinstance(state, dict):
        given = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    if {name: value.shape for name, value in given.items()} != expected:
        message = "train_student should return the network's state_dict()."
        raise Failed(message, message)
    network.load_state_dict({n: torch.from_numpy(v).float() for n, v in given.items()})
    return network


@tests.visible("test-train", 4, "The state dict has the network's shapes.")
def shown_train(student: Student, rng: Generator) -> None:
    x, maps, _ = _pictures(rng, 12)
    _network(student.train_student(x, maps, torch.tensor([0, 1, 2, 3] + [-1] * 8), 4))


@tests.hidden("test-train", 10, "Looks at the right place of pictures that it has not seen.")
def learns(student: Student, rng: Generator) -> None:
    x, maps, labels = _pictures(rng, 300)
    unseen, places, classes = _pictures(rng, 1000)
    labels[60:] = -1
    network = _network(student.train_student(x, maps, labels, 4))
    with torch.no_grad():
        activations = network[:4](unseen)
        right = (network[4:](activations).argmax(1) == classes).float().mean().item()
        q, t = attention_map(activations).flatten(1), places.flatten(1)
        apart = (F.normalize(q) - F.normalize(t)).square().sum(1).mean().item()
    if not right >= NEEDED:
        hint = f"It is right on {100 * right:.0f} %; {100 * NEEDED:.0f} % are needed."
        raise Failed(hint, hint)
    if not apart <= APART:
        hint = f"Its maps are {apart:.2f} from the teacher's; at most {APART} is allowed."
        raise Failed(hint, hint)
