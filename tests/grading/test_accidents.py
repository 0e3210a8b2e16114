"""What goes wrong around the grader: a full disk, a broken sandbox, a killed run, no container.

Nothing of it may cost a student a point in silence, and a later run goes on where it stopped.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest

from tests.grading.conftest import TOY, notebook
from tlcourse.grading import course, sandbox
from tlcourse.grading.sandbox import COURSE, Sandbox, Unavailable

RIGHT, HALF = 20.0, 10.0


def make(folder, count, pause=0.0):
    """Make a course with the toy assignment, released, and submissions; every third lacks one."""
    shutil.copytree(TOY, folder / "assignments" / "toy")
    (folder / "seed").write_text("0123456789abcdef")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's own
        course.release(folder, "toy")
    expected = {}
    for k in range(count):
        answers = {"scaled": "def scaled(values, factor): return 0"} if k % 3 == 2 else {}
        path = folder / "submitted" / f"s{k}" / "toy" / "toy.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(notebook(answers, last=[f"import time; time.sleep({pause}); k = {k}"]))
        expected[f"s{k}"] = ("graded", HALF if answers else RIGHT)
    return expected


def grades(records):
    return {name: (record["status"], record["score"]) for name, record in records.items()}


def exported(folder, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        course.export(folder, "toy", "plain", path)
    return path.read_text()


def run_command(*arguments):
    """Start `tlcourse assignment ...` in a process of its own."""
    code = "import warnings; warnings.simplefilter('ignore'); from tlcourse.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "assignment", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(COURSE.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FULL = """
import json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from tests.grading.test_accidents import grades, make
from tlcourse.grading import course

folder = Path(sys.argv[1])
expected = make(folder, 3)
filler = folder / "filler"

def fill(leave):
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))

def attempt():
    try:
        course.grade(folder, "toy", way="none", jobs=1)
    except OSError as error:
        return str(error)

said = []
for leave in (0, 16384):  # no room for a result; room for one, and none for the gradebook
    fill(leave)
    said.append(attempt())
    there = [json.loads(p.read_text())["key"] for p in (folder / "results").rglob("*.json")]
    said.append(len(there))
    said.append([p.name for p in folder.rglob("*.part")])
filler.unlink()
count, records, _ = course.grade(folder, "toy", way="none", jobs=1)
said.append(count)
print(json.dumps([said, grades(records) == expected]))
"""


@pytest.mark.grading
def test_a_full_disk_is_told_and_costs_nobody_a_point(tmp_path):
    """A small file system of its own; the submissions are ours, so no second sandbox is needed."""
    small = tmp_path / "course"
    small.mkdir()
    outer = ["bwrap", "--dev-bind", "/", "/", "--size", str(3 << 20), "--tmpfs", str(small)]
    done = subprocess.run(
        [*outer, sys.executable, "-c", FULL, str(small)],
        env={**os.environ, "PYTHONPATH": str(COURSE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, right = json.loads(done.stdout.splitlines()[-1])
    first, none, part, second, some, part_again, count = said
    assert "could not be written (No space left on device)" in first
    assert "Make space" in first
    assert (none, part, part_again) == (0, [], [])
    assert "gradebook.db could not be read or written" in second
    assert "database or disk is full" in second
    assert count == 3 - some
    assert right


@pytest.mark.grading
@pytest.mark.filterwarnings("ignore")
def test_a_killed_grader_goes_on_to_the_same_grades(tmp_path):
    """With its gradebook: killed at any moment, then run again."""
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    expected = make(folder, 6, pause=0.3)
    shutil.copytree(folder, whole)
    results = folder / "results" / "toy"
    process = run_command("grade", "toy", "--course", folder, "--jobs", 1)
    until = time.monotonic() + 300
    while len(list(results.glob("*.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert 2 <= len(before) < 6
    count, records, _ = course.grade(folder, "toy", way="bubblewrap")
    assert count == 6 - len(before)  # no work twice
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert grades(records) == expected
    assert course.grade(whole, "toy", way="bubblewrap")[0] == 6
    assert exported(folder, tmp_path / "a.csv") == exported(whole, tmp_path / "b.csv")


@pytest.mark.filterwarnings("ignore")
def test_a_sandbox_that_breaks_on_the_way_ends_the_run_and_grades_nobody(tmp_path, monkeypatch):
    folder = tmp_path / "course"
    expected = make(folder, 3)
    programs = tmp_path / "bin"
    programs.mkdir()
    real, broken = shutil.which("bwrap"), programs / "bwrap"
    broken.write_text(  # the first one works
        f'#!/bin/sh\nif mkdir {programs}/used 2>/dev/null; then exec {real} "$@"; fi\n'
        "echo 'bwrap: Creating new namespace failed' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(Unavailable, match="Creating new namespace failed"):
            course.grade(folder, "toy", way="bubblewrap", jobs=1)
        process = run_command("grade", "toy", "--course", folder)
        out, err = process.communicate()
        assert process.returncode == 1
        assert err.startswith("tlcourse: bubblewrap is here but could not start: bwrap: Creating")
        assert "Traceback" not in out + err
    there = [json.loads(path.read_text()) for path in (folder / "results" / "toy").glob("*.json")]
    assert [record["score"] for record in there] == [RIGHT]  # of the one that worked; no 0
    with pytest.raises(ValueError, match="not graded as it is now"):
        exported(folder, tmp_path / "grades.csv")
    count, records, _ = course.grade(folder, "toy", way="bubblewrap")
    assert count == 2
    assert grades(records) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_gradebook_is_named(tmp_path):
    shutil.copytree(TOY, tmp_path / "assignments" / "toy")
    (tmp_path / "students.csv").write_text("id\nada\n")
    (tmp_path / "gradebook.db").write_bytes(b"this is no database, but a text of some length" * 9)
    with pytest.raises(OSError, match=r"gradebook\.db could not be read or written .*from a copy"):
        course.export(tmp_path, "toy", "plain", tmp_path / "grades.csv")


def test_no_container_engine_and_none_that_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="--container docker: there is no `docker` here"):
        Sandbox(way="docker:tlcourse")
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 125\n")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    with pytest.raises(Unavailable, match="could not start: Cannot connect to the Docker daemon"):
        Sandbox(way="docker:tlcourse")
    with pytest.raises(ValueError, match="docker:IMAGE"):
        sandbox.container("lxc:image", [], sandbox.Limits(), "name")
