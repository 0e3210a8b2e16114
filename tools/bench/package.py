"""The package as a whole: its import, and the recorded run of every chapter."""

from __future__ import annotations

import json
import statistics
import sys

from bench.timing import ROOT, Case, Row, in_fresh_python


def import_beyond_torch() -> list[Row]:
    """Time `import tlcourse` after `import torch`, in fresh interpreters."""
    program = (
        "import time, torch; start = time.perf_counter(); import tlcourse; "
        "print(time.perf_counter() - start)"
    )
    times = [in_fresh_python(program) for _ in range(7)]
    return [Row("import tlcourse, after torch", "", statistics.median(times), 0.3, "s")]


def chapters() -> list[Row]:
    """Read the recorded quick run of every chapter: 30 s is the aim, 90 s the limit."""
    path = ROOT / "book" / "results" / "chapters.json"
    if not path.exists():
        print("No chapter has been measured yet: make measure", file=sys.stderr)
        return []
    recorded = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, entry in recorded.get("chapters", recorded).items():
        if isinstance(entry, dict) and "seconds" in entry:
            seconds = float(entry["seconds"])
            detail = "" if seconds <= 30 else "over the aim of 30 s"
            rows.append(Row("chapter, quick run", name, seconds, 90, "s", detail))
    return rows


CASES: tuple[Case, ...] = (
    import_beyond_torch,
    chapters,
)
