"""Notebooks as cells: the assignment's own, which is trusted, and a submission's, which is not.

What a submission says about itself counts for nothing but to find an answer: a cell is matched by
its grade id to the assignment's definition, which alone has the points and the locked cells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 20 << 20
MAX_CELLS = 1000
MAX_SOURCE = 1 << 20  # characters of all cells
LOCKED, SOLUTION, TEST, WRITTEN = "locked", "solution", "test", "written"


class Invalid(ValueError):
    """What was handed in cannot be graded; the message says why, and is safe to show."""


@dataclass(frozen=True)
class Cell:
    """A cell: its kind ("code" or "markdown"), its source, and its grade id where it has one."""

    kind: str
    source: str
    grade_id: str = ""
    role: str = ""  # of the assignment's own: LOCKED, SOLUTION, TEST or WRITTEN
    points: float = 0.0


@dataclass(frozen=True)
class Step:
    """A piece of code to be run, what to call it, and whether the student wrote it."""

    label: str
    source: str
    theirs: bool


@dataclass
class Plan:
    """What of a submission is run and read."""

    steps: list[Step] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def parse(data: bytes) -> tuple[list[Cell], dict[str, Any]]:
    """Return the cells of a notebook file, and what its metadata says of the assignment.

    Raises
    ------
    Invalid
        If it is no notebook of format 4, or too large.
    """
    if len(data) > MAX_BYTES:
        raise Invalid(
            f"The notebook has {len(data) >> 20} MB; at most {MAX_BYTES >> 20} are taken."
        )
    try:
        raw = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Invalid("The file is no notebook: it is not JSON. Was it cut off?") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list):
        old = isinstance(raw, dict) and "worksheets" in raw
        why = "it is of format 3: open it in Jupyter and save it" if old else "it has no cells"
        raise Invalid(f"The file is no notebook that can be graded: {why}.")
    if len(raw["cells"]) > MAX_CELLS:
        raise Invalid(f"The notebook has {len(raw['cells'])} cells; at most {MAX_CELLS} are taken.")
    cells = [_cell(cell) for cell in raw["cells"]]
    if sum(len(cell.source) for cell in cells) > MAX_SOURCE:
        raise Invalid(f"The cells hold more than {MAX_SOURCE:,} characters.")
    metadata = raw.get("metadata")
    about = metadata.get("tlcourse") if isinstance(metadata, dict) else None
    return cells, about if isinstance(about, dict) else {}


def _cell(raw: Any) -> Cell:
    if not isinstance(raw, dict) or raw.get("cell_type") not in ("code", "markdown", "raw"):
        raise Invalid("The notebook has a cell of no known kind.")
    source = raw.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise Invalid("The notebook has a cell whose source is no text.")
    source = source.encode("utf-8", "replace").decode()  # no lone surrogates
    metadata = raw.get("metadata")
    graded = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = graded.get("grade_id") if isinstance(graded, dict) else None
    return Cell(raw["cell_type"], source, grade_id if isinstance(grade_id, str) else "")


def own_cells(data: bytes) -> list[Cell]:
    """Return the cells of the assignment's own notebook that have a grade id, with their roles."""
    cells, _ = parse(data)
    found = []
    for cell, raw in zip(cells, json.loads(data)["cells"], strict=True):
        graded = raw["metadata"].get("nbgrader")
        if graded is None:
            continue
        if graded["solution"]:
            role = WRITTEN if graded["grade"] else SOLUTION
        else:
            role = TEST if graded["grade"] else LOCKED
        points = float(graded.get("points", 0))
        found.append(Cell(cell.kind, cell.source, cell.grade_id, role, points))
    return found


def plan(own: list[Cell], submitted: list[Cell]) -> Plan:
    """Match a submission to the assignment: what is run, in which order, and what is read.

    Locked code is the assignment's, where the submission has that cell, or first of all where it
    has not. Every other code cell is the student's and is run in the submission's order, as
    "Run all" would; one that stands twice is run twice. Test cells are not run: the tests are the
    grader's own.
    """
    found = Plan()
    known = {cell.grade_id: cell for cell in own}
    present = [cell.grade_id for cell in submitted if cell.grade_id in known]
    if not present:
        found.remarks.append(
            "No cell carries an id of the assignment: all cells were run as they stand, and the "
            "written answers have to be looked for in the submission."
        )
    for cell in own:
        if cell.role == LOCKED and cell.kind == "code" and cell.grade_id not in present:
            found.steps.append(Step(cell.grade_id, cell.source, theirs=False))
        elif cell.role in (SOLUTION, WRITTEN) and present.count(cell.grade_id) != 1:
            count = "is missing" if cell.grade_id not in present else "is there more than once"
            found.remarks.append(f"The answer cell {cell.grade_id} {count}.")
    done = set()
    for number, cell in enumerate(submitted, start=1):
        mine = known.get(cell.grade_id)
        if mine is not None and mine.role == WRITTEN:
            before = found.written.get(mine.grade_id)
            text = cell.source if before is None else f"{before}\n\n{cell.source}"
            found.written[mine.grade_id] = text
        elif mine is not None and mine.role in (LOCKED, TEST):
            if mine.role == LOCKED and mine.kind == "code" and mine.grade_id not in done:
                done.add(mine.grade_id)
                found.steps.append(Step(mine.grade_id, mine.source, theirs=False))
        elif cell.kind == "code" and cell.source.strip():
            label = cell.grade_id if mine is not None else f"cell {number}"
            found.steps.append(Step(label, cell.source, theirs=True))
        elif mine is not None and cell.kind != "code":
            found.remarks.append(
                f"The answer cell {mine.grade_id} is no code cell in the submission: not run."
            )
    return found
