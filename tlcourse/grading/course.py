"""A course's folder: from a new assignment to exported grades.

NAME/NAME.ipynb, NAME/tests.py  below assignments/: what the instructor edits
seed                            the secret from which the hidden tests are drawn
students.csv                    who takes part: id, first_name, last_name, email, lms_id
source, release                 nbgrader's input; what students get
submitted/STUDENT/NAME          what they handed in
results/NAME                    a result for each submission, without names
autograded, feedback            for marks by hand in nbgrader's pages; for the students
gradebook.db                    nbgrader's gradebook
"""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tlcourse._checks import near
from tlcourse._files import writing
from tlcourse.grading import gradebook
from tlcourse.grading.assignment import PACKAGED, Assignment, load
from tlcourse.grading.grade import MISSING, Record, grade_all, key_of, read
from tlcourse.grading.notebook import MAX_BYTES, parse
from tlcourse.grading.pages import answers, by_hand_notebook, feedback_page, total
from tlcourse.grading.sandbox import bound_above

ID = re.compile(r"[A-Za-z0-9_@+][A-Za-z0-9_.@+-]{0,63}")
ROSTER = ("id", "first_name", "last_name", "email", "lms_id")
# Below the folder of a submission all names are the student's: the outermost one counts.
FORMS = {
    "plain": re.compile(r"(?P<id>[^/]+)/[^/]+\.ipynb|(?P<file>[^/]+)\.ipynb"),
    "canvas": re.compile(r"(?:.*/)?[^_/]+_(?:LATE_)?(?P<id>\d+)_\d+_[^/]*\.ipynb"),
    "moodle": re.compile(
        r"(?:(?:(?!_assignsubmission_)[^/])*/)*[^/]*_(?P<id>\d+)_assignsubmission_file_?/.*\.ipynb"
    ),
}
MAX_FILES = 20_000
README = (
    "Of this folder, only release/ is for students. Keep `seed` and back it up with the rest.\n"
)
CONFIG = """# For nbgrader's pages, in which written answers are marked.
c = get_config()
c.CourseDirectory.course_id = "course"
# Its own "autograde" would run students' code as you. Grade with `tlcourse assignment grade`.
c.Execute.enabled = False
"""


@dataclass(frozen=True)
class Student:
    """A line of students.csv."""

    id: str
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    lms_id: str = ""


def new(folder: Path, name: str) -> Path:
    """Make a course's folder, if it is none yet, and put one of the course's assignments in it."""
    known = packaged()
    if name not in known:
        raise ValueError(
            f"No assignment is called {name!r}; there are: {', '.join(known)}.{near(name, known)}"
        )
    target = folder / "assignments" / name
    if target.exists():
        raise ValueError(f"{target} is there already; your changes in it are kept.")
    shutil.copytree(PACKAGED / name, target, ignore=shutil.ignore_patterns("__pycache__"))
    if not (folder / "seed").exists():
        (folder / "seed").touch(mode=0o600)
        (folder / "seed").write_text(secrets.token_hex(16) + "\n", encoding="utf-8")
    if not (folder / "students.csv").exists():
        (folder / "students.csv").write_text(",".join(ROSTER) + "\n", encoding="utf-8")
    (folder / "README.txt").write_text(README, encoding="utf-8")
    (folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    return target


def packaged() -> list[str]:
    """Return the names of the assignments that come with the course."""
    return sorted(path.parent.name for path in PACKAGED.glob("*/tests.py"))


def find(folder: Path, name: str) -> Assignment:
    """Return an assignment of a course's folder."""
    target = folder / "assignments" / name
    if not target.is_dir():
        there = sorted(path.name for path in (folder / "assignments").glob("*/"))
        raise ValueError(
            f"{target} is missing; there are: {', '.join(there) or 'none yet'}. "
            "`tlcourse assignment new` makes one."
        )
    return load(target)


def release(folder: Path, name: str) -> Path:
    """Write the students' notebook, and refuse it if a solution or a test is left in it."""
    assignment = find(folder, name)
    data = (folder / "assignments" / name / f"{name}.ipynb").read_bytes()
    source = folder / "source" / name / f"{name}.ipynb"
    with writing(source) as file:
        file.write(data)
    path = gradebook.release(folder, assignment)
    released, _ = parse(path.read_bytes())
    text = "\n".join(cell.source for cell in released)
    secret = [cell.source for cell in assignment.written if cell.source != "YOUR ANSWER HERE"]
    for cell in assignment.cells:
        parts = cell.source.split("### BEGIN SOLUTION")[1:]
        secret += [part.split("### END SOLUTION")[0] for part in parts]
    if any(part.strip() in text for part in secret if part.strip()):
        path.unlink()
        raise ValueError(
            f"{source}: a solution would be released; is each between "
            "### BEGIN SOLUTION and ### END SOLUTION?"
        )
    return path


def roster(folder: Path) -> dict[str, Student]:
    """Return the students of students.csv, by id."""
    path = folder / "students.csv"
    if not path.exists():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, Student] = {}
    for number, row in enumerate(rows, start=2):
        one = Student(**{name: (row.get(name) or "").strip() for name in ROSTER})
        if not ID.fullmatch(one.id) or one.id in found:
            why = "is there twice" if one.id in found else "is no id (letters, digits, . _ @ + -)"
            raise ValueError(f"{path}, line {number}: {one.id!r} {why}.")
        found[one.id] = one
    return found


