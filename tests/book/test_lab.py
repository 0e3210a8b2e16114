"""The notebooks of the lab: what a learner gets, what stays theirs, what no chapter may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import notebooks
import pytest

import lab

CHAPTERS = {page: path for page, path in notebooks.sources().items() if path.suffix == ".ipynb"}
each = pytest.mark.parametrize("page", CHAPTERS)
LEFT_OVER = {
    "a role": r"\{[\w:-]+\}`",
    "a directive": r"^(?:`{3,}|:{3,})\{",
    "an attribute": r"\]\{#",
    "a label": r"^\([\w-]+\)=",
    "an option": r"^:(?:label|name|class|alt):",
    "a label of an equation": r"\$\$ *\([\w-]+\)",
}


def cells_of(path: Any) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def learner(page: str) -> Any:
    return lab.LEARNER / f"{page.removeprefix('book/')}.ipynb"


def lines_of(text: str) -> Iterator[str]:
    """Yield what says something: lines of three words or more."""
    for line in text.split("\n"):
        if len(re.findall(r"\w+", line)) >= 3:
            yield line.strip()


def secret_and_open(page: str) -> tuple[set[str], set[str]]:
    """Return the lines inside and outside hints and solutions, as the chapter writes them."""
    inside: list[str] = []
    outside: list[str] = []
    secret, fence = False, ""
    for cell in cells_of(CHAPTERS[page]):
        for line in lab.text_of(cell).split("\n"):
            opened = re.match(r"(`{3,})\{(solution|dropdown)\} ?(Hint|ex-)?", line)
            if "{solution-start}" in line:
                secret = True
            elif "{solution-end}" in line:
                secret = False
            elif opened and opened[3] and not fence:
                fence = opened[1]
            elif fence and line.strip() == fence:
                fence = ""
            else:
                (inside if secret or fence else outside).append(line)
    return set(lines_of("\n".join(inside))), set(lines_of("\n".join(outside)))


# The notebooks as they are committed


def test_regenerating_gives_what_is_committed():
    wrong = [path.relative_to(lab.ROOT).as_posix() for path in lab.stale(lab.derive())]
    assert not wrong, "`make format` writes them again"


@each
def test_no_line_of_a_solution_or_hint_is_in_the_learners_notebook(page):
    secret, known = secret_and_open(page)
    assert secret, "a chapter has exercises with solutions"
    given = set(lines_of("\n".join(lab.text_of(cell) for cell in cells_of(learner(page)))))
    assert not (secret - known) & given


@each
def test_no_markup_of_the_site_is_left_in_the_learners_notebook(page):
    for cell in cells_of(learner(page)):
        if cell["cell_type"] == "markdown":
            for what, pattern in LEFT_OVER.items():
                found = re.search(pattern, cell["source"], re.MULTILINE)
                assert not found, f"{cell['id']}: {what}, {found[0]!r}"


@each
def test_the_learners_notebook_keeps_the_code_and_holds_no_output(page):
    given = cells_of(learner(page))
    assert not any(cell.get("outputs") for cell in given)
    ids = [cell["id"] for cell in given]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)


# A chapter made for the tests


def code(source: str, name: str = "code") -> dict[str, Any]:
    return {"cell_type": "code", "id": name, "metadata": {}, "source": source}


def text(source: str, name: str = "text") -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


EXERCISE = [
    text("# Title\n\nSee {eq}`eq-a` and {doc}`other`.\n\n$$\na = b\n$$ (eq-a)", "begin"),
    text("```{exercise-start} Count\n:label: ex-count\n```\nCount them.", "task"),
    code("def count():\n    return ...", "stub"),
    code("ex.q1.check(count)", "stub-check"),
    text("```{exercise-end}\n```\n\n```{dropdown} Hint\nUse your fingers.\n```", "hint"),
    text("```{solution-start} ex-count\n:label: sol-count\n```", "solution-start"),
    code("def count():\n    return 7", "solution"),
    code("ex.q1.check(count)", "solution-check"),
    text("Seven it is.\n\n```{solution-end}\n```\n\nAnd on.", "solution-end"),
]


def made(cells: list[dict[str, Any]]) -> Any:
    book = lab.Book.read({"book/methods/one": cells})
    book.titles["book/methods/other"] = "The other chapter"
    return lab.Chapter("book/methods/one", cells, book)


def test_a_learner_gets_the_task_the_stub_and_the_check():
    chapter = made(EXERCISE)
    sources = [cell["source"] for cell in chapter.learner]
    assert sources == [
        "# Title\n\nSee (1.1) and *The other chapter*.\n\n$$\na = b \\tag{1.1}\n$$",
        "### Exercise 1.1. Count\n\nCount them.",
        "def count():\n    return ...",
        "ex.q1.check(count)\n# ex.q1.hint()\n# ex.q1.solution()",
        "And on.",
    ]


def test_an_instructor_gets_the_hint_and_the_solution_too():
    chapter = made(EXERCISE)
    whole = "\n".join(cell["source"] for cell in chapter.instructor)
    for wanted in ("**Hint.** Use your fingers.", "return 7", "Seven it is.", "And on."):
        assert wanted in whole
    assert "# ex.q1.hint()" not in whole
    (exercise,) = chapter.exercises
    assert (exercise.label, exercise.hints) == ("ex-count", ["Use your fingers."])
    assert exercise.solution == [
        "def count():\n    return 7",
        "ex.q1.check(count)",
        "Seven it is.",
    ]


QUESTION = ":::{question} Which?\n- this :: It is not.\n+ that :: It is, by {eq}`eq-a`.\n:::"


def test_a_short_question_opens_its_answers():
    chapter = made([*EXERCISE, text(QUESTION, "question")])
    assert chapter.learner[-1]["source"] == (
        "**Which?**\n\n"
        "<details><summary>this</summary>\n\nNo. It is not.\n\n</details>\n\n"
        "<details><summary>that</summary>\n\nRight. It is, by (1.1).\n\n</details>"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("```{note}\nNever closed.", "'```{note}' is not closed"),
        ("```{carousel}\nRound.\n```", "no plain form is known for the directive 'carousel'"),
        ("A {shiny}`word`.", "no plain form is known for the role 'shiny'"),
        ("See {eq}`eq-nowhere`.", "nothing is called 'eq-nowhere'"),
        ("```{note} Of `x`\nWords.\n```", "a title with backticks needs a fence of colons"),
        ("```{question} Which?\n- this :: No.\n```", "one with [+] that is right"),
        ("```{question} Which?\n+ a :: 1\n+ b :: 2\n```", "one with [+] that is right"),
        ("```{question} Which?\n- this\n+ that :: Yes.\n```", "lines '- answer :: why'"),
    ],
)
def test_a_bad_cell_is_an_error_that_names_chapter_and_cell(bad, message):
    with pytest.raises(lab.LabError, match=message) as raised:
        made([*EXERCISE, text(bad, "the-bad-one")])
    assert str(raised.value).startswith("book/methods/one, cell the-bad-one: ")


def test_a_solution_without_an_end_is_an_error():
    with pytest.raises(lab.LabError, match="book/methods/one: the solution of ex-count has no end"):
        made(EXERCISE[:-1])


# What is a learner's own


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one notebook, and the folder of somebody who has begun it."""
    monkeypatch.setattr(lab, "LEARNER", tmp_path / "learner")
    source = tmp_path / "learner" / "methods" / "one.ipynb"
    source.parent.mkdir(parents=True)
    write(source, "def count():\n    return ...")
    mine = tmp_path / "mine"
    assert lab.bring_up_to_date(mine) == []
    return source, mine / "methods" / "one.ipynb"


