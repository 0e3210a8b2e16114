"""Run the project's checks, each only when something that it depends on has changed.

    python tools/check.py                 every check, in order; all run even when one fails
    python tools/check.py unit types      some of them
    python tools/check.py --again         also those whose inputs have not changed

A check that passes leaves a stamp in `_build/stamps`: a hash of its command, of the files that it
reads and of the environment. As long as the hash stays the same, the check is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from notebooks import CELL_TIMEOUT

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / "_build" / "stamps"
CACHES = ROOT / "_build" / "cache"
READY = ROOT / ".venv" / ".ready"
PYTHON = sys.executable

# Every check depends on these too.
COMMON = ("pyproject.toml", "requirements.lock", "tools/check.py")
CODE = ("tlcourse", "tests", "tools", "book/_ext")
SITE = ("_config.yml", "_toc.yml", "book", "tlcourse", "tools")


@dataclass(frozen=True)
class Check:
    """One check: what to call it, what to run, and what its result depends on."""

    name: str
    title: str
    command: tuple[str, ...]
    inputs: tuple[str, ...]  # files and folders, as git sees them
    built: str = ""  # a built folder that must be there; part of the inputs for `reads_built`
    reads_built: bool = False
    threads: str = ""  # OMP_NUM_THREADS, where several processes share the machine


PYTEST = (PYTHON, "-m", "pytest", "-q")
CHECKS = (
    Check("lint", "ruff check", (PYTHON, "-m", "ruff", "check", "."), CODE),
    Check("format", "ruff format", (PYTHON, "-m", "ruff", "format", "--check", "."), CODE),
    Check("types", "mypy", (PYTHON, "-m", "mypy"), ("tlcourse", "tools")),
    Check(
        "stored",
        "the stored form of the notebooks",
        (PYTHON, "tools/format_notebooks.py", "--check"),
        ("book", "tools"),
    ),
    Check(
        "spelling",
        "British spelling",
        (PYTHON, "tools/spelling.py"),
        ("book", *CODE, "*.md", "Makefile", "_config.yml"),
    ),
    Check(
        "lab",
        "the lab's notebooks against their chapters",
        (PYTHON, "tools/lab.py", "--check"),
        ("book", "lab", "tools", "tlcourse/exercises", "_toc.yml"),
    ),
    Check(
        "unit",
        "unit tests, doctests, equation tests",
        (
            # Those that start processes run one after another: tests/conftest.py sees to it.
            *(*PYTEST, "-n", "2", "--dist", "load"),
            *("tests", "tlcourse", "--ignore=tests/book"),
            *("-m", "not grading"),  # `make test-grading` runs those too
        ),
        ("tlcourse", "tests", "book/results"),
        threads="1",
    ),
    Check(
        "notebooks",
        "every notebook against its recorded outputs",
        (
            *(*PYTEST, "--nbval", "book", "--nbval-current-env"),
            f"--nbval-cell-timeout={CELL_TIMEOUT}",
            f"--nbval-kernel-startup-timeout={CELL_TIMEOUT}",
            *("-n", "2", "--dist", "loadscope"),
            # Without doctests: a folder without notebooks must fail, not pass by its scripts.
            *("-o", "addopts=--import-mode=importlib -p no:cacheprovider"),
        ),
        ("tlcourse", "book", "tools/notebooks.py"),
        threads="1",
    ),
    Check("site", "build the site", (PYTHON, "tools/build_site.py"), SITE, built="_build/html"),
    Check(
        "pages",
        "the repository and the built pages",
        (*PYTEST, "tests/book"),
        (".",),
        built="_build/html",
        reads_built=True,
    ),
)


def files_of(inputs: tuple[str, ...]) -> list[Path]:
    """Return the files below the inputs: what git tracks or would add, else all of them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *inputs]
    try:
        listed = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        paths = {ROOT / name for name in listed.stdout.decode().split("\0") if name}
    except (OSError, subprocess.CalledProcessError):
        paths = {path for name in inputs for path in (ROOT / name, *(ROOT / name).rglob("*"))}
        paths = {path for path in paths if "__pycache__" not in path.parts}
    return sorted(path for path in paths if path.is_file())


