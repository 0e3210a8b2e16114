"""Bring the book's notebooks into the form in which they are kept.

Code is formatted by ruff, in lines that fit a page; outputs are dropped except those of cells
tagged `nbval-check-output`; metadata is cut down to what the book uses; cell ids stay.

Usage:
    python tools/format_notebooks.py            format every notebook below book/
    python tools/format_notebooks.py --check    change nothing; name what differs, fail if any
    python tools/format_notebooks.py --run      run them first and store the tagged cells' outputs
    ... FILE [FILE ...]                         only these notebooks
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from notebooks import BOOK, CHECKED, ONE_THREAD, PATIENCE, ROOT, kernel_environment, notebooks_below

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_METADATA = ("mystnb", "tags")
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class NotebookError(Exception):
    """A notebook that cannot be brought into form; the message says why."""


def text_of(source: str | list[str]) -> str:
    """Return a multi-line field as one text."""
    return source if isinstance(source, str) else "".join(source)


def is_checked(cell: dict[str, Any]) -> bool:
    """Say whether the cell's output is stored and compared."""
    return CHECKED in cell.get("metadata", {}).get("tags", [])


def format_code(notebook: dict[str, Any]) -> list[str]:
    """Return the sources of all cells, those with code formatted by ruff."""
    plain = {
        "cells": [
            {"cell_type": cell["cell_type"], "metadata": {}, "source": text_of(cell["source"])}
            | ({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {})
            for cell in notebook["cells"]
        ],
        "metadata": {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "80"]
    command += ["--target-version", "py311", "--stdin-filename", "cell.ipynb", "-"]
    run = subprocess.run(
        command, input=json.dumps(plain), capture_output=True, text=True, encoding="utf-8"
    )
    if run.returncode:
        raise NotebookError(f"ruff cannot format the code: {run.stderr.strip()}")
    return [text_of(cell["source"]) for cell in json.loads(run.stdout)["cells"]]


def format_output(output: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a stored output without what changes from run to run."""
    output = dict(output)
    if "metadata" in output:
        output["metadata"] = {}
    if output["output_type"] == "execute_result":
        output["execution_count"] = count
    return output


def format_notebook(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook in the form in which it is kept."""
    if notebook.get("nbformat") != 4:
        raise NotebookError(f"notebook format {notebook.get('nbformat')}, expected 4")
    cells: list[dict[str, Any]] = []
    taken: set[str] = set()
    count = 0
    for old, source in zip(notebook["cells"], format_code(notebook), strict=True):
        source = source.strip("\n")
        name = old.get("id", "")
        if not CELL_ID.fullmatch(name) or name in taken:
            number = f"{len(cells)} {source}".encode()
            name = f"cell-{hashlib.sha256(number).hexdigest()[:12]}"
        taken.add(name)
        metadata = {k: old["metadata"][k] for k in CELL_METADATA if old["metadata"].get(k)}
        cell = {"cell_type": old["cell_type"], "id": name, "metadata": metadata, "source": source}
        if old["cell_type"] == "code":
            count += bool(source)
            kept = is_checked(old) and old.get("execution_count") is not None
            cell["execution_count"] = count if kept else None
            cell["outputs"] = [format_output(o, count) for o in old["outputs"]] if kept else []
        cells.append(cell)
    return {
        "cells": cells,
        "metadata": {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(notebook: dict[str, Any]) -> str:
    """Return the notebook's file content: always the same for the same notebook."""
    import nbformat

    text = nbformat.writes(nbformat.from_dict(notebook), version=nbformat.NO_CONVERT)
    return text.rstrip("\n") + "\n"


def formatted(text: str) -> str:
    """Return the content of a notebook's file, brought into form."""
    try:
        notebook = json.loads(text)
    except ValueError as error:
        raise NotebookError(f"not a notebook: {error}") from error
    return write(format_notebook(notebook))


def executed(path: Path) -> str:
    """Run a notebook from a fresh kernel and return its content with all outputs."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            **PATIENCE,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute(env=os.environ | kernel_environment(Path(folder)) | ONE_THREAD)
        except CellExecutionError as error:
            raise NotebookError(f"a cell fails: {error}") from error
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT)


def replace(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def relative(path: Path) -> Path:
    """Return the path as it is best shown."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, help="notebooks; all below book/ by default")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    how.add_argument("--run", action="store_true", help="run first, store tagged cells' outputs")
    options = parser.parse_args(arguments)
    paths = [p.resolve() for p in options.files] or notebooks_below(BOOK)
    changed, failed = [], 0
    for path in paths:
        try:
            old = path.read_text(encoding="utf-8")
            if options.run:
                print(f"running {relative(path)}", flush=True)
            new = formatted(executed(path) if options.run else old)
        except (NotebookError, OSError) as error:
            print(f"{relative(path)}: {error}", file=sys.stderr)
            failed += 1
            continue
        if new != old:
            changed.append(path)
            if not options.check:
                replace(path, new)
    state = "not in form; run `make format`" if options.check else "formatted"
    for path in changed:
        print(f"{relative(path)}: {state}")
    print(f"{len(paths)} notebooks, {len(changed)} {'to format' if options.check else 'changed'}")
    return 1 if failed or (options.check and changed) else 0


if __name__ == "__main__":
    sys.exit(main())
