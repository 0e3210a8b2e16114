"""Importing the package is quick and touches nothing outside this machine."""

from __future__ import annotations

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
