"""Short questions inside the text: each answer opens, and says whether it is right and why.

    :::{question} What is asked?
    - an answer :: why it is wrong
    + the right answer :: why
    :::

(With colons: a line that opens a block with backticks may hold no other backtick.)

On the page they are `details`, which a browser opens without a script, by mouse and keyboard;
printed, they are closed. tools/lab.py makes the same of them in a notebook.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from lab import LabError, answers

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator


class Box(nodes.General, nodes.Element):
    """A question with its answers."""


class Answer(nodes.General, nodes.Element):
    """One answer: its words, a `Words`, and what opens below them."""


class Words(nodes.General, nodes.TextElement):
    """What is seen of an answer before it opens."""


class Question(SphinxDirective):
    """A question, its answers one a line."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the question as one node."""
        try:
            read = answers("\n".join(self.content))
        except LabError as error:
            raise self.error(str(error)) from error
        box = Box()
        box += self._text(nodes.paragraph(classes=["tl-asked"]), self.arguments[0])
        for words, right, why in read:
            said = nodes.paragraph("", "", nodes.strong("", "Right." if right else "No."))
            said += nodes.Text(" ")
            answer = Answer()
            answer += [self._text(Words(), words), self._text(said, why)]
            box += answer
        return [box]

    def _text(self, node: nodes.Element, text: str) -> nodes.Element:
        inline, messages = self.state.inline_text(text, self.lineno)
        node += [*inline, *messages]
        return node


def tag(name: str, attributes: dict[str, str]) -> tuple[Any, Any]:
    """Return what writes the beginning and the end of an element."""

    def begin(self: HTML5Translator, node: nodes.Element) -> None:
        self.body.append(self.starttag(node, name, "", **attributes))

    def end(self: HTML5Translator, node: nodes.Element) -> None:
        self.body.append(f"</{name}>\n")

    return begin, end


BOX = {"CLASS": "tl-question", "role": "group", "aria-label": "Question"}


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(Box, html=tag("div", BOX))
    app.add_node(Answer, html=tag("details", {"CLASS": "tl-answer"}))
    app.add_node(Words, html=tag("summary", {}))
    app.add_directive("question", Question)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
