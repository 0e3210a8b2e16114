"""Many submissions: one result each, nothing twice, a killed run goes on."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.grading.conftest import RIGHT, TOY, notebook
from tlcourse.grading import grade as grading
from tlcourse.grading.assignment import close, generator, load
from tlcourse.grading.grade import grade_all
from tlcourse.grading.notebook import Invalid
from tlcourse.grading.sandbox import COURSE


@pytest.fixture
def handed_in(tmp_path):
    folder = tmp_path / "submitted"
    folder.mkdir()
    for k in range(4):
        (folder / f"s{k}.ipynb").write_bytes(notebook(last=[f"k = {k}"]))
    (folder / "s4.ipynb").write_bytes(b"no notebook")
    return {path.stem: path for path in sorted(folder.iterdir())}


def run(toy, handed_in, results, seed="a", **kwargs):
    found = {}
    count = grade_all(toy, handed_in, results, seed, done=found.__setitem__, **kwargs)
    return count, {name: (record["status"], record["score"]) for name, record in found.items()}


def test_each_is_graded_once_and_an_edited_one_alone_again(toy, handed_in, tmp_path):
    results = tmp_path / "results"
    count, first = run(toy, handed_in, results)
    assert count == 5
    assert first == {f"s{k}": ("graded", 20.0) for k in range(4)} | {"s4": ("invalid", 0.0)}
    assert run(toy, handed_in, results) == (0, first)
    handed_in["s2"].write_bytes(notebook({"total": "def total(v): return 0"}))
    count, again = run(toy, handed_in, results)
    assert count == 1
    assert again == {**first, "s2": ("graded", 10.0)}
    assert run(toy, handed_in, results, seed="b")[0] == 5  # another secret, other tests
    for path in results.iterdir():
        assert not {"s0", "s1"} & set(json.dumps(json.loads(path.read_text())).split('"'))


def test_a_damaged_result_is_made_anew(toy, handed_in, tmp_path):
    results = tmp_path / "results"
    run(toy, {"s0": handed_in["s0"]}, results)
    (path,) = results.iterdir()
    whole = path.read_text()
    for bad in (whole[:100], "[]", whole.replace('"key": "', '"key": "0')):
        path.write_text(bad)
        assert run(toy, {"s0": handed_in["s0"]}, results)[0] == 1


def test_a_link_is_no_submission(toy, tmp_path):
    link = tmp_path / "toy.ipynb"
    link.symlink_to(TOY / "toy.ipynb")
    with pytest.raises(Invalid, match="plain file"):
        grading.read(link)


def test_a_killed_run_goes_on(toy, handed_in, tmp_path):
    for k in range(2):
        handed_in[f"s{k}"].write_bytes(notebook(last=[f"import time; time.sleep({3 * k + 0.01})"]))
    results = tmp_path / "results"
    program = (
        "import sys\nfrom pathlib import Path\nfrom tlcourse.grading.assignment import load\n"
        "from tlcourse.grading.grade import grade_all\n"
        f"folder = Path({str(tmp_path / 'submitted')!r})\n"
        f"grade_all(load(Path({str(TOY)!r})), {{p.stem: p for p in sorted(folder.iterdir())}},\n"
        f"          Path({str(results)!r}), 'a', jobs=1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(COURSE.parent)}
    )
    until = time.monotonic() + 60
    while not list(results.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(results.glob("*.json")))
    assert 1 <= done < 5
    count, found = run(toy, handed_in, results)
    assert count == 5 - done
    assert found == {f"s{k}": ("graded", 20.0) for k in range(4)} | {"s4": ("invalid", 0.0)}


def test_no_space_for_a_result_is_an_error(toy, handed_in, tmp_path, monkeypatch):
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(OSError, match="could not be written"):
        run(toy, {"s4": handed_in["s4"]}, tmp_path / "results")


def test_a_folder_that_is_no_assignment_is_named(tmp_path):
    with pytest.raises(OSError, match=r"tests\.py"):
        load(tmp_path)
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.ipynb").write_bytes((TOY / "toy.ipynb").read_bytes())
    script = (TOY / "tests.py").read_text()
    (folder / "tests.py").write_text(script.replace('"test-total", 4', '"test-total", 5'))
    with pytest.raises(ValueError, match="10 points, its tests in tests.py have 11"):
        load(folder)
    (folder / "tests.py").write_text(script.replace('"test-scaled"', '"nowhere"'))
    with pytest.raises(ValueError, match="test-scaled has 10 points"):
        load(folder)


@pytest.mark.parametrize(
    "value", [None, True, "1.0", [1.0], {"a": 1.0}, float("nan"), 2.0, np.array(True), np.ones(1)]
)
def test_close_takes_nothing_but_the_right_number(value):
    close(1.0, 1.0)
    with pytest.raises(AssertionError):
        close(value, 1.0)


def test_each_test_draws_numbers_of_its_own():
    first = [generator(*names).random() for names in itertools.product("ab", "cd", "ef")]
    assert len(set(first)) == 8


def test_right_answers_are_the_notebooks_own():
    assert set(RIGHT) == {"total", "scaled", "words"}
