"""Tests of the assignment on SpotTune; they run on the grader's side.

Modules do not cross. The student's side builds them from a few lines and the weights that the test
sends, and sends back outputs, gradients and state dicts; the reference does the same on this side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlcourse.adaptive import global_k_loss
from tlcourse.adaptive.spottune import RoutedBlock
from tlcourse.grading.assignment import Failed, Tests, close
from tlcourse.grading.sandbox import Student

tests = Tests()
warm_up = "import torch\ntorch.zeros(1, requires_grad=True).sum().backward()"
Generator = np.random.Generator
State = dict[str, Tensor]


def numbers(rng: Generator, *shape: int) -> Tensor:
    """Return random numbers."""
    return torch.from_numpy(rng.standard_normal(shape)).float()


def uniform(rng: Generator, *shape: int) -> Tensor:
    """Return what the noise is made of, away from 0 and 1."""
    return torch.from_numpy(rng.uniform(0.01, 0.99, shape)).float()


def sizes(rng: Generator, count: int) -> list[int]:
    """Return different sizes, so that no axis passes for another."""
    return [int(n) for n in rng.choice(np.arange(4, 12), size=count, replace=False)]


SHOWN = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.5], [0.9, 0.5]])


def _tuned(noisy: Tensor) -> Tensor:
    return (noisy[..., 1] > noisy[..., 0]).float()


def _check_draw(student: Student, a: Tensor, u: Tensor) -> None:
    right = _tuned(a - torch.log(-torch.log(u)))
    mistakes = {
        "Index 1 is the tuned copy's.": 1 - right,
        "The noise is missing.": _tuned(a),
        "u is not the noise yet: G = -log(-log u).": _tuned(a + u),
        "The noise has the wrong sign.": _tuned(a + torch.log(-torch.log(u))),
    }
    close(student.draw(a, u), right, what="The decisions", mistakes=mistakes)


@tests.visible("test-draw", 4, "Two decisions.")
def shown_draw(student: Student, rng: Generator) -> None:
    _check_draw(student, *SHOWN)


@tests.hidden("test-draw", 10, "Decisions for many samples and blocks.")
def any_draw(student: Student, rng: Generator) -> None:
    n, blocks = sizes(rng, 2)
    shape = (5 * n, blocks, 2)
    _check_draw(student, numbers(rng, *shape), uniform(rng, *shape))


LINES = """
a = logits.clone().requires_grad_()
decisions = straight_through(a, u, T)
(decisions * weight).sum().backward()
result = [decisions, a.grad]
"""


def _check_slope(student: Student, logits: Tensor, u: Tensor, T: float, weight: Tensor) -> None:
    noise = -torch.log(-torch.log(u))

    def slope(G: Tensor, temperature: float) -> Tensor:
        a = logits.clone().requires_grad_()
        (torch.softmax((a + G) / temperature, -1)[..., 1] * weight).sum().backward()
        assert a.grad is not None
        return a.grad

    found = student.run(LINES, logits=logits, u=u, T=T, weight=weight)
    if not isinstance(found, list) or len(found) != 2:
        raise Failed("The decisions are no tensor with a gradient.")
    right = _tuned(logits + noise)
    soft = torch.softmax((logits + noise) / T, -1)[..., 1]
    mistakes = {
        "The decisions are soft; forwards they are 0 or 1.": soft,
        "Index 1 is the tuned copy's.": 1 - right,
    }
    close(found[0], right, what="The decisions", mistakes=mistakes)
    mistakes = {
        "The noise belongs into the soft decision, too.": slope(torch.zeros_like(u), T),
        "The temperature is missing in the soft decision.": slope(noise, 1.0),
        "The gradient is that of y_1, not of y_0.": -slope(noise, T),
    }
    close(found[1], slope(noise, T), what="The gradient", mistakes=mistakes)


@tests.visible("test-straight-through", 4, "Two decisions.")
def shown_slope(student: Student, rng: Generator) -> None:
    _check_slope(student, *SHOWN, 5.0, torch.ones(2))


@tests.hidden("test-straight-through", 8, "One block, other numbers.")
def any_slope(student: Student, rng: Generator) -> None:
    (n,) = sizes(rng, 1)
    T = float(rng.uniform(2.0, 6.0))
    _check_slope(student, numbers(rng, n, 2), uniform(rng, n, 2), T, numbers(rng, n))


@tests.hidden("test-straight-through", 6, "Many blocks, a low temperature.")
def slope_of_blocks(student: Student, rng: Generator) -> None:
    n, blocks = sizes(rng, 2)
    shape = (n, blocks)
    T = float(rng.uniform(0.3, 0.7))
    _check_slope(student, numbers(rng, *shape, 2), uniform(rng, *shape, 2), T, numbers(rng, *shape))


BUILD = """
import torch
from torch import nn
def _block(width, kind):
    if kind == "flat":
        return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
def _loaded(state, width, kind):
    block = _block(width, kind)
    block.load_state_dict(state)
    return block
