"""Run each chapter's notebook from a fresh kernel and record what the run took.

The records are written to book/results/chapters.json; the site shows them under each chapter's
title. A chapter that keeps something in the package's cache is run twice, first with an empty
cache. Only what a run itself downloads is counted: files found on this machine are not.

Usage: python tools/measure_chapters.py [CHAPTER ...]
    a chapter is named as in _toc.yml, or by its last part: `distillation`
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from notebooks import BOOK, PATIENCE, ROOT, kernel_environment, sources

RECORDS = BOOK / "results" / "chapters.json"

# Runs in the kernel before the chapter: counts the bytes that come in over the network.
BEFORE = """
import socket as _socket, ssl as _ssl
_received = [0]
def _count(cls, name):
    plain = getattr(cls, name)
    def counting(self, *args, **kwargs):
        got = plain(self, *args, **kwargs)
        try:
            host = str(self.getpeername()[0])
        except (OSError, IndexError, TypeError):
            host = "127.0.0.1"
        if not host.startswith("127.") and host != "::1":
            _received[0] += got if isinstance(got, int) else len(got)
        return got
    setattr(cls, name, counting)
for _cls in (_socket.socket, _ssl.SSLSocket):
    for _name in ("recv", "recv_into"):
        _count(_cls, _name)
"""

# Runs after it: the largest memory that the kernel has held, in bytes, and the count.
AFTER = """
import json as _json, pathlib as _pathlib, sys as _sys
_status = _pathlib.Path("/proc/self/status")
if _status.is_file():
    _peak = next(int(l.split()[1]) * 1024 for l in _status.read_text().splitlines()
                 if l.startswith("VmHWM"))
elif _sys.platform == "win32":
    import psutil as _psutil
    _peak = _psutil.Process().memory_info().peak_wset
else:
    import resource as _resource
    _peak = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
print(_json.dumps({"peak": _peak, "received": _received[0]}))
"""


def run(path: Path, cache: Path) -> tuple[float, int, int]:
    """Run one notebook; return its wall time in s, and its peak memory and download in bytes."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    before, after = (nbformat.v4.new_code_cell(code) for code in (BEFORE, AFTER))
    notebook.cells = [before, *notebook.cells, after]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | kernel_environment(Path(folder))
        environment |= {"TLCOURSE_CACHE": str(cache)}
        environment.pop("TLCOURSE_DATA", None)
        environment.pop("TLCOURSE_BUILD_SITE", None)
        client = NotebookClient(
            notebook,
            **PATIENCE,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        start = time.monotonic()
        client.execute(env=environment)
        seconds = time.monotonic() - start
    told = json.loads(after.outputs[0]["text"])
    return seconds, told["peak"], told["received"]


def measure(path: Path) -> dict[str, Any]:
    """Return the record of one chapter."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        seconds, peak, received = run(path, cache)
        first = None
        if any(cache.iterdir()):
            first = seconds
            seconds, again, more = run(path, cache)
            peak, received = max(peak, again), received + more
    record: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "memory_mb": round(peak / 1e6),
        "download_mb": round(received / 1e6, 1),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if first is not None:
        record["first_seconds"] = round(first, 1)
    return record


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("chapters", nargs="*", help="all chapters by default")
    options = parser.parse_args(arguments)
    known = {page: path for page, path in sources().items() if path.suffix == ".ipynb"}
    names = []
    for wanted in options.chapters or known:
        found = [page for page in known if page == wanted or page.rpartition("/")[2] == wanted]
        if not found:
            print(f"no chapter {wanted!r}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
        names += found
    chapters: dict[str, Any] = {}
    if RECORDS.is_file():
        old = json.loads(RECORDS.read_text(encoding="utf-8"))["chapters"]
        chapters = {page: record for page, record in old.items() if page in known}
    failed = 0
    for name in names:
        print(f"running {name}", flush=True)
        try:
            chapters[name] = measure(known[name])
        except Exception as error:
            print(f"{name} was not measured: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"  {json.dumps(chapters[name])}", flush=True)
        RECORDS.parent.mkdir(parents=True, exist_ok=True)
        part = RECORDS.with_name(f".{RECORDS.name}.part")
        text = json.dumps({"chapters": chapters}, indent=2, sort_keys=True)
        part.write_text(f"{text}\n", encoding="utf-8")
        part.replace(RECORDS)
    print(f"{len(names) - failed} chapters measured; records in {RECORDS.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
