"""A round trip: new, release, collect, grade, feedback, export; and what goes wrong."""

import csv
import json
import shutil
import stat
import warnings
import zipfile

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from tests.grading.conftest import TOY, notebook
from tlcourse.cli import app
from tlcourse.grading import course, gradebook
from tlcourse.grading.assignment import PACKAGED, load
from tlcourse.grading.grade import grade
from tlcourse.grading.notebook import MAX_BYTES
from tlcourse.grading.pages import by_hand_notebook, feedback_page

ROSTER = """id,first_name,last_name,email,lms_id
ada,Ada,"=HYPERLINK(""http://x"")",ada@x,11
bob,Bob,Bo,bob@x,12
cyd,Cyd,"Çy, d",cyd@x,13
dan,@Dan,D,dan@x,14
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a course's folder with the toy assignment, released."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(TOY, folder / "assignments" / "toy")
    (folder / "seed").write_text("0123456789abcdef")
    (folder / "students.csv").write_text(ROSTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's own
        course.release(folder, "toy")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "course")


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore")
def test_the_released_notebook_has_no_solution(folder):
    (path,) = [p for p in (folder / "release").rglob("*") if p.is_file()]
    text = path.read_text()
    for secret in ("BASE * sum", "factor * value", "any_total", "rng", "0123456789abcdef"):
        assert secret not in text
    assert "YOUR CODE HERE" in text
    assert json.loads(text)["metadata"]["tlcourse"] == {"assignment": "toy", "version": 1}
    record = grade(course.find(folder, "toy"), path.read_bytes(), "seed")
    assert (record["status"], record["score"], record["remarks"]) == ("graded", 0, [])


@pytest.mark.filterwarnings("ignore")
def test_a_solution_that_stands_twice_is_not_released(folder):
    path = folder / "assignments" / "toy" / "toy.ipynb"
    book = json.loads(path.read_text())
    book["cells"][0]["source"] = "As in\n\n    return BASE * sum(values)"
    path.write_text(json.dumps(book))
    with pytest.raises(ValueError, match="a solution would be released"):
        course.release(folder, "toy")
    assert not (folder / "release" / "toy" / "toy.ipynb").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_round_trip(folder, tmp_path):
    handed = tmp_path / "in"
    handed.mkdir()
    script = "<script>alert(1)</script>"
    hidden = notebook({"total": "def total(v): raise ValueError(str(v))", "words": script})
    (handed / "ada.ipynb").write_bytes(notebook())
    (handed / "bob.ipynb").write_bytes(hidden.replace(b"# Toy", b"x"))
    (handed / "dan.ipynb").write_bytes(b"not a notebook")
    (handed / "eve.ipynb").write_bytes(notebook())
    taken, left = course.collect(folder, "toy", handed)
    assert taken == ["ada", "bob", "dan"]
    assert left == ["eve.ipynb: the student eve is not in students.csv"]

    count, records, unknown = course.grade(folder, "toy", way="bubblewrap")
    assert (count, unknown) == (3, [])
    found = {name: (record["status"], record["score"]) for name, record in records.items()}
    assert found == {"ada": ("graded", 20), "bob": ("graded", 10), "dan": ("invalid", 0)}
    assert course.grade(folder, "toy", way="bubblewrap")[0] == 0

    with gradebook.opened(folder) as book:
        (submitted,) = book.find_submission("toy", "ada").notebooks
        (words,) = [g for g in submitted.grades if g.name == "words"]
        assert words.needs_manual_grade
        assert submitted.score == 20
        words.manual_score, words.needs_manual_grade = 4.5, False
        book.db.commit()
    assert course.grade(folder, "toy", way="bubblewrap")[0] == 0  # leaves the mark by hand alone

    pages = {path.parts[-3]: path.read_text() for path in course.feedback(folder, "toy")}
    assert "<b>24.5</b> of 25" in pages["ada"]
    assert "[1.0, 2.0, 3.5]" in pages["bob"]  # the visible test's
    assert BeautifulSoup(pages["bob"], "html5lib").find("script") is None
    assert script in BeautifulSoup(pages["bob"], "html5lib").text
    assert "BASE * sum" in pages["ada"]
    assert "BASE = " not in pages["ada"]  # a locked cell is not theirs
    assert "not JSON" in pages["dan"]
    for page in pages.values():
        assert "any_total" not in page
        assert not {"ada@x", "bob@x", "Bo,"} & set(page.split())

    path = tmp_path / "grades.csv"
    assert course.export(folder, "toy", "plain", path) == (4, 1)
    plain = {row["id"]: row for row in rows(path)}
    assert [plain[one]["score"] for one in ("ada", "bob", "cyd", "dan")] == ["24.5", "10", "", "0"]
    assert plain["cyd"]["status"] == "missing"
    assert plain["dan"]["status"] == "invalid"
    assert plain["bob"]["by_hand"] == "to come"
    assert plain["ada"]["last_name"] == '\'=HYPERLINK("http://x")'
    course.export(folder, "toy", "canvas", path)
    assert rows(path)[2] == {
        "Student": "Çy, d, Cyd", "ID": "13", "SIS Login ID": "cyd", "Section": "", "toy": "",
        "Status": "missing",
    }  # fmt: skip
    course.export(folder, "toy", "moodle", path)
    assert rows(path)[0]["Identifier"] == "Participant 11"
    assert rows(path)[3]["Full name"] == "'@Dan D"

    (handed / "ada.ipynb").write_bytes(notebook({"words": "Another answer."}))
    (handed / "bob.ipynb").write_bytes(notebook(last=["1"]))
    course.collect(folder, "toy", handed)
    with pytest.raises(ValueError, match="not graded as it is now"):
        course.export(folder, "toy", "plain", path)
    assert course.grade(folder, "toy", way="bubblewrap")[0] == 2
    course.export(folder, "toy", "plain", path)
    plain = {row["id"]: row for row in rows(path)}
    assert plain["bob"]["score"] == "20"
    # The mark by hand was for another answer: it stays, and has to be looked at again.
    assert (plain["ada"]["score"], plain["ada"]["by_hand"]) == ("24.5", "to come")

    with gradebook.opened(folder) as book:  # looked at; then comes a file without an answer
        (submitted,) = book.find_submission("toy", "ada").notebooks
        for grade in submitted.grades:
            grade.needs_manual_grade = False
        book.db.commit()
    (handed / "ada.ipynb").write_bytes(b"no notebook")
    course.collect(folder, "toy", handed)
    assert course.grade(folder, "toy", way="bubblewrap")[0] == 1
    course.export(folder, "toy", "plain", path)
    plain = {row["id"]: row for row in rows(path)}
    assert (plain["ada"]["status"], plain["ada"]["by_hand"]) == ("invalid", "to come")
    assert plain["dan"]["by_hand"] == "done"


@pytest.mark.filterwarnings("ignore")
def test_a_run_killed_between_gradebook_and_notebook_asks_for_the_mark_again(folder, monkeypatch):
    path = folder / "submitted" / "ada" / "toy" / "toy.ipynb"
    path.parent.mkdir(parents=True)
    path.write_bytes(notebook())
    enter, asked = gradebook.enter, []

    def killed(*args, new_answer):
        asked.append(new_answer)
        raise KeyboardInterrupt

    monkeypatch.setattr(gradebook, "enter", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            course.grade(folder, "toy", way="bubblewrap")
    monkeypatch.setattr(gradebook, "enter", enter)
    assert asked == [True, True]


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_graded_rightly_is_refused(folder, monkeypatch):
    source = folder / "assignments" / "toy" / "toy.ipynb"
    source.write_text(source.read_text() + "\n")
    with pytest.raises(ValueError, match="changed since it was released"):
        course.grade(folder, "toy", way="bubblewrap")
    monkeypatch.setattr(course, "bound_above", lambda path: "/usr")
    with pytest.raises(ValueError, match="below /usr, which students' code can read"):
        course.grade(folder, "toy", way="bubblewrap")


@pytest.mark.filterwarnings("ignore")
def test_parts_of_an_array_job_are_merged_by_a_last_run(folder, tmp_path):
    for k, name in enumerate(("ada", "bob", "cyd")):
        path = folder / "submitted" / name / "toy" / "toy.ipynb"
        path.parent.mkdir(parents=True)
        path.write_bytes(notebook(last=[f"k = {k}"]))
    counts = [course.grade(folder, "toy", way="bubblewrap", part=(k, 2))[0] for k in (1, 2)]
    assert counts == [2, 1]
    (folder / "students.csv").write_text("id\nada\nbob\ncyd\n")
    shutil.copytree(folder / "submitted" / "ada", folder / "submitted" / "eve")
    count, records, unknown = course.grade(folder, "toy", way="bubblewrap")
    assert (count, len(records), unknown) == (0, 3, ["eve"])


def test_hostile_archives(folder, tmp_path, monkeypatch):
    path = tmp_path / "in.zip"
    link = zipfile.ZipInfo("s/cyd_13_1_link.ipynb")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("s/ada_11_1_toy.ipynb", notebook())
        packed.writestr("../../s/bob_12_1_toy.ipynb", notebook())
        packed.writestr("/abs/bob_12_1_toy.ipynb", notebook())
        packed.writestr("..\\bob_12_1_toy.ipynb", notebook())
        packed.writestr(link, "/etc/passwd")
        packed.writestr("s/dan_14_1_bomb.ipynb", bytes(100 << 20))
        packed.writestr("s/=cmd_99_1_toy.ipynb", notebook())
        packed.writestr("s/notes.txt", "x")
    before = sorted(p for p in tmp_path.rglob("*"))
    taken, left = course.collect(folder, "toy", path, "canvas")
    assert taken == ["ada"]
    assert len(left) == 7
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - set(before)
    assert new == {folder / "submitted/ada/toy/toy.ipynb"}
    with zipfile.ZipFile(path, "w") as packed:  # these names are read one by one
        packed.writestr("s/ada_11_1_toy.ipynb", bytes(MAX_BYTES + 1))
    assert course.collect(folder, "toy", path, "canvas")[0] == []
    monkeypatch.setattr(course, "MAX_FILES", 0)
    with pytest.raises(ValueError, match="more than 0 files"):
        course.collect(folder, "toy", path, "canvas")
    large = tmp_path / "large"
    large.mkdir()
    (large / "ada.ipynb").write_bytes(bytes(MAX_BYTES + 1))
    assert course.collect(folder, "toy", large) == (
        [], ["ada.ipynb: it is too large, or no plain file"]
    )  # fmt: skip
    broken = tmp_path / "broken.zip"
    broken.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        course.collect(folder, "toy", broken)


def test_platforms_names_are_understood(folder, tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("Ada A_11_assignsubmission_file/toy.ipynb", notebook())
        packed.writestr("Bob_B_12_assignsubmission_file_/mine/my answer.ipynb", notebook())
    assert course.collect(folder, "toy", path, "moodle")[0] == ["ada", "bob"]
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("cyd/toy.ipynb", notebook())
        packed.writestr("dan.ipynb", notebook())
        packed.writestr("../cyd/toy.ipynb", notebook())
    assert course.collect(folder, "toy", path, "plain")[0] == ["cyd", "dan"]
    handed = tmp_path / "in"
    handed.mkdir()
    (handed / "ada.ipynb").symlink_to("/etc/passwd")
    assert course.collect(folder, "toy", handed)[0] == []


def test_a_folder_of_a_students_own_speaks_for_nobody_else(folder, tmp_path):
    path = tmp_path / "in.zip"
    bobs = notebook(last=["'bob'"])
    for form, ada, bob in (
        ("plain", "ada", "bob"),
        ("moodle", "A_11_assignsubmission_file_", "B_12_assignsubmission_file_"),
        ("moodle", "A_11_assignsubmission_onlinetext_", "B_12_assignsubmission_file_"),
    ):
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(f"{ada}/{bob}/toy.ipynb", notebook())
            packed.writestr(f"{bob}/toy.ipynb", bobs)
        course.collect(folder, "toy", path, form)
        assert (folder / "submitted/bob/toy/toy.ipynb").read_bytes() == bobs, form


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "' =1"), ("\r\n=1", "'  =1"), (" =1", "' =1"),
        ("\uff1d1", "'\uff1d1"), ("   ", "   "), ("a=1", "a=1"), (1.5, "1.5"),
        (-2.0, "-2"), ("", ""), ("a\nb", "a b"),
    ],
)  # fmt: skip
def test_formulas_are_text(value, shown):
    assert course.plain(value) == shown


def test_pages_escape_everything(toy):
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\x00"
    record = grade(toy, b"", "seed") | {
        "status": evil,
        "remarks": [evil],
        "written": {"words": evil},
    }
    record["cells"] = [
        {
            "label": evil,
            "theirs": True,
            "source": evil,
            "output": evil,
            "error": evil,
            "trace": evil,
        }
    ]
    page = feedback_page(toy, record, {}, {"words": evil}, waiting=True)
    soup = BeautifulSoup(page, "html5lib")
    assert not soup.find_all(["script", "img"])
    assert "\x1b" not in page
    assert "[31m" not in page
    assert "\x00" not in page
    shown = json.loads(by_hand_notebook(toy, record))
    assert not any("<" in c["source"] for c in shown["cells"] if c["cell_type"] == "markdown")
    assert all(o["output_type"] == "stream" for c in shown["cells"] for o in c.get("outputs", []))


def test_errors_say_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'distillation'"):
        course.new(tmp_path / "new", "destillation")
    with pytest.raises(ValueError, match="there are: toy"):
        course.find(folder, "nothing")
    (folder / "students.csv").write_text("id\nada\nada\n")
    with pytest.raises(ValueError, match="line 3: 'ada' is there twice"):
        course.roster(folder)
    (folder / "students.csv").write_text("id\n../x\n")
    with pytest.raises(ValueError, match="is no id"):
        course.roster(folder)
    (folder / "seed").write_text("short")
    with pytest.raises(ValueError, match="secret"):
        course.seed(folder)


def test_commands(tmp_path):
    run = CliRunner().invoke
    assert "distillation" in run(app, ["assignment", "list"]).output
    made = run(app, ["assignment", "new", "distillation", "--course", str(tmp_path)])
    assert made.exit_code == 0
    assert stat.S_IMODE((tmp_path / "seed").stat().st_mode) == 0o600
    assert len((tmp_path / "seed").read_text().strip()) == 32
    again = run(app, ["assignment", "new", "distillation", "--course", str(tmp_path)])
    assert isinstance(again.exception, ValueError)
    assert "kept" in str(again.exception)
    wrong = run(app, ["assignment", "grade", "distillation", "--part", "3/2"])
    assert wrong.exit_code == 2


def test_the_seed_alone_sets_a_networks_weights():
    """Not torch's own generator, of which tests in other threads draw as well."""
    script = PACKAGED / "fine_tuning" / "tests.py"
    scope = {"__name__": "fine_tuning"}
    exec(compile(script.read_text(), str(script), "exec"), scope)
    one, two = (scope["Case"](np.random.default_rng(3), ("a", "b")) for _ in range(2))
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    assert torch.equal(one.x, two.x)
    assert len(one.state["a.1.weight"].unique()) > 1


@pytest.mark.parametrize("name", course.packaged())
def test_each_assignment_is_whole(name):
    """100 points, of which the reference answers earn all that tests give; and the stubs none."""
    assignment = load(PACKAGED / name)
    assert assignment.points == 100
    assert any(test.hidden for test in assignment.tests)
    assert any(not test.hidden for test in assignment.tests)
    assert assignment.written
    data = (PACKAGED / name / f"{name}.ipynb").read_bytes()
    scope = {}
    for cell in json.loads(data)["cells"]:  # the visible asserts hold for the reference answers
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    by_tests = sum(test.points for test in assignment.tests)
    record = grade(assignment, data, "any seed")
    assert (record["status"], record["score"]) == ("graded", by_tests), record["tests"]
    book = json.loads(data)
    for cell in book["cells"]:
        if "### BEGIN SOLUTION" in "".join(cell["source"]):
            start, rest = "".join(cell["source"]).split("### BEGIN SOLUTION")
            cell["source"] = f"{start}raise NotImplementedError{rest.split('### END SOLUTION')[1]}"
    record = grade(assignment, json.dumps(book).encode(), "any seed")
    assert record["score"] == 0, record["tests"]