"""


def build(width: int, kind: str) -> nn.Sequential:
    """Return the block that `BUILD` makes on the other side."""
    if kind == "flat":
        return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())


def weights(rng: Generator, width: int, kind: str = "flat") -> State:
    """Return a block's state dict, from the seed alone."""
    state: State = build(width, kind).state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.copy_(torch.from_numpy(rng.uniform(0.5, 2.0, width)))
        elif not name.endswith("tracked"):
            value.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(value.shape))))
    return state


class Case:
    """A block's weights, a batch and decisions, and what is added to the tuned copy's weights."""

    def __init__(self, rng: Generator, kind: str) -> None:
        n, self.width = sizes(rng, 2)
        self.kind, self.state = kind, weights(rng, self.width, kind)
        shape = (n, self.width) if kind == "flat" else (n, self.width, 5, 6)
        self.x = numbers(rng, *shape)
        self.decisions = torch.from_numpy(rng.permutation(np.arange(n) % 2)).float()
        self.moved = numbers(rng, *self.state["0.weight"].shape)

    def ask(self, student: Student, lines: str) -> Any:
        """Run lines beside the student's names: a block, its `Routed`, x and the decisions."""
        start = "block = _loaded(state, width, kind)\nrouted = Routed(block)\n"
        start += "with torch.no_grad(): routed.tuned[0].weight += moved\n"
        values = {"state": self.state, "width": self.width, "kind": self.kind, "x": self.x}
        values |= {"decisions": self.decisions, "moved": self.moved}
        return student.run(BUILD + start + lines, **values)

    def routed(self) -> RoutedBlock:
        """Return the course's own."""
        block = build(self.width, self.kind)
        block.load_state_dict(self.state)
        routed = RoutedBlock(block)
        with torch.no_grad():
            routed.tuned[0].weight += self.moved  # type: ignore[index]
        return routed


def _check_mixed(student: Student, case: Case) -> None:
    routed = case.routed().eval()
    found = case.ask(student, "routed.eval()\nresult = routed(x, decisions)")
    I = case.decisions[:, None]  # noqa: E741
    with torch.no_grad():
        right = routed.mixed(case.x, I)
        mistakes = {
            "The two copies are exchanged.": routed.mixed(case.x, 1 - I),
            "The copies share their memory.": routed.mixed(case.x, torch.ones_like(I)),
            "One sample's decision is not another's.": routed.mixed(
                case.x, I.mean().expand(len(I), 1)
            ),
        }
    close(found, right, what="The output", mistakes=mistakes)


@tests.visible("test-routed", 6, "A linear block, at the test.")
def shown_routed(student: Student, rng: Generator) -> None:
    _check_mixed(student, Case(rng, "flat"))


@tests.hidden("test-routed", 6, "A convolutional block, at the test.")
def images_routed(student: Student, rng: Generator) -> None:
    _check_mixed(student, Case(rng, "images"))


@tests.hidden("test-routed", 6, "What a batch changes in training mode.")
def trained_routed(student: Student, rng: Generator) -> None:
    case = Case(rng, "flat")
    found = case.ask(
        student,
        "routed.train()\nrouted(x, decisions)\n"
        "result = [m.state_dict() for m in (routed.frozen, routed.tuned, block)]",
    )
    routed = case.routed().train()
    routed.mixed(case.x, case.decisions[:, None])
    if not isinstance(found, list) or len(found) != 3:
        raise Failed("There are no three state dicts.")
    expected = (routed.frozen.state_dict(), routed.tuned.state_dict(), case.state)
    names = ("frozen copy", "tuned copy", "block that was given")
    for name, given, right in zip(names, found, expected, strict=True):
        if not isinstance(given, dict) or set(given) != set(right):
            raise Failed(f"The {name} has other names.", f"The {name} has other names.")
        for key, value in right.items():
            try:
                close(given[key], value, what=f"{key} of the {name}")
            except Failed as error:
                hint = f"The {name} is not as it should be after a batch in training mode."
                raise Failed(str(error), hint) from None


@tests.hidden("test-routed", 6, "Which parameters are trained, and the decisions' gradient.")
def gradients_routed(student: Student, rng: Generator) -> None:
    case = Case(rng, "flat")
    found = case.ask(
        student,
        "routed.eval()\ndecisions.requires_grad_()\nrouted(x, decisions).sum().backward()\n"
        "names = [name for name, p in routed.named_parameters() if p.requires_grad]\n"
        "result = [sorted(names), decisions.grad]",
    )
    routed = case.routed().eval()
    trained = sorted(f"tuned.{name}" for name, _ in routed.tuned.named_parameters())
    if not isinstance(found, list) or len(found) != 2 or found[0] != trained:
        hint = "Other parameters are trained than those of the tuned copy."
        raise Failed(f"{hint} {found}", hint)
    with torch.no_grad():
        right = (routed.tuned(case.x) - routed.frozen(case.x)).sum(1)
    close(found[1], right, what="The decisions' gradient")


BUDGET = """
free = decisions.clone().requires_grad_()
loss = budget_loss(free, k)
loss.backward()
result = [loss, free.grad]
"""


