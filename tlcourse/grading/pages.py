"""What people read: a student's feedback as HTML, and the notebook for marks by hand.

All that comes from a submission is text here and is escaped as such: no output of a notebook in
HTML, SVG or JavaScript is ever shown.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

from tlcourse.grading.assignment import Assignment
from tlcourse.grading.grade import Record
from tlcourse.grading.notebook import LOCKED, TEST, WRITTEN, Cell

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STYLE = (
    "body{font:1rem/1.5 sans-serif;max-width:50rem;margin:auto;padding:1rem}"
    "pre{overflow:auto;white-space:pre-wrap;background:#f4f4f4;padding:.5rem}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}"
    ".bad{color:#8b1a1a}.remark{border-left:.3rem solid #888;padding-left:.6rem}"
)
_HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<style>{style}</style><body>"
)


def feedback_page(
    assignment: Assignment,
    record: Record,
    marks: Mapping[str, float] | None = None,
    comments: Mapping[str, str] | None = None,
    *,
    waiting: bool = False,
) -> str:
    """Return a student's feedback as HTML.

    Parameters
    ----------
    assignment, record
        The assignment, and the submission's result.
    marks, comments
        By hand, by cell.
    waiting
        Whether marks by hand are still to come.
    """
    marks = marks or {}
    later = ", marks by hand still to come" if waiting else ""
    parts = [_HEAD.format(name=escaped(assignment.name), style=_STYLE)]
    parts.append(
        f"<h1>{escaped(assignment.name)}</h1><p><b>{total(assignment, record, marks):g}</b>"
    )
    parts.append(f" of {assignment.points:g} points ({escaped(record['status'])}{later}).</p>")
    parts += [_remark(text) for text in record["remarks"]]
    parts.append("<table><tr><th>Test</th><th>Points</th><th>Outcome</th></tr>")
    for test in record["tests"]:
        kind = "good" if test["earned"] else "bad"
        points = f"{test['earned']:g} of {test['points']:g}"
        parts.append(f"<tr class={kind}><td>{escaped(test['about'])}</td><td>{points}</td>")
        parts.append(f"<td>{escaped(test['outcome'])}{_block(test['message'])}</td></tr>")
    parts.append("</table>")
    for cell in assignment.written:
        mark = f"{marks[cell.grade_id]:g}" if cell.grade_id in marks else "-"
        parts.append(f"<h2>Written answer ({mark} of {cell.points:g})</h2>")
        parts.append(_block(record["written"].get(cell.grade_id, "(none)")))
    parts += [_remark(text) for text in (comments or {}).values()]
    parts.append("<h2>Your code as it ran</h2>")
    for ran in record["cells"]:
        if ran["theirs"]:
            parts.append(f"<h3>{escaped(ran['label'])}</h3>")
            parts += [_block(ran[what]) for what in ("source", "output", "trace")]
    return "".join(parts) + "</body></html>\n"


def total(assignment: Assignment, record: Record, marks: Mapping[str, float]) -> float:
    """Return the points of the tests and of the marks by hand."""
    by_hand = sum(marks.get(cell.grade_id, 0.0) for cell in assignment.written)
    return float(record["score"] + by_hand)


def escaped(text: object) -> str:
    """Return a text as HTML shows it, without colour codes and other invisible characters."""
    plain = _COLOURS.sub("", str(text))
    return html.escape("".join(c for c in plain if c.isprintable() or c in "\n\t"))


def _block(text: str) -> str:
    return f"<pre>{escaped(text)}</pre>" if text else ""


def _remark(text: str) -> str:
    return f"<p class=remark>{escaped(text)}</p>"


def by_hand_notebook(assignment: Assignment, record: Record) -> bytes:
    """Return the notebook that nbgrader's pages show for marks by hand."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str, output: str = "", graded: Cell | None = None) -> None:
        cell: dict[str, Any] = {"cell_type": kind, "id": f"c{len(cells)}", "source": source}
        cell["metadata"] = {} if graded is None else {"nbgrader": _metadata(graded)}
        if kind == "code":
            stream = {"output_type": "stream", "name": "stdout", "text": output}
            cell |= {"execution_count": None, "outputs": [stream] if output else []}
        cells.append(cell)

    for cell in assignment.cells:
        if cell.role == LOCKED and cell.kind == "markdown":
            add("markdown", cell.source)
        elif cell.role == WRITTEN:
            answer = record["written"].get(cell.grade_id, "(no answer)")
            add("markdown", answer.replace("<", "&lt;"), graded=cell)  # Markdown lets HTML through
        elif cell.role == TEST:
            tests = [test for test in record["tests"] if test["cell"] == cell.grade_id]
            told = "\n".join(f"{t['outcome']}: {t['about']} {t['message']}" for t in tests)
            add("code", "".join(f"# {line}\n" for line in told.splitlines()), graded=cell)
        else:
            for ran in record["cells"]:
                if ran["label"] == cell.grade_id and ran["theirs"]:
                    add("code", ran["source"], ran["output"] + ran["trace"])
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book).encode()


def answers(notebook: bytes) -> list[str]:
    """Return the written answers of a notebook that `by_hand_notebook` made."""
    cells = json.loads(notebook)["cells"]
    return [c["source"] for c in cells if c["metadata"].get("nbgrader", {}).get("solution")]


def _metadata(cell: Cell) -> dict[str, Any]:
    return {
        "cell_type": cell.kind,
        "grade": True,
        "grade_id": cell.grade_id,
        "locked": cell.role == TEST,
        "points": cell.points,
        "schema_version": 3,
        "solution": cell.role == WRITTEN,
        "task": False,
    }
