"""Record which code each result of book/results was made with, from the history of the repository.

Writes book/code.json: for each experiment and each commit that its result file names, a
digest of every module that it used. The page of reproductions compares them with today's code.
Where a commit is not in the repository (a shallow clone), what is recorded of it stays.

Usage: python tools/record_code.py
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from notebooks import ROOT

from tlcourse import _code
from tlcourse.experiments import EXPERIMENTS, load_result, results_dir
from tlcourse.experiments._engine.provenance import digests

RECORD = ROOT / "book" / "code.json"


def commits_of(name: str) -> list[str]:
    """Return the commits that a result file names; ``+changes`` after one stays."""
    runs = load_result(name).record["runs"]
    return list(dict.fromkeys(commit for made in runs for commit in made["commits"]))


def module_at(package: Path, name: str) -> str | None:
    """Return the module that defines an experiment in some version of the package."""
    for file in sorted((package / "experiments").rglob("*.py")):
        if re.search(rf'name="{re.escape(name)}"', file.read_text(encoding="utf-8")):
            return ".".join(file.relative_to(package.parent).with_suffix("").parts)
    return None


def digests_at(commit: str, name: str) -> dict[str, str] | None:
    """Return the digests of an experiment's modules at a commit, or None if it is not there."""
    archive = subprocess.run(
        ["git", "archive", commit.partition("+")[0], "tlcourse"], cwd=ROOT, capture_output=True
    )
    if archive.returncode:
        return None
    own = _code.PACKAGE
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        _code.PACKAGE = Path(folder, "tlcourse")
        _code._file.cache_clear()
        try:
            module = module_at(_code.PACKAGE, name)
            return None if module is None else digests(module)
        finally:
            _code.PACKAGE = own
            _code._file.cache_clear()


def main() -> int:
    """Write the record; say which commits could not be found."""
    old = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    new: dict[str, dict[str, dict[str, str]]] = {}
    missing = []
    recorded = [name for name in EXPERIMENTS if (results_dir() / f"{name}.json").is_file()]
    for name in recorded:
        for commit in commits_of(name):
            found = old.get(name, {}).get(commit) or digests_at(commit, name)
            if found is None:
                missing.append(f"{name}: {commit}")
            else:
                new.setdefault(name, {})[commit] = found
    RECORD.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    if missing:
        print("Not in this repository, or without the experiment:", *missing, sep="\n  ")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