def _check_budget(student: Student, decisions: Tensor, k: float) -> None:
    found = student.run(BUDGET, decisions=decisions, k=k)
    if not isinstance(found, list) or len(found) != 2:
        raise Failed("The loss is no tensor with a gradient.")
    tuned = decisions.mean(0).sum().item()
    wanted = float(tuned > k)
    right = global_k_loss(decisions, k, k_weight=wanted)
    entropy = global_k_loss(decisions, k, k_weight=0.0)
    mistakes = {
        "At most k blocks: fewer cost nothing.": right + (1 - wanted) * (tuned - k) ** 2,
        "The excess is squared.": entropy + max(0.0, tuned - k),
        "The second sum has the wrong sign.": right - 2 * entropy,
        "The second sum is missing.": right - entropy,
        "v is a mean over the samples, not a sum.": entropy
        + max(0.0, decisions.sum().item() - k) ** 2,
    }
    close(found[0], right, what="The loss", mistakes=mistakes)
    if not (isinstance(found[1], np.ndarray) and np.isfinite(found[1]).all()):
        raise Failed("The gradient is NaN or infinite.", "The gradient is NaN or infinite.")


def _some(rng: Generator) -> Tensor:
    """Return decisions of which every block has both kinds."""
    n, blocks = sizes(rng, 2)
    decisions = torch.zeros(n, blocks)
    for column in decisions.T:
        rows = torch.from_numpy(rng.permutation(n)[: int(rng.integers(1, n))])
        column[rows] = 1.0
    return decisions


@tests.visible("test-budget", 4, "Two samples, three blocks.")
def shown_budget(student: Student, rng: Generator) -> None:
    decisions = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for k in (1.0, 2.0):
        _check_budget(student, decisions, k)


@tests.hidden("test-budget", 6, "More samples and blocks, too many and too few tuned.")
def any_budget(student: Student, rng: Generator) -> None:
    decisions = _some(rng)
    tuned = decisions.mean(0).sum().item()
    _check_budget(student, decisions, tuned * float(rng.uniform(0.2, 0.8)))
    _check_budget(student, decisions, tuned * float(rng.uniform(1.2, 1.8)))


@tests.hidden("test-budget", 6, "Blocks that no sample tunes, and that all do.")
def unused_blocks(student: Student, rng: Generator) -> None:
    decisions = _some(rng)
    decisions[:, 0], decisions[:, 1] = 0.0, 1.0
    _check_budget(student, decisions, 1.0)


PREDICT = """
_agent, _head = nn.Linear(width, 2 * len(pairs)), nn.Linear(width, 3)
_agent.load_state_dict(agent_state)
_head.load_state_dict(head_state)
_pairs = [tuple(_loaded(state, width, "flat").train() for state in pair) for pair in pairs]
first = predict(_agent, _pairs, _head, x)
result = [first, predict(_agent, _pairs, _head, x), [m.state_dict() for p in _pairs for m in p]]
"""


def _check_predict(student: Student, rng: Generator, blocks: int) -> None:
    n, width = sizes(rng, 2)
    x = numbers(rng, n, width)
    agent = {"weight": numbers(rng, 2 * blocks, width), "bias": numbers(rng, 2 * blocks)}
    head = {"weight": numbers(rng, 3, width), "bias": numbers(rng, 3)}
    states = [[weights(rng, width), weights(rng, width)] for _ in range(blocks)]
    found = student.run(
        BUILD + PREDICT, x=x, width=width, agent_state=agent, head_state=head, pairs=states
    )
    if not isinstance(found, list) or len(found) != 3:
        raise Failed("There are no two answers.")
    logits = (x @ agent["weight"].T + agent["bias"]).view(n, blocks, 2)

    def through(decisions: Tensor, *, train: bool = False) -> Tensor:
        h = x
        for state, column in zip(states, decisions.T, strict=True):
            frozen, tuned = build(width, "flat"), build(width, "flat")
            for module, values in zip((frozen, tuned), state, strict=True):
                module.load_state_dict(values)
                module.train(train)
            with torch.no_grad():
                h = column[:, None] * tuned(h) + (1 - column[:, None]) * frozen(h)
        return h @ head["weight"].T + head["bias"]

    right = logits.argmax(-1).float()
    mistakes = {
        "The frozen copy's logit comes first.": through(1 - right),
        "Each sample has decisions of its own.": through(right.mean(0).expand_as(right)),
        "The copies are in training mode.": through(right, train=True),
        "The decisions are soft.": through(torch.softmax(logits, -1)[..., 1]),
    }
    close(found[0], through(right), what="The answer", mistakes=mistakes)
    close(found[1], through(right), what="The second answer", mistakes=mistakes)
    given = found[2]
    for module, state in zip(given, [s for pair in states for s in pair], strict=True):
        for name, value in state.items():
            close(module[name], value, what=f"{name} of a copy")


@tests.visible("test-bugs", 4, "One block.")
def shown_bugs(student: Student, rng: Generator) -> None:
    _check_predict(student, rng, 1)


@tests.hidden("test-bugs", 8, "Several blocks.")
def any_bugs(student: Student, rng: Generator) -> None:
    _check_predict(student, rng, int(rng.integers(2, 5)))
