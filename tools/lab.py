"""Make the notebooks of the lab from the chapters: the learner's, the instructor's, the hints.

A chapter is the one source. From it come, all committed and compared by `--check`:
    lab/learner/...             stubs and checks, no solution, plain Markdown
    lab/instructor/...          the same with hints and solutions
    tlcourse/exercises/texts.json   what `hint()` and `solution()` of a question print
    book/reference/question-bank.*  the short questions, to read and to import (question_bank.py)

Usage:
    python tools/lab.py             write them
    python tools/lab.py --check     change nothing; name what differs, fail if any
    python tools/lab.py --mine DIR  bring a learner's own copies up to date (what `make lab` does)
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import mimetypes
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import question_bank
from notebooks import ROOT, sources
from question_bank import ShortQuestion

LEARNER, INSTRUCTOR = ROOT / "lab" / "learner", ROOT / "lab" / "instructor"
TEXTS = ROOT / "tlcourse" / "exercises" / "texts.json"
KEPT = ".copied.json"  # in a learner's folder: what each copy was made from
FENCE = re.compile(r"^(`{3,}|:{3,})\{([\w-]+)\}\s*(.*)$")
OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")
ROLE = re.compile(r"\{([\w:]+)\}`([^`]*)`")
CHECK = re.compile(r"(ex\.q\d+)\.check\(")
EQUATION = re.compile(r"^(\$\$.*?)\$\$ *\((eq-[\w-]+)\)", re.MULTILINE | re.DOTALL)


class LabError(Exception):
    """A chapter that no notebook can be made from; the message says why."""


def text_of(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


@dataclass
class Book:
    """What all chapters share: their titles, and the number or words for each label."""

    titles: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    works: dict[str, tuple[str, str]] = field(default_factory=dict)  # short and whole form

    @classmethod
    def read(cls, chapters: dict[str, list[dict[str, Any]]]) -> Book:
        """Return the labels numbered as on the site: by chapter, each kind in order."""
        book = cls(works=read_works())
        for number, (page, cells) in enumerate(chapters.items(), start=1):
            book.titles[page] = heading(cells, page)
            counts = {"eq": 0, "fig": 0, "ex": 0}
            for cell in cells:
                for label in labels_in(cell):
                    kind = label.split("-")[0]
                    counts[kind] += 1
                    book.labels[label] = f"{number}.{counts[kind]}"
        for page, path in sources().items():
            if page not in book.titles:
                book.titles[page] = (
                    path.read_text(encoding="utf-8").split("\n# ")[-1].splitlines()[0]
                )
        return book


def labels_in(cell: dict[str, Any]) -> Iterator[str]:
    """Yield the labels of what a cell numbers, in order."""
    if cell["cell_type"] == "code":
        if name := cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"):
            yield name
        return
    pattern = r"\$\$ *\((eq-[\w-]+)\)|^:name: (fig-[\w-]+)|^:label: (ex-[\w-]+)"
    for found in re.finditer(pattern, text_of(cell), re.MULTILINE):
        yield next(filter(None, found.groups()))


def heading(cells: list[dict[str, Any]], page: str) -> str:
    for cell in cells:
        if cell["cell_type"] == "markdown" and (found := re.match(r"# (.*)", text_of(cell))):
            return found[1]
    raise LabError(f"{page} has no title.")


def read_works() -> dict[str, tuple[str, str]]:
    """Return each work of the bibliography as `Guo et al. (2019)` and in whole."""
    from pybtex.database import parse_file  # type: ignore[import-untyped]

    found = {}
    for key, entry in parse_file(str(ROOT / "book" / "references.bib")).entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [" ".join(p.prelast_names + p.last_names) for p in people]
        who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else ""
        who = plain(who or (f"{names[0]} et al." if names else entry.fields.get("title", key)))
        year = entry.fields.get("year", "n.d.")
        where = next(
            (
                entry.fields[k]
                for k in ("journal", "booktitle", "howpublished", "publisher")
                if k in entry.fields
            ),
            "",
        )
        doi = f" https://doi.org/{entry.fields['doi']}" if "doi" in entry.fields else ""
        whole = f"{plain(entry.fields.get('title', ''))}." + (
            f" *{plain(where)}*." if where else ""
        )
        found[key] = (f"{who} ({year})", f"{who} ({year}): {whole}{doi}")
    return found


def plain(text: str) -> str:
    """Take LaTeX's braces and accents out of a bibliography's text."""
    from pybtex.richtext import Text  # type: ignore[import-untyped]

    return str(Text.from_latex(text).render_as("text")).replace("\n", " ").strip()


@dataclass
class Exercise:
    """What a question prints of an exercise."""

    label: str
    title: str
    hints: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)


class Chapter:
    """One chapter on its way to its notebooks."""

    def __init__(self, page: str, cells: list[dict[str, Any]], book: Book) -> None:
        self.page, self.book = page, book
        self.exercises: list[Exercise] = []
        self.questions: list[ShortQuestion] = []
        self.cited: list[str] = []
        self.learner: list[dict[str, Any]] = []
        self.instructor: list[dict[str, Any]] = []
        self._in_solution = False
        for cell in cells:
            self._cell = cell["id"]
            try:
                if cell["cell_type"] == "code":
                    self._code(cell)
                else:
                    self._markdown(cell)
            except KeyError as error:
                raise LabError(f"{page}, cell {cell['id']}: nothing is called {error}.") from error
            except LabError as error:
                raise LabError(f"{page}, cell {cell['id']}: {error}") from error
        if self._in_solution:
            raise LabError(f"{page}: the solution of {self.exercises[-1].label} has no end.")

    def _code(self, cell: dict[str, Any]) -> None:
        made = {
            "cell_type": "code",
            "execution_count": None,
            "id": cell["id"],
            "metadata": {},
            "outputs": [],
            "source": text_of(cell),
        }
        if self._in_solution:
            self.exercises[-1].solution.append(text_of(cell))
        else:
            asked = CHECK.match(made["source"])
            more = f"\n# {asked[1]}.hint()\n# {asked[1]}.solution()" if asked else ""
            self.learner.append(made | {"source": made["source"] + more})
        self.instructor.append(made)
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if figure and not self._in_solution:
            caption = self._inline(figure.get("caption", ""))
            number = self.book.labels[figure["name"]]
            self._add(f"{cell['id']}-caption"[:64], f"*Figure {number}. {caption}*", {})

    def _add(self, name: str, text: str, pictures: dict[str, Any], whom: str = "all") -> None:
        text = re.sub(r"\n{3,}", "\n\n", text).strip()
        if not text:
            return
        cell: dict[str, Any] = {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
        if here := {n: p for n, p in pictures.items() if f"(attachment:{n})" in text}:
            cell["attachments"] = here
        self.instructor.append(cell)
        if whom == "all":
            self.learner.append(cell)

    def _markdown(self, cell: dict[str, Any]) -> None:
        """Split a cell where a hint or a solution begins or ends."""
        parts: list[tuple[str, list[str]]] = []  # for whom, lines
        pictures: dict[str, Any] = {}

        def write(whom: str, text: str) -> None:
            if not parts or parts[-1][0] != whom:
                parts.append((whom, []))
            parts[-1][1].append(text)

        lines = iter(text_of(cell).split("\n"))
        for line in lines:
            opened = FENCE.match(line)
            if opened is None:
                write("solution" if self._in_solution else "all", line)
                continue
            fence, name, title = opened.groups()
            if "`" in fence and "`" in title:
                raise LabError(f"a title with backticks needs a fence of colons: {line!r}")
            options, body = block(lines, line)
            if name == "exercise-start":
                self.exercises.append(Exercise(options["label"], title))
                write("all", f"### Exercise {self.book.labels[options['label']]}. {title}\n")
            elif name in ("solution-start", "solution"):
                write("instructor", f"#### Solution of Exercise {self.book.labels[title]}\n")
                if name == "solution":
                    write("solution", body)
                else:
                    self._in_solution = True
            elif name == "solution-end":
                self._in_solution = False
            elif name == "dropdown" and title.startswith("Hint"):
                self.exercises[-1].hints.append(self._inline(body).strip())
                write("instructor", f"**{title}.** {body}\n")
            elif name != "exercise-end":
                whom = "solution" if self._in_solution else "all"
                write(whom, self._directive(name, title, options, body, pictures))
        ident = cell["id"]
        for number, (whom, written) in enumerate(parts):
            text = self._inline("\n".join(written)).strip()
            if whom == "solution" and text:
                self.exercises[-1].solution.append(text)
            self._add(ident if number == 0 else f"{ident[:58]}-{number}", text, pictures, whom)

    def _directive(
        self, name: str, title: str, options: dict[str, str], body: str, pictures: dict[str, Any]
    ) -> str:
        if name == "figure":
            path = (ROOT / self.page).parent / title
            kind = mimetypes.guess_type(path.name)[0] or "image/svg+xml"
            pictures[path.name] = {kind: base64.b64encode(path.read_bytes()).decode()}
            number = self.book.labels[options["name"]] if "name" in options else ""
            alt = options.get("alt", "").replace("[", "(").replace("]", ")")
            caption = f"*Figure {number}. {body.strip()}*" if number else f"*{body.strip()}*"
            return f"![{alt}](attachment:{path.name})\n\n{caption}\n"
        if name == "image":
            return self._directive("figure", title, options, "", pictures).rsplit("\n\n", 1)[0]
        if name == "footbibliography":
            return "\n".join(f"- {self.book.works[key][1]}" for key in sorted(set(self.cited)))
        if name in ("admonition", "note", "tip", "warning", "important", "seealso"):
            lines = body.strip().split("\n")
            return "\n".join(
                [f"> **{title or name.capitalize()}**", ">", *(f"> {x}" for x in lines)]
            )
        if name in ("dropdown", "details"):
            return f"<details><summary>{title}</summary>\n\n{body.strip()}\n\n</details>"
        if name == "question":
            plain_text = self._inline(f"{title}\n{body}").split("\n", 1)
            self.questions.append(
                ShortQuestion(self._cell, plain_text[0], tuple(answers(plain_text[1])))
            )
            return quick_question(title, body)
        if name in ("raw", "code-block", "code"):
            return f"```{title}\n{body}\n```" if name != "raw" else body
        if name == "math":
            return f"$$\n{body}\n$$"
        raise LabError(f"no plain form is known for the directive {name!r}.")

    def _inline(self, text: str) -> str:
        """Turn roles, labels and equation numbers into plain Markdown."""
        text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"\[([^\]]*(?:\[[^\]]*\][^\]]*)*)\]\{#[\w-]+\}", r"\1", text)
        text = EQUATION.sub(self._tag, text)
        return ROLE.sub(self._role, text)

    def _tag(self, found: re.Match[str]) -> str:
        return f"{found[1].rstrip()} \\tag{{{self.book.labels[found[2]]}}}\n$$"

    def _role(self, found: re.Match[str]) -> str:
        role, target = found.groups()
        words, _, inside = target.rpartition(" <")
        name = inside.rstrip(">") if words else target
        if role in ("footcite:t", "footcite:p", "cite:t", "cite:p", "footcite", "cite"):
            keys = [key.strip() for key in target.split(",")]
            self.cited += keys
            short = [self.book.works[key][0] for key in keys]
            if role.endswith(":t"):
                return " and ".join(short)
            return "(" + "; ".join(s.replace(" (", ", ").rstrip(")") for s in short) + ")"
        if role == "eq":
            return f"({self.book.labels[name]})"
        if role == "numref":
            return words or f"Figure {self.book.labels[name]}"
        if role == "doc":
            page = os.path.normpath(Path(self.page).parent / name)
            title = words or self.book.titles[page]
            if (ROOT / f"{page}.ipynb").is_file():
                return f"[{title}]({os.path.relpath(page, Path(self.page).parent)}.ipynb)"
            return f"*{title}*"
        if role == "ref":
            number = self.book.labels.get(name)
            return f"{words} (Exercise {number})" if number and name.startswith("ex-") else words
        if role == "term":
            return words or name
        raise LabError(f"no plain form is known for the role {role!r}.")


def block(lines: Iterator[str], opening: str) -> tuple[dict[str, str], str]:
    """Read a directive to its closing fence; return its options and its body."""
    fence = opening[: len(opening) - len(opening.lstrip("`:"))]
    options: dict[str, str] = {}
    body: list[str] = []
    for line in lines:
        if line.strip() == fence:
            return options, "\n".join(body).strip("\n")
        if not body and (found := OPTION.match(line)):
            options[found[1]] = found[2]
        elif body or line.strip():
            body.append(line)
    raise LabError(f"{opening!r} is not closed.")


def quick_question(asked: str, body: str) -> str:
    """Return a short question whose answers open to say whether they are right, and why."""
    said = [f"**{asked}**\n"]
    for answer, right, why in answers(body):
        mark = "Right" if right else "No"
        said.append(f"<details><summary>{answer}</summary>\n\n{mark}. {why}\n\n</details>\n")
    return "\n".join(said)


def answers(body: str) -> list[tuple[str, bool, str]]:
    """Read the lines of a short question, `- answer :: why`, the right one with `+`."""
    lines = [line for line in body.split("\n") if line.strip()]
    found = [re.fullmatch(r"([-+]) (.+?) :: (.+)", line.strip()) for line in lines]
    for line, one in zip(lines, found, strict=True):
        if one is None:
            raise LabError(f"a question has lines '- answer :: why' and '+ right :: why': {line!r}")
    read = [(one[2], one[1] == "+", one[3]) for one in found if one]
    if len(read) < 2 or [right for _, right, _ in read].count(True) != 1:
        raise LabError("a question has two answers or more, and one with + that is right.")
    return read


def notebook(cells: list[dict[str, Any]]) -> str:
    whole = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def derive() -> dict[Path, str]:
    """Return what every derived file must hold."""
    chapters = {
        page: json.loads(path.read_text(encoding="utf-8"))["cells"]
        for page, path in sources().items()
        if path.suffix == ".ipynb"
    }
    book = Book.read(chapters)
    made: dict[Path, str] = {}
    bank: dict[str, list[ShortQuestion]] = {}
    texts: dict[str, Any] = {}
    for page, cells in chapters.items():
        chapter = Chapter(page, cells, book)
        place = Path(page).relative_to("book").with_suffix(".ipynb")
        made[LEARNER / place] = notebook(chapter.learner)
        made[INSTRUCTOR / place] = notebook(chapter.instructor)
        bank[book.titles[page]] = chapter.questions
        for exercise in chapter.exercises:
            texts[exercise.label] = {
                "chapter": str(place.with_suffix("")),
                "title": f"Exercise {book.labels[exercise.label]}. {exercise.title}",
                "hints": exercise.hints,
                "solution": "\n\n".join(filter(None, exercise.solution)),
            }
    made[TEXTS] = json.dumps(texts, indent=1, ensure_ascii=False) + "\n"
    return made | question_bank.derive(bank)


def stale(made: dict[Path, str]) -> list[Path]:
    """Return the files that differ from what they must hold, and those that no chapter has."""
    wrong = [p for p, text in made.items() if not p.is_file() or p.read_text("utf-8") != text]
    there = [p for folder in (LEARNER, INSTRUCTOR) for p in folder.rglob("*.ipynb")]
    return wrong + [p for p in there if p not in made and ".ipynb_checkpoints" not in p.parts]


def bring_up_to_date(mine: Path) -> list[str]:
    """Copy the learner's notebooks to a folder of their own; what they changed stays.

    Returns a line for each chapter that has changed since a copy which its owner has changed too:
    the new one is put beside it.
    """
    mine.mkdir(parents=True, exist_ok=True)
    kept = mine / KEPT
    try:
        known: dict[str, str] = dict(json.loads(kept.read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or broken: what is theirs stays
        known = {}
    said = []
    for source in sorted(LEARNER.rglob("*.ipynb")):
        name = source.relative_to(LEARNER).as_posix()
        new, target = source.read_bytes(), mine / name
        digest = hashlib.sha256(new).hexdigest()
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_bytes(new)
        elif known.get(name) != digest:
            if code_of(target.read_bytes()) in (known.get(f"{name}#code"), code_of(new)):
                target.write_bytes(new)
            else:
                beside = free(target)
                beside.write_bytes(new)
                said.append(
                    f"{name} has changed since you began; yours is as you left it, and the new "
                    f"one is beside it as {beside.name}."
                )
        known |= {name: digest}
        if target.read_bytes() == new:
            known[f"{name}#code"] = code_of(new)
    kept.write_text(json.dumps(known, indent=1))
    return said


def free(target: Path) -> Path:
    """Return a name beside a notebook that nothing has: an earlier new one may be worked in."""
    names = itertools.chain(("new",), (f"new{number}" for number in itertools.count(2)))
    return next(p for name in names if not (p := target.with_suffix(f".{name}.ipynb")).exists())


def code_of(content: bytes) -> str:
    """Return a digest of what a learner writes: sources of cells, not outputs or metadata."""
    try:
        cells = json.loads(content)["cells"]
        text = json.dumps([(c["cell_type"], text_of(c)) for c in cells])
    except (ValueError, KeyError, TypeError):  # broken by its owner: it is theirs
        text = content.decode("utf-8", "replace")
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--mine", type=Path)
    chosen = parser.parse_args()
    if chosen.mine:
        print(*bring_up_to_date(chosen.mine), sep="\n")
        return 0
    made = derive()
    wrong = stale(made)
    if chosen.check:
        for path in wrong:
            print(f"{path.relative_to(ROOT)} is not what its chapter gives.")
        if wrong:
            print("`make format` writes them again.")
        return bool(wrong)
    for path in wrong:
        if path in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
        else:
            path.unlink()
    print(f"{len(made)} files of the lab, {len(wrong)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
