"""Every marked sentence of the book has a test that names it, and every such test a sentence."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import notebooks
import pytest
from bs4 import BeautifulSoup

ROOT = notebooks.ROOT
LABEL = re.compile(r"\[([^\[\]]+)\]\{#(claim-[^}\s]*)\}")
RECORD = ROOT / "book" / "claims.json"


def texts(path: Path) -> list[str]:
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


def marked() -> list[tuple[str, str]]:
    """Return page and label of each marked sentence of the book."""
    return [
        (page, label)
        for page, path in notebooks.sources().items()
        for text in texts(path)
        for _, label in LABEL.findall(text.replace("\n", " "))
    ]


def labels_and_names(source: str) -> list[tuple[str, str]]:
    """Return label and name of each test function that `pytest.mark.claim(...)` marks."""
    return [
        (str(ast.literal_eval(mark.args[0])), function.name)
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        for mark in function.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim"
    ]


def named_by_tests() -> list[tuple[str, str]]:
    """Return label and pytest's name of each claim's test."""
    return [
        (label, f"{path.relative_to(ROOT).as_posix()}::{name}")
        for path in sorted((ROOT / "tests" / "experiments").rglob("test_*.py"))
        for label, name in labels_and_names(path.read_text(encoding="utf-8"))
    ]


def test_the_book_marks_claims():
    assert marked()


def test_labels_are_well_formed_and_unique():
    labels = [label for _, label in marked()]
    assert not [label for label in labels if not re.fullmatch(r"claim(-[a-z0-9]+)+", label)]
    assert not [label for label, times in Counter(labels).items() if times > 1]


def test_every_claim_has_one_test_and_every_test_a_claim():
    tested = [label for label, _ in named_by_tests()]
    assert sorted(tested) == sorted(label for _, label in marked()), (
        "left: what tests below tests/experiments are marked with; right: what the book marks"
    )


def test_the_recorded_figures_are_of_these_tests():
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    found = {label: entry["test"] for label, entry in recorded.items()}
    assert found == dict(named_by_tests()), "run `make claims`"


@pytest.mark.usefixtures("built")
def test_a_page_shows_each_claims_figures():
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    for page, label in marked():
        html = (notebooks.ROOT / "_build" / "html" / f"{page}.html").read_text(encoding="utf-8")
        soup = BeautifulSoup(html, "html5lib")
        assert soup.find(id=label), label
        mark = soup.select_one(f'a.tl-claim[href="#{label}-figures"]')
        assert mark, f"{page}: no mark beside {label}"
        figures = soup.find(id=f"{label}-figures")
        assert recorded[label]["test"] in figures.get_text()  # it may break in a name
        shown = figures.get_text(" ", strip=True)
        figure = recorded[label]["figures"][0]
        assert extension().sentence(figure) in shown


@pytest.fixture
def built() -> None:
    if not (ROOT / "_build" / "site.key").is_file():
        pytest.fail("the site is not there: run `make book` first")


def extension() -> Any:
    path = ROOT / "book" / "_ext" / "tlcourse_claims.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_marks_are_found():
    text = "It [beats\nit]{#claim-a-b}. A [link](x){#not} and `[code]`.".replace("\n", " ")
    assert LABEL.findall(text) == [("beats it", "claim-a-b")]
    source = "@pytest.mark.claim('claim-a')\ndef test_a(claim): ...\ndef test_b(claim): ...\n"
    assert labels_and_names(source) == [("claim-a", "test_a")]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(-3.0, 1.0, "−1.0 (−3.0 to +1.0)"), (0.02, 0.6, "+0.31 (+0.02 to +0.60)")],
)
def test_figures_have_as_many_digits_as_the_interval_bears(low, high, text):
    figure = {"row": "a", "other": "b", "unit": "%", "seeds": 8, "result": "r"}
    figure |= {"difference": (low + high) / 2, "low": low, "high": high}
    assert text in extension().sentence(figure)