def collect(
    folder: Path, name: str, source: Path, form: str = "plain"
) -> tuple[list[str], list[str]]:
    """Copy what was handed in to submitted/; return the students' ids, and what was left out.

    ``source`` is a folder or a zip file as the learning platform gives it. Only notebooks are
    taken, as bytes of a bounded number; no name, link or packed size of the source is trusted.
    """
    find(folder, name)
    if form not in FORMS:
        raise ValueError(f"The form is {form!r}; it is one of: {', '.join(FORMS)}.")
    students = roster(folder)
    by_lms = {one.lms_id: one.id for one in students.values() if one.lms_id}
    taken: dict[str, bytes] = {}
    left: list[str] = []
    for path, data in _files(source):
        match = FORMS[form].fullmatch(path)
        if match is None:
            left.append(f"{path}: in the form {form} this is no student's notebook")
            continue
        if data is None:
            left.append(f"{path}: it is too large, or no plain file")
            continue
        found = match.groupdict()
        given = found.get("id") or found.get("file") or ""
        student = by_lms.get(given, given)
        if not ID.fullmatch(student):
            left.append(f"{path}: {given[:40]!r} is no student's id")
        elif students and student not in students:
            left.append(f"{path}: the student {student} is not in students.csv")
        elif student in taken:
            left.append(f"{path}: {student} handed in another one, which was taken")
        else:
            taken[student] = data
    for student, data in taken.items():
        with writing(folder / "submitted" / student / name / f"{name}.ipynb") as file:
            file.write(data)
    return sorted(taken), left


def _files(source: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield the names and bytes of a folder or zip; None for what is too large or no plain file."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_symlink():
                yield name, None
            elif path.is_file():
                yield name, path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
        return
    try:
        packed = zipfile.ZipFile(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} is neither a folder nor a zip file ({error}).") from None
    with packed:
        if len(packed.infolist()) > MAX_FILES:
            raise ValueError(f"{source} holds more than {MAX_FILES:,} files.")
        for info in packed.infolist():
            name = info.filename.replace("\\", "/")
            if info.is_dir():
                continue
            data = None
            plain = not stat.S_ISLNK(info.external_attr >> 16)
            if plain and ".." not in name.split("/") and not name.startswith("/"):
                try:
                    with packed.open(info) as file:  # what is unpacked counts, not what is claimed
                        data = file.read(MAX_BYTES + 1)
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError):
                    data = None
            yield name, data if data is not None and len(data) <= MAX_BYTES else None


def submissions(folder: Path, name: str) -> tuple[dict[str, Path], list[str]]:
    """Return the submitted notebooks by student, and those of unknown students."""
    students = roster(folder)
    found = {
        path.parent.parent.name: path
        for path in (folder / "submitted").glob(f"*/{name}/{name}.ipynb")
    }
    unknown = sorted(
        one for one in found if (students and one not in students) or not ID.fullmatch(one)
    )
    return {one: path for one, path in sorted(found.items()) if one not in unknown}, unknown


def grade(
    folder: Path, name: str, *, way: str, jobs: int = 2, part: tuple[int, int] = (1, 1)
) -> tuple[int, dict[str, Record], list[str]]:
    """Grade what was handed in; return how many were graded, all records, and unknown students.

    With a part (k, n), as of an array job, only every n-th submission from the k-th on, and results
    alone are written: a later run without a part finds them and fills the gradebook.
    """
    assignment = find(folder, name)
    if way == "bubblewrap" and (seen := bound_above(folder.resolve())):
        raise ValueError(
            f"{folder.resolve()} is below {seen}, which students' code can read: Python or the "
            "system is there. Move the course's folder."
        )
    chosen, unknown = submissions(folder, name)
    k, n = part
    chosen = dict(list(chosen.items())[k - 1 :: n])
    records: dict[str, Record] = {}
    results = folder / "results" / name
    if n > 1:
        count = grade_all(assignment, chosen, results, seed(folder), way=way, jobs=jobs,
                          done=records.__setitem__)  # fmt: skip
        return count, records, unknown
    if not (folder / "release" / name / f"{name}.ipynb").is_file():
        raise ValueError(f"{name} is not released: `tlcourse assignment release {name}` first.")
    source = folder / "assignments" / name / f"{name}.ipynb"
    if source.read_bytes() != (folder / "source" / name / source.name).read_bytes():
        raise ValueError(
            f"{source} has changed since it was released: `tlcourse assignment release {name}` "
            "again, so that the gradebook has its cells."
        )
    with gradebook.opened(folder) as book:

        def done(student: str, record: Record) -> None:
            records[student] = record
            shown = folder / "autograded" / student / name / f"{name}.ipynb"
            before = answers(shown.read_bytes()) if shown.exists() else None
            notebook = by_hand_notebook(assignment, record)
            new_answer = before != answers(notebook)
            gradebook.enter(book, student, assignment, record, new_answer=new_answer)
            with writing(shown) as file:  # last: killed before it, the answer is new next time
                file.write(notebook)

        count = grade_all(assignment, chosen, results, seed(folder), way=way, jobs=jobs, done=done)
    return count, records, unknown


