"""The spelling of the prose, and what of a file counts as prose."""

from __future__ import annotations

import json

import pytest
import spelling


@pytest.fixture
def misspelt(tmp_path):
    """Write a file; return the words that the check finds in it, with their places."""

    def check(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return spelling.mistakes([path], root=tmp_path)

    return check


@pytest.mark.parametrize(
    "text",
    [
        "The optimizer has its own behavior.",
        "We normalize teh input",
        "```{admonition} Labeled data\nA favorite\n```",
    ],
)
def test_american_forms_and_slips_are_found_in_text(misspelt, text):
    assert len(misspelt("page.md", text)) == 2


def test_the_place_and_the_british_form_are_named(misspelt):
    assert misspelt("page.md", "One\nbehavior\n") == ["page.md:2: behavior ==> behaviour"]


@pytest.mark.parametrize(
    "code",
    [
        'def f():\n    """Return what was learned."""\n',
        "x = 1  # the neighbors\n",
        'raise ValueError("the optimizer does not fit")\n',
        'title = f"{n} labeled images"\n',
    ],
)
def test_docstrings_comments_and_texts_of_code_are_read(misspelt, code):
    assert len(misspelt("code.py", code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "optimizer = normalize(center, color=gray)\n",
        'axis.text(0, 0, "a", ha="center", color="gray")\naxis.legend(loc="lower center")\n',
        'raise TypeError(f"optimizer must be one of torch, got {optimizer!r}")\n',
        '"""Sum.\n\n    Parameters\n    ----------\n    optimizer\n        Its own.\n    """\n',
        '"""Sum.\n\n    >>> normalize(2)\n    """\n',
        'outer = einsum("nd,nk->ndk", a, b)\n',
        'note = "`optimizer` and `normalize(x)`"\n',
    ],
)
def test_names_in_code_are_not(misspelt, code):
    assert misspelt("code.py", code) == []


@pytest.mark.parametrize(
    "text",
    [
        "Use `optimizer` and ``color``, [so](color/gray.md), https://color.example/gray.",
        "$color$ and\n$$\ngray\n$$\n",
        "```python\ncolor = gray\n```\n",
        "As in *Generalized Behavior* and “Optimizing labeled data”.",
        "Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization, 2005",
    ],
)
def test_code_formulas_addresses_and_titles_in_text_are_not(misspelt, text):
    assert misspelt("page.md", text) == []


def test_the_words_of_a_drawing_are_read(misspelt):
    drawing = '<svg><style>.a{color:gray}</style><g color="gray"/><text>a favorite</text></svg>'
    assert misspelt("drawing.svg", drawing) == ["drawing.svg:1: favorite ==> favourite"]


def test_a_notebook_is_read_by_cells(misspelt):
    cells = [
        {"cell_type": "code", "source": ["%pip list\n", "color = 1  # gray\n"], "metadata": {}},
        {"cell_type": "markdown", "source": ["The\n", "behavior"], "metadata": {}},
        {
            "cell_type": "code",
            "source": ["1"],
            "metadata": {"mystnb": {"image": {"alt": "Three neighbors."}}},
        },
    ]
    found = misspelt("chapter.ipynb", json.dumps({"cells": cells}))
    assert sorted(line.partition(" ==>")[0] for line in found) == [
        "chapter.ipynb/cell 0:2: gray",
        "chapter.ipynb/cell 1:2: behavior",
        "chapter.ipynb/cell 2, figure:3: neighbors",
    ]


def test_every_kind_of_page_is_among_the_files():
    names = {path.relative_to(spelling.ROOT).as_posix() for path in spelling.files()}
    assert {"README.md", "book/index.md", "tools/spelling.py", "tlcourse/plotting.py"} <= names
    assert any(name.endswith(".ipynb") for name in names)


def test_no_british_form_is_american_too():
    pairs = [line.split("->") for line in spelling.BRITISH.read_text("utf-8").split()]
    american = [pair[0] for pair in pairs]
    assert american == sorted(set(american))
    assert not set(american) & {pair[1] for pair in pairs}
