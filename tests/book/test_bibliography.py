"""The bibliography: what the pages cite, and nothing else; each entry says where the work is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from notebooks import BOOK, sources
from pybtex.database import Entry, parse_file

CITATION = re.compile(r"\{(?:foot)?cite(?::\w+)?\}`([^`]+)`")
ENTRIES: dict[str, Entry] = dict(parse_file(BOOK / "references.bib").entries)
DOCUMENTS = {"parkslides", "protopapasslides", "zhitomirskiynotes", "fayiz2022", "chenreport"}


def prose(path: Path) -> str:
    """Return a page's text, of a notebook that of its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def cited(text: str) -> set[str]:
    return {key.strip() for keys in CITATION.findall(text) for key in keys.split(",")}


def test_citations_are_found():
    text = "By {footcite:t}`hinton2015`, {cite:p}`pan2010, ge2017` and {doc}`distillation`."
    assert cited(text) == {"hinton2015", "pan2010", "ge2017"}


def test_what_is_cited_is_listed_and_what_is_listed_is_cited():
    found = {key for path in sources().values() for key in cited(prose(path))}
    assert found - ENTRIES.keys() == set(), "cited, but not in references.bib"
    assert ENTRIES.keys() - found == set(), "in references.bib, but cited nowhere"


def test_the_five_documents_are_among_it():
    assert ENTRIES.keys() >= DOCUMENTS


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_says_who_what_when_and_where(key):
    entry = ENTRIES[key]
    assert entry.persons.get("author")
    assert {"title", "year"} <= entry.fields.keys()
    assert re.fullmatch(r"(?:19|20)\d\d|n\.d\.", entry.fields["year"])
    where = {"doi", "eprint", "url"} & entry.fields.keys()
    assert where or key in DOCUMENTS or "arXiv:" in entry.fields.get("note", "")
    if "eprint" in entry.fields:
        assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields["eprint"])
    if "doi" in entry.fields:
        assert entry.fields["doi"].startswith("10.")