def key_of(check: Check) -> str:
    """Return a hash of everything that the result of the check depends on."""
    digest = hashlib.sha256()
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("TLCOURSE_") and name != "TLCOURSE_CACHE"
    }
    digest.update(
        json.dumps([check.command, sys.version, sys.prefix, settings], sort_keys=True).encode()
    )
    if READY.exists():
        digest.update(READY.read_bytes())
    paths = files_of((*COMMON, *check.inputs))
    if check.reads_built:
        paths += sorted(path for path in (ROOT / check.built).rglob("*") if path.is_file())
    for path in paths:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def passed_before(check: Check, key: str) -> str:
    """Return when the check last passed in the present state, or an empty string."""
    try:
        stamp = json.loads((STAMPS / f"{check.name}.json").read_text(encoding="utf-8"))
        unchanged = stamp["key"] == key and (not check.built or (ROOT / check.built).is_dir())
        return str(stamp["when"]) if unchanged else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def run(check: Check) -> bool:
    """Run one check with its output shown, and stamp it when it passes."""
    key = key_of(check)  # before the run: a file changed meanwhile makes it run again
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(Path(PYTHON).parent), env.get("PATH", "")])
    env.setdefault("MYPY_CACHE_DIR", str(CACHES / "mypy"))
    env.setdefault("RUFF_CACHE_DIR", str(CACHES / "ruff"))
    if check.threads:
        env["OMP_NUM_THREADS"] = check.threads
    done = subprocess.run(check.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False)
    stamp = STAMPS / f"{check.name}.json"
    if done.returncode != 0:
        stamp.unlink(missing_ok=True)
        return False
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(
        json.dumps({"key": key, "when": time.strftime("%Y-%m-%d %H:%M")}), encoding="utf-8"
    )
    return True


def duration(seconds: float) -> str:
    """Write a duration such as 12 s or 3 min 05 s."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def main() -> int:
    """Run the checks that were asked for and sum up."""
    names = [check.name for check in CHECKS]
    parser = argparse.ArgumentParser(description="Run the project's checks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--again", action="store_true", help="run unchanged checks too")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)}; there are: {', '.join(names)}")
    chosen = [check for check in CHECKS if not arguments.names or check.name in arguments.names]

    started = time.monotonic()
    rows = []
    failed = []
    try:
        for number, check in enumerate(chosen, start=1):
            header = f"[{number}/{len(chosen)}] {check.title}"
            if check.reads_built and "site" in failed:
                print(f"{header}: not run, since the site could not be built\n", flush=True)
                rows.append(("FAILED", check, "not run: no site"))
                failed.append(check.name)
                continue
            when = "" if arguments.again else passed_before(check, key_of(check))
            if when:
                print(f"{header}: unchanged since it passed on {when}", flush=True)
                rows.append(("passed", check, f"on {when}, unchanged since"))
                continue
            print(f"{header}\n    {' '.join(check.command[1:])}", flush=True)
            begun = time.monotonic()
            good = run(check)
            took = duration(time.monotonic() - begun)
            rows.append(("passed" if good else "FAILED", check, took))
            if not good:
                failed.append(check.name)
            print(f"{header}: {rows[-1][0]} in {took}\n", flush=True)
    except KeyboardInterrupt:
        print("\nInterrupted. Checks that passed are not run again.", file=sys.stderr)
        return 130

    print()
    for state, check, remark in rows:
        print(f"  {state}  {check.name:10} {check.title} ({remark})")
    took = duration(time.monotonic() - started)
    if failed:
        print(f"\n{len(failed)} of {len(rows)} checks FAILED, in {took}: {', '.join(failed)}.")
        print("Their messages stand above. After a change, `make test` runs only what is left.")
        return 1
    print(f"\n{'All checks' if len(rows) > 1 else 'The check'} passed, in {took}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
