"""The page for instructors: its plans cover the course, and its words are those of the commands."""

from __future__ import annotations

import re

import pytest
import slides
from notebooks import BOOK, sources
from typer.testing import CliRunner

from tlcourse.cli import app
from tlcourse.grading import course
from tlcourse.grading.sandbox import Limits

PAGE = (BOOK / "reference" / "for-instructors.md").read_text(encoding="utf-8")
CHAPTERS = {page for page, path in sources().items() if path.suffix == ".ipynb"}
NAMED = re.compile(r"\{doc\}`\.\./([\w/-]+)`((?: ?\d,?)*)")


def plan(name: str) -> str:
    """Return the part of the page on one plan."""
    return PAGE.partition(f"**In {name} weeks**")[2].partition("\n**")[0].partition("\nRead ")[0]


@pytest.mark.parametrize(("name", "weeks"), [("six", 6), ("twelve", 12)])
def test_a_plan_names_every_chapter_once_and_none_that_is_not_there(name, weeks):
    found = NAMED.findall(plan(name))
    pages = [f"book/{page}" for page, _ in found]
    given = sorted(pages) if name == "six" else sorted(set(pages))  # one is split over two weeks
    assert given == sorted(CHAPTERS), "put a new chapter into a week, or under 'Left out'"
    rows = re.findall(r"^\| (\d+) \| .* \| (\d) \+ (\d) \| .*\|$", plan(name), re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, weeks + 1))
    outs = re.findall(r"`(\w+)` out", plan(name))
    assert sorted(outs) == course.packaged()


@pytest.mark.parametrize("name", ["six", "twelve"])
def test_a_plan_names_exercises_that_there_are(name):
    left = plan(name).partition("Left out")[2]
    for page, numbers in NAMED.findall(plan(name)):
        cells = slides.chapters()[f"book/{page}"]
        count = sum(slides.text_of(cell).count("{exercise-start}") for cell in cells)
        chosen = [int(number) for number in re.findall(r"\d", numbers)]
        assert chosen or page in left
        assert all(1 <= number <= count for number in chosen), (page, chosen)


def test_the_licence_line_is_one_that_the_tool_writes():
    (line,) = re.findall(r"(?:^> .*\n)+", PAGE, re.MULTILINE)
    line = " ".join(part.removeprefix("> ") for part in line.splitlines())
    page = "book/introduction/what-is-transfer-learning"
    cells = slides.chapters()
    deck = slides.Deck(page, cells[page], slides.Book.read(cells), {})
    assert line in [slides.line_for(picture, deck) for picture in deck.pictures]


def test_the_commands_of_the_page_are_there():
    commands = set(re.findall(r"tlcourse assignment (\w+)", PAGE))
    assert {"list", "new", "release", "collect", "grade", "feedback", "export"} <= commands
    for command in commands:
        shown = CliRunner().invoke(app, ["assignment", command, "--help"])
        assert shown.exit_code == 0, command
    assert all(f"`{name}`" in PAGE for name in course.packaged())
    for option in ("--container", "--image", "--unsafe-no-sandbox", "--part"):
        assert option in PAGE


def test_the_limits_of_the_page_are_those_of_the_sandbox():
    limits = Limits()
    said = (
        f"A cell has {limits.cell:g} seconds of a processor, a test {limits.test:g}, a submission"
    )
    assert f"{said} {limits.total:g}; a process has {limits.memory >> 30} GB of memory." in PAGE
