"""The bank of short questions: what a learning platform reads is what the chapters ask."""

from __future__ import annotations

import csv
import io
import re
from html import unescape

import notebooks
import pytest
import question_bank
from question_bank import BANK, ShortQuestion

import lab

HARD = ShortQuestion(
    "question-hard",
    r"Is $\nabla f = \frac{a}{b}$ {so}: 50 % ~ *half* `a = b #1`?",
    (("no < 1", False, r"a: b\n & $\{x\}$"), ("yes", True, "**sure** = ~")),
)


@pytest.fixture(scope="module")
def files():
    made = lab.derive()
    return {suffix: made[BANK.with_suffix(suffix)] for suffix in (".md", ".gift.txt", ".tsv")}


def asked_in_the_chapters() -> int:
    return sum(
        len(re.findall(r"^:::\{question\}", path.read_text("utf-8").replace('"', "\n"), re.M))
        for path in notebooks.sources().values()
        if path.suffix == ".ipynb"
    )


def unquoted(text: str) -> str:
    """Read as Moodle does: a backslash takes the meaning of the sign behind it away."""
    return re.sub(r"\\([\\~=#{}:])", r"\1", text)


def read(text: str) -> list[tuple[str, str, str, list[tuple[bool, str, str]]]]:
    """Read GIFT: the category, name, question and answers of each question."""
    plain = r"(?:\\.|[^\\~=#{}:])*"
    found, category = [], ""
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("$CATEGORY: "):
            category = block.removeprefix("$CATEGORY: ")
            continue
        whole = re.fullmatch(rf"::({plain})::\[html\]({plain}) \{{\n(.*)\n\}}", block, re.S)
        assert whole, block
        answers = []
        for line in whole[3].split("\n"):
            one = re.fullmatch(rf"([=~])\[html\]({plain})#\[html\]({plain})", line)
            assert one, line
            answers.append((one[1] == "=", unquoted(one[2]), unquoted(one[3])))
        found.append((category, unquoted(whole[1]), unquoted(whole[2]), answers))
    return found


def test_every_question_of_the_chapters_is_in_every_file(files):
    n = asked_in_the_chapters()
    assert n > 30
    questions = read(files[".gift.txt"])
    assert len(questions) == n
    assert len({name for _, name, _, _ in questions}) == n, "two questions have one name"
    rows = list(csv.DictReader(io.StringIO(files[".tsv"]), dialect="excel-tab"))
    assert len({row["name"] for row in rows}) == n
    assert len(rows) == sum(len(answers) for *_, answers in questions)
    for _, name, *_ in questions:
        assert f"(`{name}`)" in files[".md"]


def test_every_chapter_asks_two_or_more(files):
    rows = list(csv.DictReader(io.StringIO(files[".tsv"]), dialect="excel-tab"))
    names = {title: {r["name"] for r in rows if r["chapter"] == title} for title in titles()}
    assert {title for title, asked in names.items() if len(asked) < 2} == set()


def titles() -> set[str]:
    found = set()
    for path in notebooks.sources().values():
        if path.suffix == ".ipynb":
            found.add(re.search(r'"# (.*?)(?:\\n)?"', path.read_text("utf-8"))[1])  # type: ignore[index]
    return found


def test_one_answer_is_right_and_each_says_why(files):
    for _, name, _, answers in read(files[".gift.txt"]):
        assert [right for right, _, _ in answers].count(True) == 1, name
        assert all(why for _, _, why in answers), name
        assert len({words for _, words, _ in answers}) == len(answers), name


def test_no_markup_of_the_site_is_left(files):
    for text in files.values():
        for pattern in (r"\{eq\}", r"\{doc\}", r"\{ref\}", r":::", r"\.ipynb"):
            assert not re.search(pattern, text.replace(question_bank.INTRODUCTION, ""))
    for _, _, asked, answers in read(files[".gift.txt"]):
        for text in (asked, *(t for _, *both in answers for t in both)):
            assert "$" not in text
            assert "`" not in text
            assert text.count(r"\(") == text.count(r"\)")


def test_signs_that_mean_something_in_gift_come_through():
    ((category, name, asked, answers),) = read(question_bank.gift({"A/B": [HARD]}))
    assert category == "Transfer learning/A//B"
    assert name == "question-hard"
    assert unescape(asked) == (
        r"Is \(\nabla f = \frac{a}{b}\) {so}: 50 % ~ <i>half</i> <code>a = b #1</code>?"
    )
    assert answers == [
        (False, "no &lt; 1", r"a: b\n &amp; \(\{x\}\)"),
        (True, "yes", "<b>sure</b> = ~"),
    ]


def test_a_link_becomes_the_chapters_name():
    question = ShortQuestion("a", "See [Fine-tuning](../methods/fine-tuning.ipynb).", ())
    assert question_bank.without_links(question).asked == "See *Fine-tuning*."
