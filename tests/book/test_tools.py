"""The tools that build the site, and what the site adds to Sphinx."""

from __future__ import annotations

import importlib.util

import build_site
import pytest
import vendor
from docutils import nodes
from docutils.utils import new_document
from notebooks import BOOK

spec = importlib.util.spec_from_file_location("tlcourse_site", BOOK / "_ext/tlcourse_site.py")
assert spec is not None
assert spec.loader is not None
tlcourse_site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tlcourse_site)


@pytest.fixture
def mathjax(tmp_path, monkeypatch):
    """A small stand-in for the installed package, and where it is copied to."""
    source = tmp_path / "source"
    (source / "fonts").mkdir(parents=True)
    (source / "script.js").write_text("run()", encoding="utf-8")
    (source / "fonts" / "a.woff").write_bytes(b"font")
    pinned = {name: vendor.digest(source / name) for name in ("script.js", "fonts")}
    monkeypatch.setattr(vendor, "PINNED", pinned)
    return source, tmp_path / "extra" / "mathjax"


def test_pinned_scripts_are_copied_once(mathjax):
    source, target = mathjax
    assert vendor.vendor(source, target)
    assert (target / "fonts" / "a.woff").read_bytes() == b"font"
    assert not vendor.vendor(source, target)


def test_a_damaged_copy_is_replaced(mathjax):
    source, target = mathjax
    vendor.vendor(source, target)
    (target / "script.js").write_text("", encoding="utf-8")
    (target / "fonts" / "more.woff").write_bytes(b"")
    assert vendor.vendor(source, target)
    assert (target / "script.js").read_text(encoding="utf-8") == "run()"
    assert not (target / "fonts" / "more.woff").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: (s / "script.js").write_text("other()"), r"script\.js has SHA-256 .*, expected"),
        (lambda s: (s / "fonts" / "b.woff").write_text(""), r"fonts has SHA-256 .*, expected"),
        (lambda s: (s / "script.js").unlink(), r"script\.js is missing"),
    ],
)
def test_other_scripts_than_the_pinned_are_refused(mathjax, spoil, message):
    source, target = mathjax
    spoil(source)
    with pytest.raises(vendor.VendorError, match=message):
        vendor.vendor(source, target)
    assert not target.exists()


def test_a_missing_package_is_named(mathjax):
    source, target = mathjax
    with pytest.raises(vendor.VendorError, match="MathJax was looked for in .*nowhere"):
        vendor.vendor(source / "nowhere", target)


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name in (
        "tlcourse/loss.py",
        "tools/notebooks.py",
        "book/results/kd.json",
        "book/results/chapters.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1", encoding="utf-8")
    (tmp_path / "requirements.lock").write_text("torch==1", encoding="utf-8")
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "tlcourse/loss.py",
        "tlcourse/new.py",
        "tools/notebooks.py",
        "book/results/kd.json",
        "requirements.lock",
    ],
)
def test_what_an_output_depends_on_changes_the_key(root, name):
    before = build_site.execution_key()
    assert build_site.execution_key() == before
    (root / name).write_text("2", encoding="utf-8")
    assert build_site.execution_key() != before


@pytest.mark.parametrize(
    "name", ["book/results/chapters.json", "tlcourse/__pycache__/loss.pyc", "book/chapter.md"]
)
def test_nothing_else_runs_the_notebooks_again(root, name):
    before = build_site.execution_key()
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("2", encoding="utf-8")
    assert build_site.execution_key() == before


def test_an_upgraded_library_runs_the_notebooks_again(root, monkeypatch):
    before = build_site.execution_key()
    monkeypatch.setattr(build_site, "installed", lambda: ["torch 99"])
    assert build_site.execution_key() != before


def test_problems_are_read_from_the_log(capsys):
    import sys

    tee = build_site.Tee(sys.stderr)
    place = build_site.ROOT / "book" / "a.ipynb"
    tee.write(f"\x1b[91m{place}:40002: WARNING: it is old\x1b[0m\n")
    tee.write("Executing notebook\n")
    assert tee.problems() == ["book/a.ipynb, cell 4, line 2: WARNING: it is old"]
    assert "it is old" in capsys.readouterr().err


RECORD = {"seconds": 13.6, "cores": 2, "memory_mb": 912, "download_mb": 0}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, "Runs in 14 s on 2 cores with 0.9 GB of memory; downloads nothing."),
        ({"cores": 1}, "Runs in 14 s on 1 core with 0.9 GB of memory; downloads nothing."),
        ({"seconds": 0.2}, "Runs in 1 s on 2 cores with 0.9 GB of memory; downloads nothing."),
        (
            {"seconds": 150},
            "Runs in 2 min 30 s on 2 cores with 0.9 GB of memory; downloads nothing.",
        ),
        (
            {"first_seconds": 55.1, "download_mb": 4.8},
            "Runs in 14 s, 55 s the first time, on 2 cores with 0.9 GB of memory; downloads 5 MB.",
        ),
    ],
)
def test_a_chapters_cost_is_told_in_a_sentence(more, sentence):
    assert tlcourse_site.sentence(RECORD | more) == sentence


@pytest.mark.parametrize(
    ("after", "kept", "rest"),
    [("; and", ";", " and"), ("), where", "),", " where"), (" is", None, " is"), ("s", None, "s")],
)
def test_punctuation_stays_with_the_formula_before_it(after, kept, rest):
    formula = nodes.math("", "T^2")
    text = nodes.paragraph("", "", nodes.Text("a factor "), formula, nodes.Text(after))
    document = new_document("page")
    document += text
    tlcourse_site.keep_punctuation(None, document, "page")
    together = text[1] if kept else None
    assert text[-1] == rest
    assert text.astext() == f"a factor T^2{after}"
    if kept:
        assert together["classes"] == ["tl-together"]
        assert list(together) == [formula, kept]
    else:
        assert text[1] is formula


def test_a_long_name_in_a_table_may_break_after_an_underscore():
    name = "tests/matching/test_at.py::test_of_two"
    entry = nodes.entry("", nodes.paragraph("", "", nodes.literal("", name)))
    short = nodes.entry("", nodes.paragraph("", "", nodes.literal("", "few_per_class")))
    line = nodes.paragraph("", "", nodes.literal("", name))
    document = new_document("page")
    document += [entry, short, line]
    tlcourse_site.break_long_names(None, document, "page")
    raw = list(entry.findall(nodes.raw))
    assert {node.astext() for node in raw} == {"<wbr>"}
    parts = [str(node) for node in entry.findall(nodes.Text) if node.parent.tagname != "raw"]
    assert parts == ["tests/", "matching/", "test_", "at.", "py::test_", "of_", "two"]
    assert not list(short.findall(nodes.raw))
    assert not list(line.findall(nodes.raw))


def test_punctuation_after_the_last_formula_needs_a_text():
    text = nodes.paragraph("", "", nodes.math("", "x"))
    document = new_document("page")
    document += text
    tlcourse_site.keep_punctuation(None, document, "page")
    assert len(text) == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", ""),
        ("[project]\nname = 'a'\n", ""),
        ("[project.urls]\nRepository = ''\n", ""),
        ("[project.urls]\nRepository = 'https://example.org/a/b/'\n", "https://example.org/a/b"),
    ],
)
def test_the_repositorys_address_stands_in_one_place(tmp_path, text, address):
    path = tmp_path / "pyproject.toml"
    assert tlcourse_site.repository_address(path) == ""
    path.write_text(text, encoding="utf-8")
    assert tlcourse_site.repository_address(path) == address
