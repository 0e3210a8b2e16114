"""The chapters run two at a time, and nothing about them depends on the machine's speed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import types

import check
import nbformat
import pytest
import run_chapters
import yaml
from notebooks import BOOK, CELL_TIMEOUT, ROOT


@contextlib.contextmanager
def opened(cache):
    from jupyter_cache import get_cache

    store = get_cache(str(cache))
    yield store
    store.db.dispose()


def write(path, *cells):
    """Write a notebook of a line of text and the given cells."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Title"),
            *(nbformat.v4.new_code_cell(cell) for cell in cells),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(run_chapters, "ROOT", tmp_path)
    monkeypatch.setattr(run_chapters, "BOOK", tmp_path)
    return tmp_path


def test_chapters_run_once_and_side_by_side(here, capsys):
    # Each waits for the other: one after the other they would never end.
    meet = (
        "import pathlib, time\n"
        "pathlib.Path('{0}').touch()\n"
        "while not pathlib.Path('{1}').exists():\n"
        "    time.sleep(0.01)"
    )
    paths = [
        write(here / "a.ipynb", meet.format("a", "b"), "print('one')"),
        write(here / "b.ipynb", meet.format("b", "a"), "print('two')"),
    ]
    assert run_chapters.run_chapters(paths, here / "cache") == []
    assert "To run, 2 at a time: 2 chapters" in capsys.readouterr().out
    assert run_chapters.run_chapters(paths, here / "cache") == []
    assert capsys.readouterr().out == ""

    notebook = nbformat.read(paths[1], as_version=4)
    with opened(here / "cache") as store:
        _, merged = store.merge_match_into_notebook(notebook)
    assert merged.cells[2].outputs[0]["text"] == "two\n"


def test_a_page_in_markdown_runs_as_mystnb_reads_it(here):
    page = here / "page.md"
    front = "---\njupytext:\n  text_representation:\n    format_name: myst\n"
    front += "kernelspec:\n  name: python3\n  display_name: Python 3\n---\n"
    page.write_text(
        f"{front}\n# Title\n\n```{{code-cell}} ipython3\n1 + 1\n```\n", encoding="utf-8"
    )
    assert run_chapters.has_cells(page)
    assert run_chapters.run_chapters([page], here / "cache") == []

    from myst_nb.core.config import NbParserConfig
    from myst_nb.core.read import create_nb_reader
    from myst_parser.config.main import MdParserConfig

    text = page.read_text("utf-8")
    reader = create_nb_reader(str(page), MdParserConfig(), NbParserConfig(), text)
    with opened(here / "cache") as store:
        _, merged = store.merge_match_into_notebook(reader.read(text))
    assert merged.cells[1].outputs[0]["data"]["text/plain"] == "2"

    page.write_text("# Title\n", encoding="utf-8")
    assert not run_chapters.has_cells(page)


def test_a_failing_cell_is_named_and_what_ran_is_kept(here, capsys):
    good = write(here / "good.ipynb", "1 + 1")
    bad = write(here / "bad.ipynb", "a = 0", "b = 1\nb / a")
    assert run_chapters.run_chapters([good], here / "cache") == []
    (problem,) = run_chapters.run_chapters([good, bad], here / "cache")
    assert problem == (
        "bad.ipynb, cell 3, line 2: a cell fails with ZeroDivisionError: division by zero"
    )
    told = capsys.readouterr().out
    assert ": 1 chapters" in told
    assert "b / a" in told


def test_a_kernel_that_dies_is_named(here):
    bad = write(here / "bad.ipynb", "import os\nos._exit(1)")
    (problem,) = run_chapters.run_chapters([bad], here / "cache")
    # Whether the kernel still said which cell it had begun is chance.
    assert re.match(r"bad\.ipynb(, cell 2)?: DeadKernelError", problem)


def test_the_longest_chapter_goes_first(here):
    (here / "results").mkdir()
    text = '{"chapters": {"a": {"seconds": 3}, "b": {"seconds": 40}}}'
    (here / "results" / "chapters.json").write_text(text, encoding="utf-8")
    names = [path.stem for path in run_chapters.longest_first(here / f"{n}.ipynb" for n in "abc")]
    assert names == ["c", "b", "a"]


def test_a_cell_has_the_same_time_everywhere():
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert config["execute"]["timeout"] == CELL_TIMEOUT
    command = next(c.command for c in check.CHECKS if c.name == "notebooks")
    assert f"--nbval-cell-timeout={CELL_TIMEOUT}" in command
    assert f"--nbval-kernel-startup-timeout={CELL_TIMEOUT}" in command


def test_nbval_waits_for_outputs_and_draws_no_bars(monkeypatch):
    for name in ("TQDM_DISABLE", "TLCOURSE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    spec = importlib.util.spec_from_file_location("book_conftest", BOOK / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    assert os.environ["TQDM_DISABLE"] == "1"
    cell, other = types.SimpleNamespace(output_timeout=5), types.SimpleNamespace()
    conftest.pytest_itemcollected(cell)
    conftest.pytest_itemcollected(other)
    assert cell.output_timeout == CELL_TIMEOUT
    assert not vars(other)


def test_the_full_profile_stays_full(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"TLCOURSE_PROFILE": "full"})
    spec = importlib.util.spec_from_file_location("book_conftest", BOOK / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert os.environ["TLCOURSE_PROFILE"] == "full"
