"""A new instructor's first round, with the page's commands alone, in an empty folder.

Thirty files are handed in: right ones in many guises, wrong, broken and hostile ones.
"""

import csv
import json
import stat
import zipfile

import pytest
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from tests.grading.test_assignments import PLANTED, STEPS, submission
from tlcourse.cli import app
from tlcourse.grading import gradebook
from tlcourse.grading.assignment import PACKAGED, load

NAME = "fine_tuning"
FULL = sum(test.points for test in load(PACKAGED / NAME).tests)
GRADED, CRASHED, INVALID = "graded", "crashed", "invalid"


def changed(change=lambda book: None, *, stub=False, answers=None):
    book = json.loads(submission(NAME, answers or {}, stub=stub))
    return json.dumps(change(book) or book).encode()


def cell(source):
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": []}


def added(source, *, first=False, stub=False):
    return changed(lambda b: b["cells"].insert(2 if first else 99, cell(source)), stub=stub)


def _bare(book):
    for one in book["cells"]:
        one["metadata"] = {}
    book["metadata"] = {}


def _points(book):
    for one in book["cells"]:
        one["metadata"]["nbgrader"].update(points=1000, grade=True)


def _words(book):
    book["cells"][-1]["source"] = "=1+1 <script>alert(1)</script>"


def planted():
    """Yield the wrong answers of the first round, one a student, with what they leave."""
    worth = {test.name: test.points for test in load(PACKAGED / NAME).tests}
    for wrong in PLANTED[NAME][0]:
        data = changed(answers={"steps": STEPS, wrong.cell: wrong.source})  # STEPS: on its own
        yield data, GRADED, FULL - sum(worth[test] for test in wrong.lost)


def handed_in():
    """Return bytes, status and points of each student who hands in."""
    right = [
        changed(),
        changed(lambda b: b["cells"].append(cell("# a note"))),
        added(
            "import warnings, sys\nwarnings.warn('old')\nprint('!', file=sys.stderr)", first=True
        ),
        added("%matplotlib inline", first=True),
        added("undefined_name"),
        added("def broken(:"),
        added("raise SystemExit"),
        added("open('notes.txt', 'w').write('x')"),
        added("!rm -rf /course /grader ; sleep 999 &"),
        added("import socket\nsocket.create_connection(('127.0.0.1', 80), 1)"),
        changed(_bare),
        changed(_words),
        b"\xef\xbb\xbf" + added("'mark'"),
    ]
    none = [
        changed(stub=True),
        changed(_points, stub=True),
        added(
            "import torch\ntorch.equal = torch.allclose = lambda *a, **k: True",
            first=True,
            stub=True,
        ),
        added("from tlcourse.finetuning import freeze", stub=True),
    ]
    broken = [
        b"",
        changed()[:900],
        b"PK\x03\x04 a zip file",
        changed(lambda b: b["metadata"]["tlcourse"].update(assignment="distillation")),
        changed(lambda b: b["metadata"]["tlcourse"].update(version=99)),
    ]
    found = [(data, GRADED, FULL) for data in right] + [(data, GRADED, 0) for data in none]
    found += [(data, INVALID, 0) for data in broken] + list(planted())
    return [*found, (added("import os\nos._exit(0)"), CRASHED, FULL)]


def run(*arguments):
    done = CliRunner().invoke(app, ["assignment", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.grading
@pytest.mark.filterwarnings("ignore")
def test_from_nothing_to_exported_grades(tmp_path, monkeypatch):
    folder = tmp_path / "my-course"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert NAME in run("list")
    assert "students.csv" in run("new", NAME)
    assert stat.S_IMODE((folder / "seed").stat().st_mode) == 0o600
    given = handed_in()
    students = [f"s{k:02d}" for k in range(len(given) + 1)]  # the last one hands in nothing
    lines = [
        f'{one},First,"Last, {k}",{one}@example.org,{100 + k}' for k, one in enumerate(students)
    ]
    (folder / "students.csv").write_text(
        "\n".join(["id,first_name,last_name,email,lms_id", *lines]) + "\n"
    )
    assert f"release/{NAME}/{NAME}.ipynb" in run("release", NAME)

    archive = tmp_path / "submissions.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for k, (data, _, _) in enumerate(given):
            packed.writestr(f"lastfirst_{100 + k}_77{k}_{NAME}.ipynb", data)
        packed.writestr(f"lastfirst_{100}_99_{NAME}-1.ipynb", changed(stub=True))  # a second one
        packed.writestr(f"stranger_999_1_{NAME}.ipynb", changed())
        assert len(packed.namelist()) == 30
    said = run("collect", NAME, str(archive), "--form", "canvas")
    assert f"{len(given)} submissions taken." in said
    assert "s00 handed in another one" in said
    assert "the student 999 is not in students.csv" in said

    said = run("grade", NAME)
    assert f"{len(given)} graded now." in said
    expected = dict(zip(students, [(status, points) for _, status, points in given], strict=False))
    assert said.count(INVALID) == 6  # in the line of numbers, and a line each that says why
    assert "another assignment" in said
    assert "version 99" in said
    assert "0 graded now." in run("grade", NAME)

    with gradebook.opened(folder) as book:  # what nbgrader's pages do
        (answers,) = book.find_submission(NAME, "s00").notebooks
        for mark in answers.grades:
            if mark.needs_manual_grade:
                mark.manual_score, mark.needs_manual_grade = 12.0, False
        book.db.commit()

    assert f"{len(given)} pages" in run("feedback", NAME)
    secret = (folder / "seed").read_text().strip()
    hidden = [test.name for test in load(PACKAGED / NAME).tests if test.hidden]
    for one in students[:-1]:
        page = (folder / "feedback" / one / NAME / f"{NAME}.html").read_text()
        assert not BeautifulSoup(page, "html5lib").find("script")
        for word in (secret, *hidden, *students):
            assert word not in page, (one, word)

    said = run("export", NAME, "--form", "plain")
    waiting = sum(status != INVALID for status, _ in expected.values()) - 1
    assert f"{waiting} of them still wait for a mark by hand" in said
    with (folder / f"grades-{NAME}-plain.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(rows) == students
    for one, (status, points) in expected.items():
        by_hand = 12.0 if one == "s00" else 0.0
        found = rows[one]["status"], float(rows[one]["score"])
        assert found == (status, points + by_hand), (one, rows[one])
    assert (rows[students[-1]]["status"], rows[students[-1]]["score"]) == ("missing", "")
    for form in ("canvas", "moodle"):
        run("export", NAME, "--form", form)
        assert (
            len((folder / f"grades-{NAME}-{form}.csv").read_text().splitlines())
            == len(students) + 1
        )
