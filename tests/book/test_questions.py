"""Short questions on the page: what a reader finds, with and without a mouse, and printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup
from notebooks import BOOK

CONF = """extensions = ['myst_parser', 'tlcourse_questions']
myst_enable_extensions = ['colon_fence', 'dollarmath']
"""
PAGE = """# Title

:::{{question}} Which $x$ is *right*, by `ls`?
{lines}
:::
"""
LINES = "- the **first** :: It is `0`.\n+ the second :: Since $x = 1$.\n- a < b & c :: No."


def build(folder, lines: str) -> subprocess.CompletedProcess[str]:
    (folder / "conf.py").write_text(CONF)
    (folder / "index.md").write_text(PAGE.format(lines=lines))
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", ".", "out"]
    path = os.pathsep.join([str(BOOK / "_ext"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = build(folder, LINES)
    assert run.returncode == 0, run.stderr
    page = BeautifulSoup((folder / "out" / "index.html").read_text("utf-8"), "html5lib")
    (box,) = page.select("div.tl-question")
    return box


def test_each_answer_opens_to_say_whether_it_is_right_and_why(question):
    answers = question.select("details")
    assert [a.summary.get_text().strip() for a in answers] == [
        "the first",
        "the second",
        "a < b & c",
    ]
    said = [a.p.get_text() for a in answers]
    assert said[0] == "No. It is 0."
    assert said[1].startswith("Right. Since ")
    assert question.select_one(".tl-asked").get_text().startswith("Which ")


def test_it_needs_no_script_and_no_colour(question):
    assert (question["role"], question["aria-label"]) == ("group", "Question")
    assert all(child.name != "script" for child in question.descendants)
    assert not any(d.has_attr("open") for d in question.select("details"))
    assert all(d.find(recursive=False).name == "summary" for d in question.select("details"))
    assert [d.p.strong.get_text() for d in question.select("details")] == ["No.", "Right.", "No."]


def test_markup_and_formulas_are_read(question):
    assert question.select_one(".tl-asked em").get_text() == "right"
    assert question.select_one(".tl-asked code").get_text() == "ls"
    assert question.select_one("summary strong").get_text() == "first"
    assert len(question.select(".math")) == 2


def test_the_style_sheet_closes_them_in_print():
    style = (BOOK / "_static" / "site.css").read_text("utf-8")
    printed = style[style.index("@media print") :]
    assert "details.tl-answer > p {\n    display: none;" in printed[: printed.index("\n}\n")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [("- a :: b\n- c :: d", "one with + that is right"), ("- a\n+ b :: c", "- answer :: why")],
)
def test_a_question_that_cannot_be_read_stops_the_build(tmp_path, lines, message):
    run = build(tmp_path, lines)
    assert run.returncode != 0
    assert "index.md:3" in run.stderr
    assert message in run.stderr