def write(path: Any, source: str, output: str = "") -> None:
    cell = code(source) | {"execution_count": None, "outputs": [output] if output else []}
    path.write_text(lab.notebook([cell]), encoding="utf-8")


def source_of(path: Any) -> str:
    return cells_of(path)[0]["source"]


def again(copy: Any) -> list[str]:
    return lab.bring_up_to_date(copy.parents[1])


def test_a_learners_answer_stays(course):
    _, copy = course
    write(copy, "def count():\n    return 7")
    assert again(copy) == []
    assert source_of(copy) == "def count():\n    return 7"
    assert list(copy.parent.iterdir()) == [copy]


def test_what_has_only_been_run_stays_until_the_chapter_changes(course):
    source, copy = course
    write(copy, "def count():\n    return ...", output="seen")
    assert again(copy) == []
    assert cells_of(copy)[0]["outputs"] == ["seen"]
    write(source, "def count():\n    return ...  # now clearer")
    assert again(copy) == []
    assert source_of(copy) == "def count():\n    return ...  # now clearer"
    assert list(copy.parent.iterdir()) == [copy]


def test_where_both_have_changed_the_new_one_is_put_beside_and_said_once(course):
    source, copy = course
    write(copy, "def count():\n    return 7")
    write(source, "def count():\n    return ...  # now clearer")
    (said,) = again(copy)
    assert "methods/one.ipynb has changed since you began" in said
    assert "one.new.ipynb" in said
    assert source_of(copy) == "def count():\n    return 7"
    assert source_of(copy.with_name("one.new.ipynb")) == source_of(source)
    assert again(copy) == []
    assert source_of(copy) == "def count():\n    return 7"


def test_work_in_the_new_one_is_kept_when_another_comes(course):
    source, copy = course
    write(copy, "def count():\n    return 7")
    write(source, "def count():\n    return ...  # now clearer")
    again(copy)
    write(copy.with_name("one.new.ipynb"), "def count():\n    return 8")
    write(source, "def count():\n    return ...  # clearer still")
    (said,) = again(copy)
    assert "one.new2.ipynb" in said
    assert source_of(copy.with_name("one.new.ipynb")) == "def count():\n    return 8"
    assert source_of(copy.with_name("one.new2.ipynb")) == source_of(source)


def test_a_broken_notebook_is_its_owners(course):
    source, copy = course
    copy.write_text('{"cells": [', encoding="utf-8")
    assert again(copy) == []
    write(source, "def count():\n    return ...  # now clearer")
    assert len(again(copy)) == 1
    assert copy.read_text(encoding="utf-8") == '{"cells": ['


def test_a_deleted_copy_comes_back(course):
    source, copy = course
    copy.unlink()
    assert again(copy) == []
    assert copy.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("known", ["", "{", "[1]", None])
def test_without_the_record_of_copies_nothing_of_the_learners_is_lost(course, known):
    _, copy = course
    record = copy.parents[1] / lab.KEPT
    record.unlink() if known is None else record.write_text(known)
    write(copy, "def count():\n    return 7")
    assert len(again(copy)) == 1
    assert source_of(copy) == "def count():\n    return 7"
