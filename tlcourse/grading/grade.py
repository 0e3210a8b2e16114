"""Grading: one submission, and many at a time with one result file each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tlcourse._files import writing
from tlcourse.grading.assignment import Assignment, Failed, Test, generator
from tlcourse.grading.notebook import TEST, Invalid, Plan, Step, parse, plan
from tlcourse.grading.sandbox import PATIENCE, Answered, Ended, Sandbox, TimedOut

FORM = 1  # of a result; another number grades everything again
RESTARTS = 3
SHOWN = 10_000  # characters of a message
GRADED, TIMED_OUT, CRASHED, INVALID, MISSING = (
    "graded", "timed out", "crashed", "invalid", "missing",
)  # fmt: skip
# Exceptions whose names are shown for a hidden test. Any other name could be a message.
_NAMES = {
    name for name, value in vars(__import__("builtins")).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}  # fmt: skip

Record = dict[str, Any]


class _Session:
    """A submission's cells, run in a sandbox; a cell that ends its process is left out next time.

    So an endless loop in one answer does not take the points of the others.
    """

    def __init__(self, assignment: Assignment, steps: list[Step], way: str) -> None:
        self.assignment, self.steps, self.way = assignment, steps, way
        self.until = time.monotonic() + PATIENCE * assignment.limits.total
        self.ended: dict[int, Ended] = {}
        self.ran: dict[int, Record] = {}
        self.starts = 0
        self.box: Sandbox | None = None

    def open(self) -> Sandbox | None:
        """Return a sandbox in which the cells have run, or None when that is hopeless."""
        while self.box is None:
            left = self.until - time.monotonic()
            if self.starts > RESTARTS or left < 1:
                return None
            self.starts += 1
            limits = dataclasses.replace(self.assignment.limits, total=left / PATIENCE)
            box = Sandbox(self.assignment.course, limits, self.way)
            try:
                self._run_cells(box)
                self.box = box
            except BaseException as error:
                box.close()
                if not isinstance(error, Ended):
                    raise
        return self.box

    def _run_cells(self, box: Sandbox) -> None:
        for k, step in enumerate(self.steps):
            if k in self.ended:
                continue
            try:
                ran = box.run_cell(step.source)
            except Ended as error:
                self.ended[k] = error
                raise
            self.ran[k] = dataclasses.asdict(ran)

    def test(self, test: Test, seed: str) -> Record:
        """Run a test and return its outcome."""
        box = self.open()
        if box is None:
            why = "the submission had used up its time" if time.monotonic() > self.until - 1 else (
                "the submission's process kept ending")  # fmt: skip
            return _outcome(test, "not run", f"Not run: {why}.")
        try:
            with box.test() as student:
                return _verdict(test, student, generator(seed, self.assignment.name, test.name))
        except Ended as error:  # a later test gets a new sandbox
            self.box = None
            return _outcome(test, error.status, f"Stopped: {error}.")

    def close(self) -> None:
        if self.box is not None:
            self.box.close()


def grade(assignment: Assignment, data: bytes, seed: str, *, way: str = "bubblewrap") -> Record:
    """Grade a submission and return its record: status, score, and each test's outcome.

    Parameters
    ----------
    assignment
        See `load`.
    data
        The submitted file's bytes: nothing in them is trusted.
    seed
        The instructor's secret.
    way
        The kind of sandbox, see `Sandbox`.

    Raises
    ------
    Unavailable
        If there is no sandbox. What a submission does never raises.
    """
    began = time.monotonic()
    record: Record = {
        "form": FORM,
        "assignment": assignment.name,
        "version": assignment.version,
        "key": key_of(assignment, data, seed),
        "max_score": assignment.points,
    }
    try:
        found = _plan(assignment, data)
    except Invalid as error:
        tests = [_outcome(test, "not run", "Not run.") for test in assignment.tests]
        return record | {
            "status": INVALID, "score": 0.0, "tests": tests, "cells": [], "written": {},
            "remarks": [str(error)], "seconds": time.monotonic() - began,
        }  # fmt: skip
    if assignment.warm_up:
        found.steps.append(Step("warm-up", assignment.warm_up, theirs=False))
    session = _Session(assignment, found.steps, way)
    try:
        # What a test leaves in files the next one can read, and a visible test tells what it finds.
        # So all visible tests come before any hidden one.
        ran = {t.name: session.test(t, seed) for t in sorted(assignment.tests, key=_is_hidden)}
    finally:
        session.close()
    tests = [ran[test.name] for test in assignment.tests]
    how = [test["outcome"] for test in tests] + [error.status for error in session.ended.values()]
    status = next((bad for bad in (TIMED_OUT, CRASHED) if bad in how), GRADED)
    if "not run" in how and status == GRADED:
        status = CRASHED
    return record | {
        "status": status,
        "score": sum(test["earned"] for test in tests),
        "tests": tests,
        "cells": [_cell(session, k) for k in range(len(found.steps))],
        "written": found.written,
        "remarks": found.remarks,
        "seconds": time.monotonic() - began,
    }


def _plan(assignment: Assignment, data: bytes) -> Plan:
    cells, about = parse(data)
    name, version = about.get("assignment"), about.get("version")
    if isinstance(name, str) and name != assignment.name:
        raise Invalid(f"This is the notebook of another assignment, not of {assignment.name}.")
    if isinstance(version, int) and version != assignment.version:
        raise Invalid(
            f"This is version {version} of the assignment; version {assignment.version} is graded. "
            "Copy the answers into the present notebook."
        )
    return plan(assignment.cells, cells)


def _is_hidden(test: Test) -> bool:
    return test.hidden


def _verdict(test: Test, student: Any, rng: Any) -> Record:
    """Run the test's function; only a plain return earns the points."""
    try:
        test.check(student, rng)
    except Failed as error:
        text = error.hint if test.hidden else str(error)
        return _outcome(test, "failed", text)
    except Answered as error:
        return _outcome(test, error.kind, _told(test, error))
    except Ended:
        raise
    except Exception as error:  # what came back is of a form that the test does not foresee
        text = "" if test.hidden else f"The result has an unexpected form ({type(error).__name__})."
        return _outcome(test, "failed", text)
    return _outcome(test, "passed", "")


