"""Run the chapters' notebooks, two at a time, into the cache that the site is built from.

The cache and the run of one notebook are jupyter-cache's. Its own parallel executor takes as many
processes as the machine has cores, gives each whatever order there is and keeps silent about which
cell failed; here it is two, the longest chapter first, and a failing cell is named.
"""

from __future__ import annotations

import json
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

from notebooks import BOOK, PATIENCE, ROOT

AT_ONCE = 2
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def place_of(path: Path, notebook: Any) -> str:
    """Say which cell of a notebook that was broken off ran last, and in which line it failed.

    Cells are counted from 1, text among them, as MyST-NB counts them in its warnings.
    """
    place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    ran = [i for i, cell in enumerate(notebook.cells, start=1) if cell.get("execution_count")]
    if not ran:
        return place
    place += f", cell {ran[-1]}"
    for output in notebook.cells[ran[-1] - 1].outputs:
        told = COLOURS.sub("", "\n".join(output.get("traceback", [])))
        if line := re.search(r"Cell In\[\d+\], line (\d+)", told):
            place += f", line {line[1]}"
    return place


def has_cells(path: Path) -> bool:
    """Say whether a page is a notebook, be it written as one or in Markdown."""
    from myst_nb.core.read import is_myst_markdown_notebook  # type: ignore[import-untyped]

    return path.suffix == ".ipynb" or is_myst_markdown_notebook(path.read_text(encoding="utf-8"))


def read(path: Path) -> Any:
    """Return a page's notebook as MyST-NB reads it: by its cells the cache knows it again."""
    import nbformat
    from myst_nb.core.read import myst_nb_reader_plugin

    if path.suffix == ".ipynb":
        return nbformat.read(path, as_version=4)
    return myst_nb_reader_plugin(str(path))


def run_one(path: Path) -> tuple[str, float, str, str]:
    """Run one notebook.

    Returns
    -------
    tuple
        The notebook with its outputs, the seconds that it took, a problem in one line, and the
        problem in full; both empty when all is well.
    """
    import nbformat
    from jupyter_cache.executors.utils import single_nb_execution  # type: ignore[import-untyped]

    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":  # what is there afterwards comes from this run
            cell.update(execution_count=None, outputs=[])
    try:
        done = single_nb_execution(
            notebook,
            cwd=str(path.parent),
            allow_errors=False,
            **PATIENCE,
        )
    except Exception as error:  # such as a kernel that died
        text = f"{type(error).__name__}: {error}".strip()
        return "", 0.0, f"{place_of(path, notebook)}: {text.splitlines()[0]}", text
    problem = ""
    if done.err is not None:
        name = getattr(done.err, "ename", type(done.err).__name__)
        said = getattr(done.err, "evalue", "") or str(done.err).strip()
        first = COLOURS.sub("", said).strip().splitlines()[:1]
        problem = f"{place_of(path, notebook)}: a cell fails with {name}: {' '.join(first)}"
    return nbformat.writes(notebook), done.time, problem, done.exc_string or ""


def longest_first(paths: Iterable[Path]) -> list[Path]:
    """Put chapters into the order of their recorded run times; one without a record goes first."""
    records = BOOK / "results" / "chapters.json"
    known = json.loads(records.read_text(encoding="utf-8"))["chapters"] if records.exists() else {}

    def seconds(path: Path) -> float:
        name = path.with_suffix("").relative_to(ROOT).as_posix()
        return float(known.get(name, {}).get("seconds", float("inf")))

    return sorted(paths, key=seconds, reverse=True)


def run_chapters(paths: Iterable[Path], cache: Path) -> list[str]:
    """Run the notebooks that the cache does not hold yet; return the problems, one line each.

    After a failure no other chapter is begun. Those that ran stay in the cache.
    """
    from jupyter_cache import get_cache  # type: ignore[import-untyped]

    store = get_cache(str(cache))
    try:
        return _run_into(store, paths)
    finally:
        store.db.dispose()  # jupyter-cache leaves its database open, which Python 3.13 warns of


def _run_into(store: Any, paths: Iterable[Path]) -> list[str]:
    import nbformat
    from jupyter_cache.base import CacheBundleIn  # type: ignore[import-untyped]

    waiting = []
    for path in paths:
        try:
            store.match_cache_notebook(read(path))
        except KeyError:
            waiting.append(path)
    if not waiting:
        return []
    print(f"To run, {AT_ONCE} at a time: {len(waiting)} chapters", flush=True)
    problems: list[str] = []
    # Processes, not threads: on Ctrl-C each shuts down the kernel that it started.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(AT_ONCE, mp_context=context) as pool:
        runs = {pool.submit(run_one, path): path for path in longest_first(waiting)}
        for number, run in enumerate(as_completed(runs), start=1):
            if run.cancelled():
                continue
            text, seconds, problem, in_full = run.result()
            if problem:
                print(in_full, flush=True)
                problems.append(problem)
                pool.shutdown(wait=False, cancel_futures=True)
                continue
            bundle = CacheBundleIn(
                nbformat.reads(text, as_version=4),
                str(runs[run]),
                data={"execution_seconds": seconds},
            )
            store.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            name = runs[run].relative_to(ROOT).as_posix()
            print(f"  [{number}/{len(waiting)}] {name} ran in {seconds:.0f} s", flush=True)
    return problems
