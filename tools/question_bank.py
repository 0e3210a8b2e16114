"""The bank of short questions, with answers: a page, and files that a learning platform imports.

tools/lab.py reads the questions from the chapters, and writes what is made here:
    book/reference/question-bank.md        the page
    book/reference/question-bank.gift.txt  GIFT, which Moodle imports
    book/reference/question-bank.tsv       a line for each answer
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from notebooks import BOOK

BANK = BOOK / "reference" / "question-bank"
INTRODUCTION = """# Question bank

The short questions of all chapters, with their answers, for a quiz or for the beginning of a
lesson. In the chapters they are where the idea is; here they stand by chapter, each with its name
in the files. Edit them there: `make format` writes this page and the files again.

- {download}`question-bank.gift.txt` is GIFT: in Moodle, *Question bank*, *Import*, *GIFT format*.
  Each chapter becomes a category, and each explanation is shown as feedback. Formulas need Moodle's
  MathJax filter, which is on unless somebody has switched it off.
- {download}`question-bank.tsv` is a table, for spreadsheets and anything else: its columns are
  parted by tabs, with a line for each answer and a 1 where it is right. Formulas are in TeX,
  between dollars.

Numbers in brackets are those of the chapter's equations. The answers are public, so the questions
are for learning, not for marks.
"""
# What Markdown may hold inside a line, the longest first: code, formulas, bold, italic.
INLINE = re.compile(r"`([^`]+)`|\$([^$]+)\$|\*\*([^*]+)\*\*|\*([^*]+)\*")


@dataclass(frozen=True)
class ShortQuestion:
    """A question of a chapter, in plain Markdown."""

    name: str
    asked: str
    answers: tuple[tuple[str, bool, str], ...]  # words, whether it is right, why


def derive(bank: Mapping[str, Sequence[ShortQuestion]]) -> dict[Path, str]:
    """Return what the files must hold, from the questions by the chapter's title."""
    bank = {
        title: [without_links(question) for question in questions]
        for title, questions in bank.items()
        if questions
    }
    return {
        BANK.with_suffix(".md"): page(bank),
        BANK.with_suffix(".gift.txt"): gift(bank),
        BANK.with_suffix(".tsv"): table(bank),
    }


def without_links(question: ShortQuestion) -> ShortQuestion:
    """Return the question with the names of chapters in place of links to their notebooks."""

    def named(text: str) -> str:
        return re.sub(r"\[([^\]]+)\]\([^)]+\.ipynb\)", r"*\1*", text)

    answers = tuple((named(words), right, named(why)) for words, right, why in question.answers)
    return ShortQuestion(question.name, named(question.asked), answers)


def page(bank: Mapping[str, Sequence[ShortQuestion]]) -> str:
    """Return the page, in Markdown."""
    parts = [INTRODUCTION]
    for title, questions in bank.items():
        parts.append(f"## {title}\n")
        for question in questions:
            parts.append(f"**{question.asked}** (`{question.name}`)\n")
            for words, right, why in question.answers:
                parts.append(f"- {'**Right:**' if right else 'Wrong:'} {words}. *Why:* {why}")
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def gift(bank: Mapping[str, Sequence[ShortQuestion]]) -> str:
    """Return the questions in GIFT, each chapter a category."""
    parts = []
    for title, questions in bank.items():
        # A slash parts a category from its parent; two are one slash.
        parts.append(f"$CATEGORY: Transfer learning/{title.replace('/', '//')}\n")
        for question in questions:
            parts.append(f"::{quoted(question.name)}::[html]{quoted(html(question.asked))} {{")
            for words, right, why in question.answers:
                mark = "=" if right else "~"
                parts.append(f"{mark}[html]{quoted(html(words))}#[html]{quoted(html(why))}")
            parts.append("}\n")
    return "\n".join(parts)


def table(bank: Mapping[str, Sequence[ShortQuestion]]) -> str:
    """Return a table with a line for each answer, its columns parted by tabs."""
    written = io.StringIO()
    lines = csv.writer(written, "excel-tab", lineterminator="\n")
    lines.writerow(["chapter", "name", "question", "answer", "right", "why"])
    for title, questions in bank.items():
        for question in questions:
            for words, right, why in question.answers:
                lines.writerow([title, question.name, question.asked, words, int(right), why])
    return written.getvalue()


def html(text: str) -> str:
    """Return a line of Markdown as HTML, its formulas as MathJax finds them in Moodle."""
    made, end = [], 0
    for found in INLINE.finditer(text):
        made.append(escape(text[end : found.start()], quote=False))
        end = found.end()
        for body, begin, close in zip(
            found.groups(),
            ("<code>", r"\(", "<b>", "<i>"),
            ("</code>", r"\)", "</b>", "</i>"),
            strict=True,
        ):
            if body is not None:
                made.append(begin + escape(body, quote=False) + close)
    return "".join([*made, escape(text[end:], quote=False)])


def quoted(text: str) -> str:
    """Return a text with a backslash before each sign that means something in GIFT."""
    return re.sub(r"([\\~=#{}:])", r"\\\1", text)
