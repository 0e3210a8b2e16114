"""Try the project with other versions than the locked ones, in an environment of its own.

    python tools/versions.py lowest    the oldest versions that pyproject.toml allows: unit tests
    python tools/versions.py newest    the newest of everything: unit tests, notebooks, site

The environment is _build/lowest or _build/newest. On a file system with hard links it takes little
room beyond what uv keeps of downloads anyway; `make clean` removes it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import bootstrap

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"

# Old libraries tell of each other's deprecations. Everywhere else that is an error.
OLD_NEWS = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")


def project() -> dict[str, Any]:
    """Return the table of the project in pyproject.toml."""
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def requirements(which: str) -> list[str]:
    """Return what uv is to install: the project, with the extras that its tests need."""
    if which == "lowest":
        extras = "instructor,offline,retrieval,test"
        return ["--resolution", "lowest-direct", "--editable", f".[{extras}]"]
    return ["--editable", f".[{','.join(sorted(project()['optional-dependencies']))}]"]


def commands(which: str, python: Path) -> list[list[str]]:
    """Return what is run in the environment."""
    if which == "newest":
        return [[str(python), "tools/check.py", "--again", "unit", "notebooks", "site", "pages"]]
    ignored = [part for name in OLD_NEWS for part in ("-W", f"ignore::{name}")]
    return [[str(python), "-m", *unit_tests(), *ignored]]


def unit_tests() -> tuple[str, ...]:
    """Return the command of the unit tests, without the Python that runs it."""
    from check import CHECKS

    (command,) = (check.command for check in CHECKS if check.name == "unit")
    return command[2:]


def make(which: str, folder: Path) -> Path:
    """Make the environment unless it is there and complete; return its Python."""
    python = folder / "bin" / "python"
    asked = "3.11" if which == "lowest" else f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + asked.encode()).hexdigest()
    ready = folder / ".ready"
    if which == "lowest" and ready.is_file() and ready.read_text(encoding="utf-8") == key:
        return python
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if not uv:
        raise SystemExit(
            f"uv is needed, which `make ready` installs; or: pip install {bootstrap.UV}"
        )
    env = dict(os.environ)
    env.setdefault("UV_HTTP_TIMEOUT", "300")
    index = bootstrap.uv_settings([sys.executable, "-m", "pip"], env)
    install = [uv, "pip", "install", "--python", str(python), *index, *requirements(which)]
    base = sys.executable if sys.version.startswith(f"{asked}.") else asked
    for command in ([uv, "venv", "--clear", "--python", base, str(folder)], install):
        if subprocess.run(command, cwd=ROOT, env=env, check=False).returncode:
            raise SystemExit(f"The environment {folder} could not be made; see above.")
    ready.write_text(key, encoding="utf-8")
    return python


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Try other versions than the locked ones.")
    parser.add_argument("which", choices=("lowest", "newest"))
    which: str = parser.parse_args(arguments).which
    python = make(which, BUILD / which)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return max(subprocess.call(c, cwd=ROOT, env=env) for c in commands(which, python))


if __name__ == "__main__":
    sys.exit(main())
