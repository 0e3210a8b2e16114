from __future__ import annotations

import ast
import json
import re
from typing import Any

import format_notebooks
import notebooks
import pytest
from format_notebooks import NotebookError, formatted
from notebooks import BOOK, CHECKED, ROOT

CHAPTERS = {page: path for page, path in notebooks.sources().items() if path.suffix == ".ipynb"}


def content(path: Any) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(path: Any) -> str:
    cells = content(path)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def code(path: Any) -> str:
    sources = ["".join(c["source"]) for c in content(path)["cells"] if c["cell_type"] == "code"]
    return "\n".join(re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE) for source in sources)


# The book's notebooks


def test_the_book_has_chapters_that_run():
    assert CHAPTERS


def test_every_page_of_the_contents_exists_and_every_notebook_is_in_them():
    pages = notebooks.toc()
    assert sorted(pages) == sorted(notebooks.sources()), "_toc.yml names a page without a file"
    assert len(pages) == len(set(pages)), "_toc.yml names a page twice"
    found = [
        p.relative_to(ROOT).with_suffix("").as_posix() for p in notebooks.notebooks_below(BOOK)
    ]
    assert sorted(found) == sorted(CHAPTERS), "a notebook below book/ is not in _toc.yml"


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_notebook_is_stored_in_form(page):
    text = CHAPTERS[page].read_text(encoding="utf-8")
    assert text == formatted(text), f"{page} is not in form: run `make format`"


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_notebook_has_outputs_that_are_compared(page):
    """A tagged cell without a stored output would pass nbval unchecked."""
    cells = [c for c in content(CHAPTERS[page])["cells"] if c["cell_type"] == "code"]
    tagged = [c for c in cells if CHECKED in c["metadata"].get("tags", [])]
    empty = [c["id"] for c in tagged if c["execution_count"] is None or not c["outputs"]]
    assert tagged, f"{page} has no cell tagged {CHECKED}"
    assert not empty, (
        f"{page}: no output stored in {empty}; `python tools/format_notebooks.py --run`"
    )


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_chapter_has_its_parts(page):
    text = markdown(CHAPTERS[page])
    headings = re.findall(r"^## +(.+)$", text, flags=re.MULTILINE)
    assert len(re.findall(r"^# +\S", text, flags=re.MULTILINE)) == 1, "one title"
    assert re.search(r"you will be able to", text), "learning goals: '... you will be able to ...'"
    assert any(re.search(r"fail|lose|limit|wrong", h, re.IGNORECASE) for h in headings), (
        f"a section on where it fails; there are {headings}"
    )
    assert "Summary" in headings
    assert "References" in headings
    assert "{footbibliography}" in text


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_chapter_uses_the_package(page):
    imported = set()
    for node in ast.walk(ast.parse(code(CHAPTERS[page]))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert any(name == "tlcourse" or name.startswith("tlcourse.") for name in imported)
    private = {name for name in imported if name.startswith("tlcourse") and "._" in name}
    assert not private, f"a chapter imports public names only, not {private}"


@pytest.mark.parametrize("page", CHAPTERS)
def test_named_figures_are_described(page):
    for cell in content(CHAPTERS[page])["cells"]:
        settings = cell["metadata"].get("mystnb", {})
        if "figure" in settings or "image" in settings:
            alt = settings.get("image", {}).get("alt", "")
            caption = settings.get("figure", {}).get("caption")
            assert len(alt.split()) >= 4, f"{cell['id']}: mystnb.image.alt says what is to be seen"
            assert alt != caption, f"{cell['id']}: the alternative text repeats the caption"
            assert settings.get("figure", {}).get("name", "fig-").startswith("fig-"), cell["id"]


def test_every_chapter_was_measured():
    records = content(BOOK / "results" / "chapters.json")["chapters"]
    assert sorted(records) == sorted(CHAPTERS), "run `make measure`"
    for page, record in records.items():
        assert 0 < record["seconds"] <= 90, f"{page} runs too long: {record['seconds']} s"
        assert record["memory_mb"] > 0
        assert record["download_mb"] >= 0
        assert record["cores"] >= 1
        assert record.keys() >= {"python", "torch", "date"}


# The formatter


def cell(source: str, kind: str = "code", **more: Any) -> dict[str, Any]:
    made = {"cell_type": kind, "id": "name", "metadata": {}, "source": source}
    if kind == "code":
        made |= {"execution_count": None, "outputs": []}
    return made | more


def notebook(*cells: dict[str, Any]) -> str:
    metadata = {"language_info": {"name": "python", "version": "3.99"}, "widgets": {"a": 1}}
    return json.dumps(
        {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    )


def result(text: str, count: int) -> dict[str, Any]:
    data = {"text/plain": [text]}
    return {
        "output_type": "execute_result",
        "execution_count": count,
        "data": data,
        "metadata": {"seen": True},
    }


def test_outputs_are_dropped_except_of_tagged_cells():
    tagged = {"tags": [CHECKED], "scrolled": True}
    text = formatted(
        notebook(
            cell("1+1", id="free", execution_count=7, outputs=[result("2", 7)]),
            cell("2+2", id="kept", execution_count=9, outputs=[result("4", 9)], metadata=tagged),
        )
    )
    free, kept = json.loads(text)["cells"]
    assert (free["execution_count"], free["outputs"]) == (None, [])
    assert kept["execution_count"] == 2
    assert kept["outputs"] == [result("4", 2) | {"metadata": {}}]
    assert kept["metadata"] == {"tags": [CHECKED]}


def test_an_output_without_a_run_is_dropped():
    text = formatted(notebook(cell("1", outputs=[result("1", 1)], metadata={"tags": [CHECKED]})))
    assert json.loads(text)["cells"][0]["outputs"] == []


def test_formatting_twice_changes_nothing():
    settings = {"mystnb": {"image": {"alt": "A line."}}, "collapsed": False}
    once = formatted(
        notebook(
            cell("# Title\n", "markdown", id="title"),
            cell("%matplotlib inline\nx = { 'a':1 }\nplot(x);\n", metadata=settings),
            cell("f( 1 )", id="a b"),
            cell("f( 1 )", id="name", execution_count=3, metadata={"tags": [CHECKED]}),
        )
    )
    assert formatted(once) == once
    assert once.endswith("}\n")
    made = json.loads(once)
    assert "".join(made["cells"][1]["source"]) == '%matplotlib inline\nx = {"a": 1}\nplot(x);'
    assert made["cells"][1]["metadata"] == {"mystnb": {"image": {"alt": "A line."}}}
    assert made["metadata"].keys() == {"kernelspec", "language_info"}
    assert made["metadata"]["language_info"] == {"name": "python"}


def test_cell_ids_stay_and_only_bad_ones_are_replaced():
    text = formatted(notebook(cell("a", id="soft-targets"), cell("b", id="a b"), cell("c", id="")))
    ids = [c["id"] for c in json.loads(text)["cells"]]
    assert ids[0] == "soft-targets"
    assert len(set(ids)) == 3
    assert all(re.fullmatch(r"cell-[0-9a-f]{12}", name) for name in ids[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a notebook"),
        ('{"nbformat": 3, "cells": []}', "notebook format 3, expected 4"),
        (notebook(cell("def (")), "ruff cannot format"),
    ],
)
def test_what_is_no_notebook_is_refused(text, message):
    with pytest.raises(NotebookError, match=message):
        formatted(text)


def test_check_names_the_file_and_changes_nothing(tmp_path, capsys):
    path = tmp_path / "chapter.ipynb"
    path.write_text(notebook(cell("f( 1 )")), encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    assert format_notebooks.main(["--check", str(path)]) == 1
    assert "chapter.ipynb: not in form" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == before
    assert format_notebooks.main([str(path)]) == 0
    assert format_notebooks.main(["--check", str(path)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["chapter.ipynb"]


def test_a_broken_notebook_is_left_as_it_is(tmp_path, capsys):
    path = tmp_path / "chapter.ipynb"
    path.write_text("{", encoding="utf-8")
    assert format_notebooks.main([str(path)]) == 1
    assert "chapter.ipynb: not a notebook" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "{"
