"""The versions that the project allows, installs and tries are the same in every place."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import check
import pytest
import versions
import yaml
from notebooks import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIRED = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = [
    Requirement(text) for some in PROJECT["optional-dependencies"].values() for text in some
]
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
JOBS = {
    f"{name}: {job}": settings
    for name, workflow in WORKFLOWS.items()
    for job, settings in workflow["jobs"].items()
}
PYTHONS = ["3.11", "3.12", "3.13"]


def conda() -> dict[str, SpecifierSet]:
    """Return the bound of every package in environment.yml, by its conda name."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    flat = [e for entry in entries for e in (entry["pip"] if isinstance(entry, dict) else [entry])]
    # A single = at the end names a build: pytorch>=2.4=cpu_*
    found = [re.fullmatch(r"([\w-]+)((?:[<>=]=[\w.]+)?)(?:=[\w.*]+)?", e) for e in flat]
    assert all(found), flat
    return {m[1]: SpecifierSet(m[2]) for m in found if m}


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda r: r.name)
def test_conda_gets_every_package_with_the_same_bound(requirement):
    assert conda()[CONDA_NAMES.get(requirement.name, requirement.name)] == requirement.specifier


def test_conda_has_the_bounds_of_the_extras():
    bounds = {r.name: r.specifier for r in OPTIONAL}
    common = {name: bound for name, bound in conda().items() if name in bounds}
    assert len(common) >= 8
    assert common == {name: bounds[name] for name in common}


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda r: r.name)
def test_every_package_has_a_lower_bound_and_no_upper_one(requirement):
    assert [s.operator for s in requirement.specifier] == [">="]


def test_the_lock_keeps_the_bounds():
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    locked = [re.match(r"([\w.-]+)==([\w.+]+)", line) for line in lines]
    versions_of: dict[str, list[Version]] = {}
    for found in filter(None, locked):
        versions_of.setdefault(canonicalize_name(found[1]), []).append(Version(found[2]))
    for requirement in (*REQUIRED, *OPTIONAL):
        pinned = versions_of[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in pinned), requirement


def test_every_python_that_is_named_is_tried():
    named = [
        text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)
    ]
    assert named == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    tried = set()
    for job in JOBS.values():
        tried |= set(job.get("strategy", {}).get("matrix", {}).get("python", []))
        for step in job["steps"]:
            tried.add(step.get("with", {}).get("python-version", ""))
    assert set(PYTHONS) <= tried


def test_the_lowest_versions_are_those_of_the_project_and_of_what_its_tests_need():
    *resolution, _, project = versions.requirements("lowest")
    assert resolution == ["--resolution", "lowest-direct"]
    extras = Requirement(f"tlcourse{project[1:]}").extras
    assert extras == {"instructor", "offline", "retrieval", "test"}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_newest_versions_are_those_of_all_extras():
    (_, project) = versions.requirements("newest")
    assert Requirement(f"tlcourse{project[1:]}").extras == set(PROJECT["optional-dependencies"])


def test_old_libraries_may_announce_changes_and_nothing_else(tmp_path):
    (command,) = versions.commands("lowest", tmp_path / "python")
    unit = next(c.command for c in check.CHECKS if c.name == "unit")
    assert command[: len(unit)] == [str(tmp_path / "python"), *unit[1:]]
    ignored = command[len(unit) :]
    assert set(ignored[::2]) == {"-W"}
    names = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
    assert ignored[1::2] == [f"ignore::{name}" for name in names]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_installs_what_it_runs_with(name):
    steps = JOBS[name]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    if not commands:
        return
    actions = [step["uses"].partition("@")[0] for step in steps if "uses" in step]
    assert actions[:2] == ["actions/checkout", "actions/setup-python"]
    for number, command in enumerate(commands):
        if re.match(r"make |\.ci/run", command):  # or the newest Python of the runner is taken
            assert 'PYTHON="$pythonLocation/bin/python"' in command
        if "tools/versions.py" in command:
            assert any("pip install uv" in earlier for earlier in commands[:number])
        if command.startswith(".venv/"):
            assert any(earlier.startswith("make ready") for earlier in commands[:number])
        for path in re.findall(r"(?:tools|\.ci)/[\w.]+", command):
            assert (ROOT / path).exists()


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    places = [*(ROOT / ".github/workflows").glob("*.yml"), ROOT / ".ci/run", *ROOT.glob("*.md")]
    for path in places:
        text = path.read_text("utf-8")
        named = set(re.findall(r"(?:`|run: |^|exec )make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, path.name


def test_once_a_month_everything_is_tried_unpinned():
    # YAML reads the key `on` as true.
    (when,) = (entry["cron"] for entry in WORKFLOWS["newest.yml"][True]["schedule"])
    assert re.fullmatch(r"\d+ \d+ \d+ \* \*", when)
    assert "python tools/versions.py newest" in str(WORKFLOWS["newest.yml"])


def test_tests_that_start_processes_wait_for_each_other(tmp_path):
    """All of their folder go to one of the two workers; other tests to both."""
    command = next(c.command for c in check.CHECKS if c.name == "unit")
    spread = command[command.index("-n") : command.index("--dist") + 2]
    body = (
        "import os, pathlib, pytest\n"
        "@pytest.mark.parametrize('i', range(8))\n"
        "def test_it(i):\n"
        "    with open('{}', 'a') as file: print(os.environ['PYTEST_XDIST_WORKER'], file=file)\n"
    )
    (tmp_path / "tests" / "distributed").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "distributed" / "test_a.py").write_text(body.format("together"))
    (tmp_path / "tests" / "test_b.py").write_text(body.format("apart"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *spread, "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    workers = {name: (tmp_path / name).read_text("utf-8").split() for name in ("together", "apart")}
    assert [len(names) for names in workers.values()] == [8, 8]
    assert len(set(workers["together"])) == 1
    assert len(set(workers["apart"])) == 2
