"""Importing the package is quick and touches nothing outside this machine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

LARGE = {"torch", "pandas", "sklearn", "scipy", "matplotlib", "torchvision", "sympy", "accelerate"}

OFFLINE = """
import socket
def refuse(*arguments, **settings):
    raise AssertionError("an import went to the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def python(code: str, folder: Path) -> str:
    # Nothing of this machine is used: no cache, no data, and HOME is an empty folder.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TLCOURSE_") and name != "TORCH_HOME"
    }
    environment |= {"TLCOURSE_CACHE": str(folder / "cache"), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE + code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded(what: str, folder: Path) -> set[str]:
    code = f"import sys, {what}; print(*{{m.split('.')[0] for m in sys.modules}})"
    return set(python(code, folder).split())


def test_the_package_and_its_command_load_no_large_library(tmp_path):
    assert loaded("tlcourse, tlcourse.settings, tlcourse.cli", tmp_path) & LARGE == set()


def test_beyond_torch_little_is_loaded(tmp_path):
    modules = "tlcourse.training, tlcourse.metrics, tlcourse.models, tlcourse.distillation"
    assert loaded(modules, tmp_path) & LARGE == {"torch"}


def test_no_module_needs_the_network_or_makes_a_file(tmp_path):
    code = """
import importlib, pkgutil, tlcourse
names = [m.name for m in pkgutil.walk_packages(tlcourse.__path__, "tlcourse.")]
for name in names:
    if name != "tlcourse.__main__":  # it runs the command
        importlib.import_module(name)
print(len(names))
"""
    assert int(python(code, tmp_path)) > 20
    assert not (tmp_path / "cache").exists()


RANKS = {"data": 0, "models": 1, "training": 3, "experiments": 4}
FAMILIES = {
    path.parent.name
    for path in (Path(__file__).parents[1] / "tlcourse").glob("*/__init__.py")
    if path.parent.name not in {*RANKS, "exercises", "grading"}
}


def imported(file):
    """Return the folders of the package that a file imports from, wherever in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    parts = [name.split(".") for name in names if name.startswith("tlcourse.")]
    return {part[1] for part in parts}


def test_data_flows_one_way_and_a_family_imports_no_other():
    """Data, models, a family of methods, training, experiments: nothing imports a later one."""
    ranks = RANKS | dict.fromkeys(FAMILIES, 2)
    assert {"finetuning", "adaptation", "instances"} <= FAMILIES
    wrong = [
        (file.name, other)
        for own in ranks
        for file in (Path(__file__).parents[1] / "tlcourse" / own).rglob("*.py")
        for other in imported(file) & ranks.keys() - {own}
        if ranks[other] > ranks[own] or {own, other} <= FAMILIES
    ]
    assert not wrong
