"""Tested claims: a mark beside each comparing sentence, which leads to the figures that bear it.

A chapter labels such a sentence, ``[... beats ...]{#claim-name}``; the test of that label leaves
what it compared in book/claims.json (`make claims`). Here the sentence gets its mark, and the page
a last section with difference, interval, seeds and the test's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

RECORD = Path("book/claims.json")
MARK = "✓"
TITLE = "What the marked sentences rest on"
LEGEND = (
    "Each sentence with a mark compares rows of a recorded experiment, seed by seed. The interval "
    "is Student's, at 95 %; a test holds the sentence to it."
)


def read_claims(root: Path) -> dict[str, dict[str, Any]]:
    path = root / RECORD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def sentence(figure: dict[str, Any]) -> str:
    """Say what was compared, and what was found, in as many digits as the interval bears.

    Examples
    --------
    >>> sentence({"row": "LwF", "other": "joint", "difference": 0.28, "low": -0.05, "high": 0.61,
    ...           "unit": "accuracy, %", "seeds": 8, "result": "lwf"})
    'LwF minus joint: +0.28 (−0.05 to +0.61) accuracy, %; 8 seeds of lwf'
    """
    margin = (figure["high"] - figure["low"]) / 2
    digits = 1 if margin >= 1 else 2 if margin >= 0.1 else 3
    mean, low, high = (
        f"{figure[name]:+.{digits}f}".replace("-", "−") for name in ("difference", "low", "high")
    )
    return (
        f"{figure['row']} minus {figure['other']}: {mean} ({low} to {high}) {figure['unit']}; "
        f"{figure['seeds']} seeds of {figure['result']}"
    )


def claims_of(doctree: nodes.document) -> dict[str, nodes.inline]:
    """Return the marked sentences of a page by label, in order."""
    return {
        label: node
        for node in doctree.findall(nodes.inline)
        for label in node["ids"]
        if label.startswith("claim-")
    }


def add_claims(app: Sphinx, doctree: nodes.document) -> None:
    """Put the marks in, and the section that they lead to."""
    recorded = read_claims(Path(app.srcdir))
    app.env.note_dependency(str(Path(app.srcdir) / RECORD))
    rows = nodes.bullet_list(classes=["tl-claims"])
    for label, node in claims_of(doctree).items():
        if label not in recorded:  # the tests fail on it; the page builds while one writes
            continue
        found = recorded[label]
        said = [sentence(figure) for figure in found["figures"]]
        link = nodes.reference(
            "",
            MARK,
            internal=True,
            refid=f"{label}-figures",
            reftitle=said[0],
            classes=["tl-claim"],
        )
        node.parent.insert(node.parent.index(node) + 1, nodes.superscript("", "", link))
        item = nodes.list_item(ids=[f"{label}-figures"])
        back = nodes.reference("", "", nodes.Text(node.astext()), internal=True, refid=label)
        item += nodes.paragraph("", "", back)
        item += [nodes.paragraph("", f"{text}.") for text in said]
        item += nodes.paragraph("", "Test: ", nodes.literal("", found["test"]))
        rows += item
    titles = [s for s in doctree.findall(nodes.section) if s.parent is doctree]
    if len(rows) and titles:
        section = nodes.section("", nodes.title("", TITLE), ids=["tested-claims"])
        section += [nodes.paragraph("", LEGEND), rows]
        titles[0] += section


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", add_claims, priority=400)  # before the page's contents are taken
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