def seed(folder: Path) -> str:
    """Return the course's secret."""
    path = folder / "seed"
    text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    if len(text) < 16:
        raise ValueError(
            f"{path} is missing or shorter than 16 characters: it is the secret from which hidden "
            "tests are drawn. `tlcourse assignment new` makes one."
        )
    return text


def feedback(folder: Path, name: str) -> list[Path]:
    """Write each student's page: points, what failed and why, without a hidden test in it."""
    assignment = find(folder, name)
    written = []
    with gradebook.opened(folder) as book:
        for student, record in _records(folder, assignment).items():
            marks, waiting, comments = gradebook.by_hand(book, student, assignment)
            page = feedback_page(assignment, record, marks, comments, waiting=waiting)
            path = folder / "feedback" / student / name / f"{name}.html"
            with writing(path) as file:
                file.write(page.encode())
            written.append(path)
    return written


def _records(folder: Path, assignment: Assignment) -> dict[str, Record]:
    found = {}
    for student, path in submissions(folder, assignment.name)[0].items():
        key = key_of(assignment, read(path), seed(folder))
        result = folder / "results" / assignment.name / f"{key}.json"
        if not result.exists():
            raise ValueError(
                f"{path} is not graded as it is now: "
                f"`tlcourse assignment grade {assignment.name}` first."
            )
        found[student] = json.loads(result.read_text(encoding="utf-8"))
    return found


def export(folder: Path, name: str, form: str, path: Path) -> tuple[int, int]:
    """Write grades as CSV for a learning platform.

    Returns how many students it has, and how many of them still wait for a mark by hand.
    """
    if form not in COLUMNS:
        raise ValueError(f"The form is {form!r}; it is one of: {', '.join(COLUMNS)}.")
    assignment = find(folder, name)
    records = _records(folder, assignment)
    students = roster(folder) or {one: Student(one) for one in records}
    rows = []
    with gradebook.opened(folder) as book:
        for student in students.values():
            record = records.get(student.id)
            marks, waiting, _ = gradebook.by_hand(book, student.id, assignment)
            rows.append(_row(assignment, student, record, marks, waiting))
    columns = {title.format(name=name): key for title, key in COLUMNS[form].items()}
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([plain(row[key]) for key in columns.values()] for row in rows)
    with writing(path) as file:
        file.write(text.getvalue().encode("utf-8"))
    return len(rows), sum(row["waiting"] == "to come" for row in rows)


COLUMNS = {
    "plain": {
        "id": "id", "last_name": "last", "first_name": "first", "email": "email",
        "assignment": "assignment", "status": "status", "score": "score", "max_score": "max",
        "by_hand": "waiting", "remarks": "remarks",
    },
    "canvas": {
        "Student": "sortable", "ID": "lms", "SIS Login ID": "id", "Section": "none",
        "{name}": "score", "Status": "status",
    },
    "moodle": {
        "Identifier": "participant", "Full name": "full", "Email address": "email",
        "Status": "status", "Grade": "score", "Maximum Grade": "max",
        "Feedback comments": "remarks",
    },
}  # fmt: skip


def _row(
    assignment: Assignment,
    student: Student,
    record: Record | None,
    marks: Mapping[str, float],
    waiting: bool,
) -> dict[str, object]:
    full = f"{student.first_name} {student.last_name}".strip() or student.id
    row: dict[str, object] = {
        "id": student.id, "last": student.last_name, "first": student.first_name, "full": full,
        "sortable": f"{student.last_name}, {student.first_name}".strip(", ") or student.id,
        "email": student.email, "lms": student.lms_id, "none": "",
        "participant": f"Participant {student.lms_id or student.id}",
        "assignment": assignment.name, "max": assignment.points,
        "status": MISSING, "score": "", "waiting": "", "remarks": "",
    }  # fmt: skip
    if record is None:
        return row  # no score: a silent 0 would look like a result
    waits = "to come" if waiting else "done"
    return row | {
        "status": record["status"], "score": total(assignment, record, marks), "waiting": waits,
        "remarks": " ".join(record["remarks"]),
    }  # fmt: skip


def plain(value: object) -> str:
    """Return a value for a CSV cell that no spreadsheet takes for a formula."""
    if isinstance(value, float):
        return f"{value:g}"
    text = "".join(c if c.isprintable() else " " for c in str(value))
    first = unicodedata.normalize("NFKC", text.lstrip()[:1])  # wide forms of the signs count too
    return f"'{text}" if first in ("=", "+", "-", "@") else text
