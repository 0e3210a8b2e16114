"""Slides: what a deck holds, that nothing is loaded from elsewhere, and what names a source."""

from __future__ import annotations

import base64
import re
import sys

import nbformat
import pytest
import run_chapters
import slides
from bs4 import BeautifulSoup

PAGE = "book/adaptive/spottune"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder with one chapter's slides, its plots drawn from recorded results."""
    out = tmp_path_factory.mktemp("slides")
    slides.make([PAGE], out, run=False)
    return out


@pytest.fixture(scope="module")
def deck(made):
    text = (made / "adaptive-spottune.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html5lib")


def headings(deck):
    return [slide.find(["h1", "h2"]).text for slide in deck.find_all("section")]


def test_a_deck_has_title_picture_equations_plots_and_a_question(deck):
    first, *others = deck.find_all("section")
    assert first.h1.text == "SpotTune: which layers, for which input"
    assert first.img["src"].startswith("data:image/svg+xml;base64,")
    assert b"<svg" in base64.b64decode(first.img["src"].partition(",")[2])
    assert "frozen copy, hatched" in first.img["alt"]
    assert headings(deck)[1] == "What you will be able to do"
    assert len(others[0].find_all("li")) == 4
    formulas = [s for s in others if s.find("div", class_="math")]
    counts = [len(s.find_all("div", class_="math")) for s in formulas]
    assert sum(counts) == 7
    assert max(counts) == 2
    (block,) = [s for s in formulas if "tuned}(x_{l-1}) +" in s.text]
    assert r"\tag{" in block.text
    assert "where" in block.text  # its symbols
    plots = [s.img for s in others if s.img and "image/png" in s.img["src"]]
    assert len(plots) == 4
    assert all(len(plot["alt"]) > 40 for plot in plots)
    (question,) = [s for s in others if s.details]
    answers = [answer.text for answer in question.find_all("details")]
    assert [a.count("Right.") for a in answers].count(1) == 1
    assert headings(deck)[-1] == "Summary"
    assert "CC BY 4.0" in others[-1].footer.text


def test_nothing_is_loaded_from_elsewhere(made):
    pages = list(made.glob("*.html"))
    assert {page.name for page in pages} == {"index.html", "figures.html", "adaptive-spottune.html"}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        soup = BeautifulSoup(text, "html5lib")
        loaded = [
            tag[key] for key in ("src", "data", "poster") for tag in soup.find_all(**{key: True})
        ]
        loaded += [tag["href"] for tag in soup.find_all("link")]
        for address in loaded:
            assert address.startswith("data:") or (made / address).is_file(), address
        assert not re.search(r"@import|url\(|fetch\(|import\(", text)
        for link in soup.find_all("a", href=True):  # what is not loaded, but leads somewhere
            assert link["href"].startswith("https://") or (made / link["href"]).is_file()


def test_no_markup_of_the_chapter_is_left(deck):
    text = deck.body.text
    assert not re.search(r"\{(footcite|eq|doc|numref|term)|:::|```|\]\{#", text)
    assert "attachment:" not in text


def test_figures_are_files_with_the_line_that_names_their_source(made):
    soup = BeautifulSoup((made / "figures.html").read_text(encoding="utf-8"), "html5lib")
    rows = soup.find_all("tr")
    assert len(rows) == 5
    for row in rows:
        assert (made / row.img["src"]).stat().st_size > 500
        assert re.match(
            r'Figure \d+\.\d+ of "SpotTune: which.*", in: The authors .* CC BY 4.0', row.code.text
        )


CHAPTERS = slides.chapters()


@pytest.fixture(scope="module")
def book():
    return slides.Book.read(CHAPTERS)


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_chapter_has_a_deck(page, book):
    cells = CHAPTERS[page]
    deck = slides.Deck(page, cells, book, {})
    soup = BeautifulSoup(deck.page_of_slides("from"), "html5lib")
    found = headings(soup)
    assert found[0] == deck.title
    assert soup.section.img is not None
    assert found[1] == "What you will be able to do"
    assert found[-1] == "Summary"
    assert any(head == "A question" or head.startswith("Exercise ") for head in found)
    labels = sum(slides.text_of(cell).count("$$ (eq-") for cell in cells)
    assert len(soup.find_all("div", class_="math")) >= labels


def test_plots_are_those_of_the_chapters_run(tmp_path, monkeypatch):
    pixel = base64.b64encode(b"a picture").decode()
    show = f"from IPython.display import display\ndisplay({{'image/png': {pixel!r}}}, raw=True)"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell(show)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook, path)
    for name in ("ROOT", "BOOK"):
        monkeypatch.setattr(run_chapters, name, tmp_path)
    monkeypatch.setattr(slides, "BUILD", tmp_path)
    monkeypatch.setattr(slides, "sources", lambda: {"a": path})
    found = slides.plots_of_runs(["a"])
    assert found == {"a": {notebook.cells[1].id: ("image/png", base64.b64decode(pixel))}}
    path.write_text(path.read_text().replace('"1"', '"1 / 0"'))
    with pytest.raises(slides.LabError, match="ZeroDivisionError"):
        slides.plots_of_runs(["a"])


def test_an_unknown_chapter_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["slides.py", "methods/nothing"])
    assert slides.main() == 1
    assert "no chapter is called methods/nothing; there are" in capsys.readouterr().err
