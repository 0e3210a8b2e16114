"""The chapters' own solutions: each passed when its chapter ran, and passes with today's check."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import notebooks
import pytest

from tlcourse.exercises._question import texts

# Their answers are made of what the chapter has trained or drawn: they run with the chapter alone.
WITH_THE_CHAPTER = {
    "ex-adapter-greedy",
    "ex-attention-sanity",
    "ex-attention-stage",
    "ex-classifier-more",
    "ex-continual-weight",
    "ex-distillation-width",
    "ex-domain-statistics",
    "ex-features-position",
    "ex-finetuning-inverted",
    "ex-grow-optimizer",
    "ex-instances-opposite",
    "ex-l2t-labels",
    "ex-selective-itself",
    "ex-sobolev-dimensions",
    "ex-spottune-held",
}
Cells = list[dict[str, Any]]


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def solutions() -> Iterator[tuple[str, Cells, str]]:
    """Yield each exercise with the code cells of its solution, and its chapter's imports."""
    for path in notebooks.sources().values():
        if path.suffix != ".ipynb":
            continue
        label, found, imports = "", [], []
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                imports += imports_of(source_of(cell))
                found += [cell] if label else []
            elif opened := re.search(r"\{solution-start\} ([\w-]+)", source_of(cell)):
                label, found = opened[1], []
            elif "{solution-end}" in source_of(cell):
                yield label, found, "\n".join(imports)
                label = ""


def imports_of(source: str) -> list[str]:
    plain = "\n".join(line for line in source.split("\n") if not line.startswith(("%", "!")))
    nodes = ast.parse(plain).body
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


SOLUTIONS = {label: (cells, imports) for label, cells, imports in solutions()}
each = pytest.mark.parametrize("label", SOLUTIONS)


def test_every_exercise_has_a_solution_that_is_checked():
    assert set(SOLUTIONS) == set(texts())


@each
def test_the_solution_passed_in_its_chapter(label):
    cells, _ = SOLUTIONS[label]
    checks = [cell for cell in cells if ".check(" in source_of(cell)]
    printed = ["".join(out.get("text", "")) for cell in checks for out in cell["outputs"]]
    assert printed
    assert all("Passed." in text for text in printed)


@each
@pytest.mark.filterwarnings("ignore")
def test_the_solution_passes_today(label, capsys, tmp_path, monkeypatch):
    """A wrong reference is seen here: the solution was not made from it."""
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(tmp_path / "progress.json"))
    cells, imports = SOLUTIONS[label]
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(imports, scope)
    for node in ast.parse("\n".join(map(source_of, cells))).body:
        try:
            exec(compile(ast.Module([node], []), label, "exec"), scope)
        except NameError:  # shows something of the chapter's; a check without its answer is below
            continue
    printed = capsys.readouterr().out
    assert ("Passed." in printed) == (label not in WITH_THE_CHAPTER), printed