def _told(test: Test, error: Answered) -> str:
    if error.kind == "timed out":
        return "It took too long."
    if error.kind == "crashed":
        return "The process ended during the test."
    if error.kind == "unsendable":
        shown = "" if test.hidden else f" ({error.name}: {error.text})"
        return f"The result is no number, text or tensor, or too large{shown}."
    if test.hidden:
        return f"Your code raised {error.name if error.name in _NAMES else 'an exception'}."
    return f"Your code raised {error.name}:\n{error.text}"


def _outcome(test: Test, outcome: str, message: str) -> Record:
    return {
        "test": test.name,
        "cell": test.cell,
        "about": test.about,
        "hidden": test.hidden,
        "points": test.points,
        "earned": test.points if outcome == "passed" else 0.0,
        "outcome": outcome,
        "message": message[:SHOWN],
    }


def _cell(session: _Session, k: int) -> Record:
    step = session.steps[k]
    shown: Record = {"label": step.label, "theirs": step.theirs, "source": step.source}
    if k in session.ended:
        error = session.ended[k]
        what = "timed out" if isinstance(error, TimedOut) else "crashed"
        return shown | {"output": "", "error": what, "trace": f"Stopped: {error}."}
    return shown | session.ran.get(k, {"output": "", "error": "not run", "trace": ""})


def key_of(assignment: Assignment, data: bytes, seed: str) -> str:
    """Return what a result depends on, as a hash: the file, the assignment and the seed."""
    digest = hashlib.sha256(f"{FORM}\0{assignment.digest}\0{seed}\0".encode())
    digest.update(data)
    return digest.hexdigest()


def scores(record: Record, assignment: Assignment) -> dict[str, float]:
    """Return the points earned in each test cell."""
    found = {cell.grade_id: 0.0 for cell in assignment.cells if cell.role == TEST}
    for test in record["tests"]:
        found[test["cell"]] += test["earned"]
    return found


def grade_all(
    assignment: Assignment,
    submissions: Mapping[str, Path],
    results: Path,
    seed: str,
    *,
    way: str = "bubblewrap",
    jobs: int = 2,
    done: Callable[[str, Record], None] = lambda name, record: None,
) -> int:
    """Grade the submissions whose result is not in the folder; return how many were graded.

    Each result is a file named by its key, so a run that was killed goes on where it stopped, an
    edited submission alone is graded again, and no student's name is in a result.

    Parameters
    ----------
    assignment, seed, way
        As for `grade`.
    submissions
        By name, the notebook that was handed in.
    results
        The folder of the result files.
    jobs
        Sandboxes at a time.
    done
        Called with each name and record, in this thread: the one writer of a gradebook.
    """
    new: dict[str, bytes] = {}
    names: dict[str, list[str]] = {}
    for name, path in submissions.items():
        data = read(path)
        key = key_of(assignment, data, seed)
        names.setdefault(key, []).append(name)
        new[key] = data
    for key in list(new):
        if (record := _recorded(results / f"{key}.json", key)) is not None:
            del new[key]
            for name in names[key]:
                done(name, record)
    with ThreadPoolExecutor(jobs) as pool:
        running: dict[Future[Record], str] = {}
        for key, data in new.items():
            running[pool.submit(_grade_into, assignment, data, seed, way, results)] = key
        try:
            for future in as_completed(running):
                for name in names[running[future]]:
                    done(name, future.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return len(new)


def read(path: Path) -> bytes:
    """Return a submitted file's bytes; a link is not followed, it could lead anywhere."""
    if path.is_symlink() or not path.is_file():
        raise Invalid(f"{path} is no plain file.")
    if path.stat().st_size > 64 << 20:
        return b""  # graded as invalid: it is no notebook
    return path.read_bytes()


def _recorded(path: Path, key: str) -> Record | None:
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def _grade_into(assignment: Assignment, data: bytes, seed: str, way: str, folder: Path) -> Record:
    record = grade(assignment, data, seed, way=way)
    with writing(folder / f"{record['key']}.json") as file:
        file.write(json.dumps(record, indent=1).encode())
    return record
