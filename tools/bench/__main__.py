"""Run the cases, print a table and write _build/bench.json.

python tools/bench                        every case
python tools/bench continual extraction   the cases of a family, or one case by its name
python tools/bench --strict               also fail when a row is over its limit
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python tools/bench`

import bench
from bench.timing import ROOT, Case, Row

OUTPUT = ROOT / "_build" / "bench.json"


def families() -> dict[str, tuple[Case, ...]]:
    """Return the cases of every family."""
    names = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    modules = {
        name: importlib.import_module(f"bench.{name}") for name in names if name != "__main__"
    }
    return {name: module.CASES for name, module in modules.items() if hasattr(module, "CASES")}


def chosen(names: list[str]) -> list[Case]:
    """Return the cases that are named, by themselves or by their family; all when none is."""
    known = families()
    by_name = known | {case.__name__: (case,) for cases in known.values() for case in cases}
    if unknown := [name for name in names if name not in by_name]:
        told = ", ".join(by_name)
        raise SystemExit(f"no case and no family is called {unknown[0]!r}; there are: {told}")
    found = [case for name in names or known for case in by_name[name]]
    return list(dict.fromkeys(found))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure speed as ratios within one run.")
    parser.add_argument("names", nargs="*", metavar="CASE", help="a case or a family; else all")
    parser.add_argument("--strict", action="store_true", help="fail when a row is over its limit")
    options = parser.parse_args(arguments)
    cases = chosen(options.names)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        # glibc hands freed memory back to the system at once, and which of two functions pays for
        # asking again is chance. Here it keeps it, for all that is timed alike.
        kept = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **kept})
    rows: list[Row] = []
    print(f"{'what':30} {'size':28} {'value':>9} {'limit':>8}")
    for case in cases:
        for row in case():
            rows.append(row)
            remark = "" if row.good else "OVER THE LIMIT  "
            print(
                f"{row.case:30} {row.size:28} {row.value:7.2f} {row.unit:1} "
                f"{row.limit:6.2f} {row.unit:1}  {remark}{row.detail}",
                flush=True,
            )
    over = [row for row in rows if not row.good]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "rows": [{**asdict(row), "good": row.good} for row in rows],
    }
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{len(rows)} rows, {len(over)} over the limit. Written to {OUTPUT.relative_to(ROOT)}")
    return 1 if over and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
