"""Tests of the assignment on fine-tuning and freezing; they run on the grader's side.

Networks do not cross. The student's side builds one from a few lines and the weights that the test
sends, and sends back names, rates and state dicts; the reference does the same on this side.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse.grading.assignment import Failed, Tests, close
from tlcourse.grading.sandbox import Student

tests = Tests()
# The first optimiser of a process loads much of torch.
warm_up = "import torch\ntorch.optim.SGD([torch.zeros(1)], lr=0.1)"
Generator = np.random.Generator
State = dict[str, Tensor]

BUILD = """
from collections import OrderedDict
from torch import nn
def _block(n, m):
    return nn.Sequential(nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU())
_parts = OrderedDict((name, _block(n, m)) for name, n, m in sizes)
_parts["head"] = nn.Linear(sizes[-1][2], 4)
model = nn.Sequential(_parts)
model.load_state_dict(state)
"""


class Case:
    """A network by its blocks' names and sizes, its weights, a batch, and parts to freeze."""

    def __init__(self, rng: Generator, names: tuple[str, ...]) -> None:
        widths = [int(n) for n in rng.choice(np.arange(5, 12), len(names) + 1, replace=False)]
        self.sizes: list[Any] = [
            [name, n, m] for name, n, m in zip(names, widths, widths[1:], strict=False)
        ]
        self.parts = [*names, "head"]
        self.state: State = {}
        # Not from torch's own generator, of which the tests in other threads draw too.
        self.state = self.build(load=False).state_dict()
        for name, value in self.state.items():
            if name.endswith(("weight", "bias")):
                value.copy_(torch.from_numpy(0.3 * rng.standard_normal(tuple(value.shape))))
        self.x = torch.from_numpy(rng.standard_normal((24, widths[0]))).float()
        self.y = torch.from_numpy(rng.integers(0, 4, 24))

    def build(self, *, load: bool = True) -> nn.Sequential:
        """Return the network on this side."""
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for name, n, m in self.sizes:
            blocks[name] = nn.Sequential(nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU())
        blocks["head"] = nn.Linear(self.sizes[-1][2], 4)
        model = nn.Sequential(blocks)
        if load:
            model.load_state_dict(self.state)
        return model

    def ask(self, student: Student, lines: str, **names: Any) -> Any:
        """Run lines beside the student's functions, with the network as ``model``."""
        values = {"sizes": self.sizes, "state": self.state, "x": self.x, "y": self.y, **names}
        return student.run(BUILD + lines, **values)


SHOWN = ("block1", "block10")
LONGER = ("stem", "stem2", "middle", "top")


def _frozen(rng: Generator) -> list[str]:
    return ["stem", str(rng.choice(["middle", "top"]))]


def _check_freeze(student: Student, case: Case, frozen: list[str]) -> None:
    lines = (
        "names = freeze(model, parts)\n"
        "result = [names, [n for n, p in model.named_parameters() if p.requires_grad]]"
    )
    found = case.ask(student, lines, parts=frozen)
    names = [name for name, _ in case.build().named_parameters()]
    expected = [name for name in names if name.split(".")[0] not in frozen]
    if found == [expected, expected]:
        return
    loose = [name for name in names if not name.startswith(tuple(frozen))]
    hint = ""
    if isinstance(found, list) and found[1:] == [loose]:
        hint = "A part is frozen whose name only begins like that of a frozen one."
    elif isinstance(found, list) and found[1:] == [expected]:
        hint = "The right parameters are trained, but other names are returned."
    raise Failed(f"{hint or 'Other parameters are trained than should be.'} {found}", hint)


@tests.visible("test-freeze", 6, "Two blocks with like names.")
def shown_freeze(student: Student, rng: Generator) -> None:
    _check_freeze(student, Case(rng, SHOWN), ["block1"])


@tests.hidden("test-freeze", 10, "A longer network, two parts frozen.")
def any_freeze(student: Student, rng: Generator) -> None:
    _check_freeze(student, Case(rng, LONGER), _frozen(rng))


@tests.hidden("test-freeze", 4, "A network that was frozen otherwise before.")
def again_freeze(student: Student, rng: Generator) -> None:
    case = Case(rng, LONGER)
    lines = "freeze(model, ['top', 'head'])\nresult = freeze(model, ['stem'])"
    expected = [n for n, _ in case.build().named_parameters() if n.split(".")[0] != "stem"]
    if case.ask(student, lines) != expected:
        hint = "A parameter that was frozen before should be trained again."
        raise Failed(hint, hint)


