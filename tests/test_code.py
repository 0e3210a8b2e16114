"""What code a module depends on: imports everywhere, names through packages, and no comments."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from tlcourse import _code
from tlcourse._code import code_of

FILES = {
    "__init__": "",
    "loss": '"""Losses."""\nfrom tlcourse.checks import check\ndef loss(x):\n    return check(x)\n',
    "other": "import tlcourse.unused\n",
    "unused": "",
    "checks": "def check(x):\n    return x\n",
    "types": "Number = float\n",
    "late": "x = 1\n",
    "family/__init__": "from tlcourse.family.a import one\n"
    "from tlcourse.family.b import two as zwei\nHERE = 3\n",
    "family/a": "from tlcourse.late import x\ndef one():\n    return x\n",
    "family/b": "def two():\n    return 2\n",
    "near/__init__": "from .by import x\n",
    "near/by": "x = 1\n",
    "family/relative": "from . import b\nfrom ..types import Number\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return what writes a module of a small package that stands for ours."""
    root = tmp_path / "tlcourse"

    def write(name: str, source: str) -> None:
        _code._file.cache_clear()
        _code._tree_of_file.cache_clear()  # two writes may fall into one tick of the clock
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")

    for name, source in FILES.items():
        write(name, source)
    monkeypatch.setattr(_code, "PACKAGE", root)
    yield write
    _code._file.cache_clear()


def names(source: str, package, **how) -> set[str]:
    package("start", source)
    return {name.removeprefix("tlcourse.") for name in code_of("tlcourse.start", **how)} - {"start"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json, os.path\nfrom torch import nn\n", set()),
        ("from tlcourse.loss import loss", {"loss", "checks"}),
        ("import tlcourse.loss as l", {"loss", "checks"}),
        ("from tlcourse import loss", {"loss", "checks"}),
        ("def f():\n    from tlcourse.checks import check\n", {"checks"}),
        (
            "if True:\n    try:\n        import tlcourse.checks\n"
            "    except OSError:\n        pass\n",
            {"checks"},
        ),
        ("from tlcourse.family import one", {"family.a", "late"}),
        ("from tlcourse.family import zwei", {"family.b"}),
        ("from tlcourse.family import b", {"family.b"}),
        ("from tlcourse.family import HERE", {"family", "family.a", "family.b", "late"}),
        ("import tlcourse.family", {"family", "family.a", "family.b", "late"}),
        ("from tlcourse.family import *", {"family", "family.a", "family.b", "late"}),
        ("from tlcourse.family.relative import Number", {"family.relative", "family.b", "types"}),
        ("from .loss import loss", {"loss", "checks"}),
        ("from tlcourse.near import x", {"near", "near.by"}),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tlcourse import types\n"
            "else:\n    from tlcourse import checks\n",
            {"checks"},
        ),
    ],
)
def test_imports_are_followed(package, source, expected):
    assert names(source, package) == expected


def test_modules_that_import_each_other_end(package):
    package("a", "import tlcourse.b")
    package("b", "import tlcourse.a")
    assert names("import tlcourse.a", package) == {"a", "b"}


def test_what_is_left_out_is_not_followed(package):
    source = "from tlcourse.family import one\nfrom tlcourse.loss import loss\n"
    assert names(source, package, leave_out=["tlcourse.family"]) == {"loss", "checks"}
    assert names(source, package, leave_out=["tlcourse.loss"]) == {"family.a", "late"}
    assert "loss" in names(source, package, leave_out=["tlcourse.lo"])  # no such module


def test_the_code_counts_and_words_do_not(package):
    package("start", "from tlcourse.loss import loss\n")

    def code(name: str, source: str) -> dict[str, str]:
        package(name, source)
        return code_of("tlcourse.start")

    before = code_of("tlcourse.start")
    same = '"""Losses, in other words."""\nfrom tlcourse.checks import check\n\n\n# A comment.\n'
    assert code("loss", same + "def loss(x):\n    'A docstring.'\n    return check(x)\n") == before
    assert code("loss", same + "def loss(x):\n    return check(2 * x)\n") != before
    package("loss", FILES["loss"])
    assert code("checks", "def check(x):\n    return x + 1\n") != before


def test_a_file_that_changes_is_read_again(package, tmp_path):
    package("start", "x = 1\n")
    before = code_of("tlcourse.start")
    path = tmp_path / "tlcourse" / "start.py"
    changed = path.stat().st_mtime_ns
    path.write_text("x = 2\n", encoding="utf-8")
    os.utime(path, ns=(changed + 10**9, changed + 10**9))
    assert code_of("tlcourse.start") != before


def test_a_docstring_alone_is_a_body_without_one(package):
    package("start", "class A:\n    'Only this.'\n\ndef f():\n    'And this.'\n")
    before = code_of("tlcourse.start")
    package("start", "class A:\n    'Only that.'\n\ndef f():\n    'And that.'\n")
    assert code_of("tlcourse.start") == before


def test_a_text_that_is_no_docstring_counts(package):
    package("start", "x = 'one'\n")
    before = code_of("tlcourse.start")
    package("start", "x = 'two'\n")
    assert code_of("tlcourse.start") != before


def test_a_module_of_ones_own_counts_with_what_it_imports(package, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from tlcourse.loss import loss\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "nowhere")
    module = types.ModuleType("mine")
    module.__file__ = str(tmp_path / "mine.py")
    monkeypatch.setitem(sys.modules, "mine", module)
    assert set(code_of("mine")) == {"mine", "tlcourse.loss", "tlcourse.checks"}


def test_a_module_without_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "cell", types.ModuleType("cell"))
    for name in ("cell", "never_imported"):
        with pytest.raises(OSError, match=r"cell|never_imported|source"):
            code_of(name)


def test_nothing_is_imported_to_read_it():
    code = """
import sys
from tlcourse._code import code_of
found = code_of("tlcourse.experiments.matching.at")
assert "tlcourse.matching.attention" in found
print(sorted(m for m in sys.modules if m.startswith("tlcourse")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tlcourse', 'tlcourse._code']"
