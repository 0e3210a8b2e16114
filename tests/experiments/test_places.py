"""One place for each experiment: its code, test, chapter and result are found by its name."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from tlcourse import experiments
from tlcourse.experiments import EXPERIMENTS, Experiment, results_dir
from tlcourse.experiments._engine.places import ROOT, places

FAMILIES = sorted(
    module.name
    for module in pkgutil.iter_modules(experiments.__path__)
    if module.ispkg and not module.name.startswith("_")
)
DEFINITIONS = {
    f"{family}.{stem}": importlib.import_module(f"tlcourse.experiments.{family}.{stem}")
    for family in FAMILIES
    for _, stem, _ in pkgutil.iter_modules([Path(experiments.__file__).parent / family])
    if not stem.startswith("_")
}


def defined(module) -> list[Experiment]:
    return [thing for thing in vars(module).values() if isinstance(thing, Experiment)]


def faults(name: str, experiment: Experiment, root: Path = ROOT) -> list[str]:
    """Return how an experiment breaks the rule, in words."""
    try:
        found = places(experiment)
    except ValueError as error:
        return [str(error)]
    said = []
    if name != experiment.name:
        said.append(f"registered as {name}, but called {experiment.name}")
    stem = found["code"].stem.replace("_", "-")
    if not f"{experiment.name}-".startswith(f"{stem}-"):
        said.append(f"{experiment.name} is not what {stem} begins")
    longer = [p.stem.replace("_", "-") for p in (root / found["code"]).parent.glob("*.py")]
    longer = [other for other in longer if len(other) > len(stem)]
    if any(f"{experiment.name}-".startswith(f"{other}-") for other in longer):
        said.append(f"{experiment.name} has a file of its own name")
    said += [f"no {what}: {found[what]}" for what in ("code", "test", "chapter")
             if not (root / found[what]).is_file()]  # fmt: skip
    return said


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_its_places(name):
    assert faults(name, EXPERIMENTS[name]) == []
    result = ROOT / places(EXPERIMENTS[name])["result"]
    assert result.parent == results_dir()
    assert result.stem == name
    where = [m for m, module in DEFINITIONS.items() if EXPERIMENTS[name] in defined(module)]
    assert [f"tlcourse.experiments.{m}" for m in where] == [EXPERIMENTS[name].run_seed.__module__]


def test_every_definition_is_registered_and_every_file_defines_one():
    for name, module in DEFINITIONS.items():
        assert defined(module), f"{name} defines no experiment: begin its name with _"
        for experiment in defined(module):
            assert EXPERIMENTS.get(experiment.name) is experiment


def test_no_definition_takes_anything_from_another():
    for name, module in DEFINITIONS.items():
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        taken = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        taken |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        others = {f"tlcourse.experiments.{other}" for other in DEFINITIONS}
        assert not taken & others, name
        of_other_families = {
            t for t in taken for f in FAMILIES
            if f != name.partition(".")[0] and t.startswith(f"tlcourse.experiments.{f}")
        }  # fmt: skip
        assert not of_other_families, name


def test_every_test_file_is_of_something_there_is():
    tests = ROOT / "tests" / "experiments"
    code = ROOT / "tlcourse" / "experiments"
    for file in tests.glob("*/test_*.py"):
        stem = file.stem.removeprefix("test_")
        there = [code / file.parent.name / f"{prefix}{stem}.py" for prefix in ("", "_")]
        assert any(path.is_file() for path in there), file.name


def function_of(module: str):
    def run_seed(data, settings, seed, folder):
        raise NotImplementedError

    run_seed.__module__ = module
    return run_seed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "kd-other"}, "registered as kd-mnist, but called kd-other"),
        ({"name": "distil"}, "distil is not what kd begins"),
        ({"name": "kdx"}, "kdx is not what kd begins"),
        ({"name": "kd-mnist-jitter"}, "kd-mnist-jitter has a file of its own name"),
        ({"chapter": "methods/none"}, "no chapter: book/methods/none.ipynb"),
        ({"module": "tlcourse.experiments.distillation.kd_mnist"}, "no code: .*/kd_mnist.py"),
        ({"module": "tlcourse.experiments.distillation._parts"}, "no test: .*/test__parts.py"),
        ({"module": "tlcourse.experiments._shared"}, "not in a family's folder"),
        ({"module": "tlcourse.experiments.a.b.c"}, "not in a family's folder"),
        ({"module": "__main__"}, "kd-mnist is defined in __main__, not in a family"),
        ({"module": "mine.experiments.distillation.kd"}, "not in a family's folder"),
    ],
    ids=str,
)
def test_a_break_of_the_rule_is_seen(changes, message):
    changes = dict(changes)
    if "module" in changes:
        changes["run_seed"] = function_of(changes.pop("module"))
    said = faults("kd-mnist", dataclasses.replace(EXPERIMENTS["kd-mnist"], **changes))
    assert any(re.search(message, what) for what in said), said
