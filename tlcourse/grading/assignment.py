"""An assignment: a folder with a notebook in nbgrader's form, and the tests in ``tests.py``.

Tests are functions of the student's functions and a random generator. They run on the grader's
side. A hidden test draws its instances from the generator, which the instructor's secret seed sets,
and compares with a reference; so the tests can be public, and their instances are not.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlcourse.grading.notebook import TEST, WRITTEN, Cell, own_cells, parse
from tlcourse.grading.sandbox import Limits, Student, check_course

PACKAGED = Path(__file__).with_name("assignments")
Check = Callable[[Student, np.random.Generator], None]
# What a notebook may need: networks, small data, and what those are made of.
COURSE = ("__init__.py", "_checks.py", "_files.py", "_modes.py", "_installed.py", "settings.py")


class Failed(AssertionError):
    """A test's verdict: what was wrong; ``hint`` names the mistake without quoting the test."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Test:
    """One test: the test cell whose points it earns, and a line on it that a student may read."""

    cell: str
    points: float
    about: str
    hidden: bool
    check: Check

    @property
    def name(self) -> str:
        """The function's name."""
        return self.check.__name__


class Tests(list[Test]):
    """The tests of an assignment, in order; `visible` and `hidden` add one."""

    def visible(self, cell: str, points: float, about: str) -> Callable[[Check], Check]:
        """Add a test that the released notebook shows."""
        return self._adder(cell, points, about, hidden=False)

    def hidden(self, cell: str, points: float, about: str) -> Callable[[Check], Check]:
        """Add a test with instances from the secret seed."""
        return self._adder(cell, points, about, hidden=True)

    def _adder(
        self, cell: str, points: float, about: str, *, hidden: bool
    ) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            self.append(Test(cell, points, about, hidden, check))
            return check

        return add


@dataclass(frozen=True)
class Assignment:
    """What `load` found in an assignment's folder."""

    name: str
    version: int
    cells: list[Cell]
    tests: Sequence[Test]
    course: tuple[str, ...]
    limits: Limits
    warm_up: str  # run after the cells, so that no copy for a test has to load it anew
    digest: str

    @property
    def points(self) -> float:
        """All points, those given by hand too."""
        return sum(test.points for test in self.tests) + sum(c.points for c in self.written)

    @property
    def written(self) -> list[Cell]:
        """The cells that are graded by hand."""
        return [cell for cell in self.cells if cell.role == WRITTEN]


def load(folder: Path) -> Assignment:
    """Return the assignment of a folder: NAME/NAME.ipynb and NAME/tests.py.

    Raises
    ------
    ValueError, OSError
        If a file is missing, or notebook and tests do not fit together.
    """
    name = folder.resolve().name
    notebook, script = folder / f"{name}.ipynb", folder / "tests.py"
    for path in (notebook, script):
        if not path.is_file():
            raise OSError(
                f"{path} is missing: an assignment is a folder NAME with NAME.ipynb and tests.py. "
                "`tlcourse assignment new` makes one."
            )
    data = notebook.read_bytes()
    spec = importlib.util.spec_from_file_location(f"tlcourse_assignment_{name}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, about = parse(data)
    found = Assignment(
        name=name,
        version=int(about.get("version", 1)),
        cells=own_cells(data),
        tests=module.tests,
        course=(*COURSE, *getattr(module, "course", ())),
        limits=getattr(module, "limits", Limits()),
        warm_up=getattr(module, "warm_up", ""),
        digest=hashlib.sha256(data + b"\0" + script.read_bytes()).hexdigest(),
    )
    check_course(found.course)
    for cell in found.cells:
        points = sum(test.points for test in found.tests if test.cell == cell.grade_id)
        if cell.role == TEST and points != cell.points:
            raise ValueError(
                f"{notebook}: the test cell {cell.grade_id} has {cell.points:g} points, its tests "
                f"in tests.py have {points:g}."
            )
    known = {cell.grade_id for cell in found.cells if cell.role == TEST}
    if unknown := [test.name for test in found.tests if test.cell not in known]:
        raise ValueError(f"{script}: the test {unknown[0]} names no test cell of {notebook.name}.")
    if len({test.name for test in found.tests}) != len(found.tests):
        raise ValueError(f"{script}: two tests have one name.")
    return found


def generator(seed: str, assignment: str, test: str) -> np.random.Generator:
    """Return the generator of a test's instances; without the seed they cannot be foretold."""
    digest = hashlib.sha256(f"{seed}\0{assignment}\0{test}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def close(
    actual: Any,
    expected: Any,
    *,
    what: str = "The result",
    mistakes: Mapping[str, Any] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Raise `Failed` unless a result has the expected shape and values.

    Parameters
    ----------
    actual
        What came out of the sandbox: an array or a number, or anything else.
    expected
        A tensor, an array or a number.
    what
        What to call the result.
    mistakes
        Hints with the values that the mistakes lead to: the hint of one that fits is shown.
    rtol, atol
        As for ``numpy.allclose``.
    """
    wanted = _array(expected)
    if isinstance(actual, bool) or not isinstance(actual, (int, float, np.ndarray)):
        kind = {list: "a list", dict: "a dict", str: "a text", bool: "a bool"}.get(type(actual))
        kind = kind or "None"
        raise Failed(f"{what} should be a tensor of numbers; it is {kind}.", f"{what} is {kind}.")
    given = np.asarray(actual)
    if given.shape != wanted.shape:
        raise Failed(
            f"{what} has shape {given.shape}, {wanted.shape} is expected.",
            f"{what} has an unexpected shape.",
        )
    if given.dtype.kind == "b":
        raise Failed(f"{what} holds bools, not numbers.", f"{what} holds bools, not numbers.")
    given = given.astype(np.float64)
    if not np.isfinite(given).all():
        raise Failed(f"{what} has NaN or infinite values.", f"{what} has NaN or infinite values.")
    if np.allclose(given, wanted, rtol=rtol, atol=atol):
        return
    hint = ""
    for text, value in (mistakes or {}).items():
        value = _array(value)
        if value.shape == given.shape and np.allclose(given, value, rtol=rtol, atol=atol):
            hint = text
            break
    if given.size == 1:
        difference = f"it is {given.item():.6g}, {wanted.item():.6g} is expected"
    else:
        difference = f"the largest difference is {np.abs(given - wanted).max():.3g}"
    raise Failed(f"{what} is not right: {difference}. {hint}".strip(), hint)


def _array(value: Any) -> np.ndarray:
    value = value.detach().numpy() if hasattr(value, "detach") else value
    return np.asarray(value, dtype=np.float64)