def _check_train_mode(student: Student, case: Case, frozen: list[str]) -> None:
    lines = "train_mode(model, parts)\nmodel(x)\nresult = model.state_dict()"
    model = case.build().train()
    for name in frozen:
        model.get_submodule(name).eval()
    model(case.x)
    _same(case.ask(student, lines, parts=frozen), model.state_dict(), frozen)


def _same(found: Any, expected: State, frozen: list[str]) -> None:
    if not isinstance(found, dict) or set(found) != set(expected):
        raise Failed("The state dict has other names.", "The state dict has other names.")
    for name, value in expected.items():
        kind = "frozen" if name.split(".")[0] in frozen else "trained"
        try:
            close(found[name], value, what=name)
        except Failed as error:
            raise Failed(str(error), f"A {kind} part has other values than it should.") from None


@tests.visible("test-train-mode", 6, "The first block frozen.")
def shown_train_mode(student: Student, rng: Generator) -> None:
    _check_train_mode(student, Case(rng, SHOWN), ["block1"])


@tests.hidden("test-train-mode", 14, "A longer network, two parts frozen.")
def any_train_mode(student: Student, rng: Generator) -> None:
    _check_train_mode(student, Case(rng, LONGER), _frozen(rng))


def _check_rates(student: Student, case: Case, frozen: list[str], lr: float, factor: float) -> None:
    found = case.ask(student, f"result = rates(model, {lr!r}, {factor!r}, parts)", parts=frozen)
    count = len(case.parts)
    expected = {p: lr * factor ** (count - 1 - k) for k, p in enumerate(case.parts)}
    expected = {name: rate for name, rate in expected.items() if name not in frozen}
    if not isinstance(found, dict) or set(found) != set(expected):
        raise Failed("Other parts have a rate than should.", "Other parts have a rate than should.")
    for name, rate in expected.items():
        mistakes = {"The head has the largest rate.": lr * factor ** case.parts.index(name)}
        close(found[name], rate, what=f"The rate of {name}", mistakes=mistakes, atol=1e-12)


@tests.visible("test-rates", 6, "Nothing frozen.")
def shown_rates(student: Student, rng: Generator) -> None:
    _check_rates(student, Case(rng, SHOWN), [], 0.1, 0.5)


@tests.hidden("test-rates", 12, "A longer network, two parts frozen.")
def any_rates(student: Student, rng: Generator) -> None:
    lr, factor = float(rng.uniform(0.01, 0.1)), float(rng.uniform(0.2, 0.8))
    _check_rates(student, Case(rng, LONGER), _frozen(rng), lr, factor)


def _check_head(student: Student, case: Case, n_classes: int) -> None:
    found = case.ask(student, f"result = new_head(model, {n_classes}).state_dict()")
    width = case.sizes[-1][2]
    head = {"head.weight": torch.zeros(n_classes, width), "head.bias": torch.zeros(n_classes)}
    _same(found, {**case.state, **head}, [])


@tests.visible("test-new-head", 4, "Three classes.")
def shown_head(student: Student, rng: Generator) -> None:
    _check_head(student, Case(rng, SHOWN), 3)


@tests.hidden("test-new-head", 10, "A longer network, other classes.")
def any_head(student: Student, rng: Generator) -> None:
    _check_head(student, Case(rng, LONGER), int(rng.integers(5, 20)))


def _check_steps(student: Student, case: Case, frozen: list[str], steps: int) -> None:
    model = case.build().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.split(".")[0] not in frozen
    for name in frozen:
        model.get_submodule(name).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(case.x), case.y).backward()
        optimizer.step()
    lines = f"result = train_steps(model, parts, x, y, {steps})"
    _same(case.ask(student, lines, parts=frozen), model.state_dict(), frozen)


@tests.visible("test-steps", 4, "The first block frozen, three steps.")
def shown_steps(student: Student, rng: Generator) -> None:
    _check_steps(student, Case(rng, SHOWN), ["block1"], 3)


@tests.hidden("test-steps", 8, "A longer network, two parts frozen.")
def any_steps(student: Student, rng: Generator) -> None:
    _check_steps(student, Case(rng, LONGER), _frozen(rng), 5)
