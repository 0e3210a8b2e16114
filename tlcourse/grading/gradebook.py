"""nbgrader's gradebook and release, the one place where nbgrader is used.

nbgrader makes the students' notebook and keeps points, comments and marks by hand; its own step
that executes submissions is never called.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tlcourse.grading.assignment import Assignment
from tlcourse.grading.grade import INVALID, Record, scores

NEEDS = "The gradebook needs nbgrader: pip install 'nbgrader>=0.9.5'"


def config(folder: Path) -> Any:
    """Return nbgrader's settings for a course folder."""
    try:
        from nbgrader.apps import NbGraderAPI  # noqa: F401
        from traitlets.config import Config
    except ImportError as error:
        raise ImportError(f"{NEEDS} ({error})") from None
    # nbgrader starts the program `alembic` by its name, wherever Python itself was started from.
    here = str(Path(sys.executable).parent)
    if here not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    settings = Config()
    settings.CourseDirectory.root = str(folder.resolve())
    settings.CourseDirectory.course_id = "course"
    return settings


def release(folder: Path, assignment: Assignment) -> Path:
    """Write the students' notebook with nbgrader, and its cells into the gradebook."""
    settings = config(folder)
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory

    logging.getLogger("traitlets").setLevel(logging.ERROR)
    api = NbGraderAPI(CourseDirectory(config=settings), config=settings)
    done = api.generate_assignment(assignment.name, force=True, create=True)
    if not done["success"]:
        raise ValueError(f"nbgrader did not release it: {done.get('log') or done.get('error')}")
    path = folder / "release" / assignment.name / f"{assignment.name}.ipynb"
    return path


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    """Open the gradebook of a course folder.

    Raises
    ------
    OSError
        If it cannot be read or written, as on a full disk.
    """
    config(folder)
    from nbgrader.api import Gradebook, InvalidEntry
    from sqlalchemy.exc import DatabaseError

    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)  # told below, in a line

    path = (folder / "gradebook.db").resolve()
    try:
        with Gradebook(f"sqlite:///{path}", "course") as book:
            yield book
    except (DatabaseError, InvalidEntry) as error:
        why = getattr(error, "orig", None) or str(error).splitlines()[0]
        raise OSError(
            f"{path} could not be read or written ({why}). Make space if the disk is full, "
            "and run it again; if the file is damaged, take it from a copy."
        ) from error


def enter(
    book: Any, student: str, assignment: Assignment, record: Record, *, new_answer: bool
) -> None:
    """Write a result into the gradebook; marks and comments by hand stay as they are.

    Where a written answer is new, its mark is asked for again.
    """
    book.update_or_create_student(student)
    book.update_or_create_submission(assignment.name, student)
    earned = scores(record, assignment)
    (notebook,) = book.find_submission(assignment.name, student).notebooks
    for grade in notebook.grades:
        if grade.name in earned:
            grade.auto_score, grade.needs_manual_grade = earned[grade.name], False
        elif grade.manual_score is None or new_answer:
            # An invalid file has no answer to mark, but an earlier answer's mark is not its own.
            grade.needs_manual_grade = record["status"] != INVALID or grade.manual_score is not None
    book.db.commit()


def by_hand(book: Any, student: str, assignment: Assignment) -> tuple[dict[str, float], bool, Any]:
    """Return the marks by hand, whether some are still to come, and the comments, by cell."""
    from nbgrader.api import MissingEntry

    try:
        (notebook,) = book.find_submission(assignment.name, student).notebooks
    except MissingEntry:
        return {}, False, {}
    written = {cell.grade_id for cell in assignment.written}
    marks = {g.name: g.manual_score for g in notebook.grades if g.manual_score is not None}
    waiting = any(g.needs_manual_grade for g in notebook.grades if g.name in written)
    comments = {c.name: c.comment for c in notebook.comments if c.comment}
    return marks, waiting, comments
