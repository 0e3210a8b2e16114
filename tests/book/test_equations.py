"""Every displayed equation of the book has a label, and every label a test that names it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import notebooks
import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

ROOT = notebooks.ROOT
UNLABELLED = None


def equations(text: str) -> list[tuple[str | None, str]]:
    """Return the label and the TeX of each displayed equation in a MyST text, in order."""
    parser = MarkdownIt("commonmark").enable("table")
    parser.use(dollarmath_plugin, allow_labels=True, double_inline=True)
    parser.use(amsmath_plugin).use(colon_fence_plugin)
    found: list[tuple[str | None, str]] = []
    for token in parser.parse(text):
        if token.type == "math_block_label":
            found.append((token.info, token.content))
        elif token.type in ("math_block", "amsmath"):
            found.append((UNLABELLED, token.content))
        elif token.type == "inline":
            inside = [t for t in token.children or [] if t.type == "math_inline_double"]
            found += [(UNLABELLED, t.content) for t in inside]
        elif token.type in ("fence", "colon_fence") and token.info.strip().startswith("{"):
            name = token.info.strip()[1:].partition("}")[0]
            if name == "math":
                label = re.search(r"^:label:\s*(\S+)\s*$", token.content, re.MULTILINE)
                found.append((label.group(1) if label else UNLABELLED, token.content))
            elif name not in ("code-cell", "code", "code-block"):
                found += equations(token.content)
    return found


def texts(path: Path) -> list[str]:
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]


def displayed() -> list[tuple[str, str | None, str]]:
    """Return page, label and TeX of each displayed equation of the book."""
    return [
        (page, label, tex)
        for page, path in notebooks.sources().items()
        for text in texts(path)
        for label, tex in equations(text)
    ]


def named_labels(source: str) -> list[str]:
    """Return the labels that `pytest.mark.equation(...)` names in a Python source."""
    labels: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "equation"
            and isinstance(node.func.value, ast.Attribute)
            and node.func.value.attr == "mark"
        ):
            labels += [str(ast.literal_eval(argument)) for argument in node.args]
    return labels


def named_by_tests() -> dict[str, list[str]]:
    """Return the label of each marked equation and the files that name it."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path != Path(__file__).resolve():
            for label in named_labels(path.read_text(encoding="utf-8")):
                found.setdefault(label, []).append(path.relative_to(ROOT).as_posix())
    return found


def test_the_book_displays_equations():
    assert displayed()


def test_every_displayed_equation_has_a_label():
    bare = [f"{page}: {tex.strip()}" for page, label, tex in displayed() if label is UNLABELLED]
    assert not bare, "write `$$ ... $$ (eq-name)`:\n" + "\n".join(bare)


def test_labels_are_well_formed_and_unique():
    labels = [label for _, label, _ in displayed() if label is not UNLABELLED]
    malformed = [label for label in labels if not re.fullmatch(r"eq(-[a-z0-9]+)+", label)]
    assert not malformed, "a label is eq- and lower-case words joined by hyphens"
    assert not [label for label in set(labels) if labels.count(label) > 1]


def test_every_displayed_equation_has_a_test_that_names_it():
    labels = {label for _, label, _ in displayed() if label is not UNLABELLED}
    missing = sorted(labels - named_by_tests().keys())
    assert not missing, f"no test is marked @pytest.mark.equation(label) for {missing}"


def test_every_marker_names_an_equation_of_the_book():
    labels = {label for _, label, _ in displayed()}
    unknown = {label: where for label, where in named_by_tests().items() if label not in labels}
    assert not unknown, f"no chapter displays {unknown}"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("$$\na = b\n$$ (eq-a)", ["eq-a"]),
        ("$$ a = b $$ (eq-a)\n\n$$ c $$ (eq-c)", ["eq-a", "eq-c"]),
        ("$$\na = b\n$$", [UNLABELLED]),
        ("- in a list\n\n  $$ a $$ (eq-a)", ["eq-a"]),
        ("in a line $$a$$ of text", [UNLABELLED]),
        ("\\begin{align}\na &= b\n\\end{align}", [UNLABELLED]),
        ("```{math}\n:label: eq-a\na = b\n```", ["eq-a"]),
        ("```{math}\na = b\n```", [UNLABELLED]),
        ("````{admonition} Title\n```{math}\na = b\n```\n````", [UNLABELLED]),
        (":::{note}\n$$ a $$ (eq-a)\n:::", ["eq-a"]),
        ("in line $a$ and `$$ a $$` and\n\n```python\n'$$ a $$'\n```", []),
    ],
)
def test_displayed_equations_are_found(text, labels):
    assert [label for label, _ in equations(text)] == labels


def test_markers_are_found():
    source = (
        "import pytest\n"
        "@pytest.mark.equation('eq-a')\ndef test_a(): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.equation('eq-b'))])\n"
        "def test_b(x): ...\n"
        "# pytest.mark.equation('eq-c')\n"
    )
    assert sorted(named_labels(source)) == ["eq-a", "eq-b"]
