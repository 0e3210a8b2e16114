"""Build the site into _build/html: run every chapter's notebook, then write the pages.

A failing cell, a warning, an unresolved link or citation makes the build fail. Notebooks that ran
before are taken from a cache whose name covers what a chapter's output depends on besides its own
cells: the package, the recorded results, the lock file and the installed versions. When any of
these changes, every notebook runs again.

Usage: python tools/build_site.py
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

from notebooks import ONE_THREAD, ROOT, kernel_environment, sources, toc
from run_chapters import has_cells, run_chapters

BUILD = ROOT / "_build"
HTML = BUILD / "html"
# Written when a build succeeds. Without it the next build starts from empty pages.
STAMP = BUILD / "site.key"
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pandas")

REDIRECT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url={page}">
<link rel="canonical" href="{page}">
<title>{title}: the first page</title>
</head>
<body><main><h1>{title}</h1><p><a href="{page}">Go to the first page.</a></p></main></body>
</html>
"""


def files_below(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files below a folder, in order, without what Python and Jupyter leave behind."""
    return sorted(
        path
        for path in folder.rglob(pattern)
        if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(path.parts)
    )


def key_of(paths: Iterable[Path], *more: str) -> str:
    """Return a short digest of the files' names and contents and of the given texts."""
    total = hashlib.sha256("\0".join(more).encode())
    for path in paths:
        if path.is_file():
            total.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def installed() -> list[str]:
    """Return the versions that a chapter's numbers and figures may depend on."""
    found = [f"python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return found


def execution_key() -> str:
    """Return the digest of all that a notebook's output depends on besides its cells."""
    results = [p for p in files_below(ROOT / "book" / "results") if p.name != "chapters.json"]
    more = [ROOT / "requirements.lock", ROOT / "tools" / "notebooks.py"]  # how kernels are started
    paths = [*files_below(ROOT / "tlcourse"), *results, *more]
    return key_of(paths, *installed())


def layout_key() -> str:
    """Return the digest of all that the pages depend on besides the chapters."""
    paths = [ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / "pyproject.toml"]
    for folder in ("book/_ext", "book/_static"):
        paths += files_below(ROOT / folder)
    return key_of(paths, *installed())


def set_environment() -> None:
    """Set what the notebooks' kernels inherit."""
    os.environ.update(kernel_environment(BUILD / "ipython"), **ONE_THREAD, TLCOURSE_BUILD_SITE="1")


def readable(line: str) -> str:
    """Return a line of the log with short paths, and with cell and line as MyST-NB counts them."""
    line = line.replace(f"{ROOT}{os.sep}", "")
    return re.sub(
        r"(\.ipynb):(\d+)(?=:)",
        lambda m: f"{m[1]}, cell {int(m[2]) // 10_000}, line {int(m[2]) % 10_000}",
        line,
    )


class Tee(io.TextIOBase):
    """Pass on what is written to a stream and keep a copy."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        """Keep the text and pass it on."""
        self.kept.append(text)
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush the stream itself."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Say whether the stream itself is a terminal."""
        return self.stream.isatty()

    def problems(self) -> list[str]:
        """Return the lines that name a warning or an error, without colours."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(self.kept))
        lines = [readable(line.strip()) for line in text.splitlines()]
        marks = ("WARNING:", "ERROR:", "CRITICAL:", "Extension error")
        return list(dict.fromkeys(line for line in lines if any(mark in line for mark in marks)))


def write_redirect() -> None:
    """Have the site's own address lead to the book's first page."""
    import yaml  # type: ignore[import-untyped]

    first = toc()[0]
    title = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"]
    if first != "index":
        text = REDIRECT.format(page=f"{first}.html", title=title)
        (HTML / "index.html").write_text(text, encoding="utf-8")


def build() -> list[str]:
    """Build the pages; return the problems, none when all is well."""
    import vendor

    if vendor.main() != 0:
        return ["the site's scripts could not be put in place"]
    execution, layout = execution_key(), layout_key()
    key = f"{execution} {layout}\n"
    if not (STAMP.is_file() and STAMP.read_text(encoding="utf-8") == key):
        for folder in (HTML, BUILD / ".doctrees", BUILD / "jupyter_execute"):
            shutil.rmtree(folder, ignore_errors=True)
    STAMP.unlink(missing_ok=True)
    cache = BUILD / f"executed-{execution}"
    for old in BUILD.glob("executed-*"):
        if old != cache:
            shutil.rmtree(old, ignore_errors=True)
    state = (
        "chapters that ran before are taken from" if cache.is_dir() else "chapters will be kept in"
    )
    print(f"Executed {state} {cache.relative_to(ROOT)}", flush=True)
    if problems := run_chapters(filter(has_cells, sources().values()), cache):
        return problems

    from jupyter_book.sphinx import build_sphinx  # type: ignore[import-untyped]

    tee = Tee(sys.stderr)
    sys.stderr = tee
    try:
        result = build_sphinx(
            str(ROOT),
            str(HTML),
            noconfig=True,
            path_config=str(ROOT / "_config.yml"),
            confoverrides={
                "external_toc_path": "_toc.yml",
                "latex_individualpages": False,
                "nb_execution_cache_path": str(cache),
                "nitpicky": True,
            },
            warningiserror=True,
            keep_going=True,
        )
    finally:
        sys.stderr = tee.stream
    if isinstance(result, KeyboardInterrupt):
        return ["interrupted"]
    if isinstance(result, BaseException):
        cell = result.__cause__
        if cell is not None and hasattr(cell, "ename") and hasattr(cell, "evalue"):
            return [readable(f"{result}: a cell fails with {cell.ename}: {cell.evalue}")]
        said = f"{type(result).__name__}: {result}" if str(result) else "the run was broken off"
        return tee.problems() or [said]
    if result:
        return tee.problems() or [f"Sphinx ended with status {result}"]
    write_redirect()
    STAMP.write_text(key, encoding="utf-8")
    return []


def main() -> int:
    start = time.monotonic()
    for name in ("_config.yml", "_toc.yml"):
        if not (ROOT / name).is_file():
            print(f"The site was not built: {name} is missing in {ROOT}", file=sys.stderr)
            return 1
    os.chdir(ROOT)
    BUILD.mkdir(exist_ok=True)
    set_environment()
    problems = build()
    if problems:
        shutil.rmtree(HTML, ignore_errors=True)  # no half of a site is taken for the whole
        sys.stdout.flush()
        print(
            f"\nThe site was not built. {len(problems)} to mend, told in full above:",
            file=sys.stderr,
        )
        for problem in problems:
            print(f"  - {problem}", file=sys.stderr)
        return 1
    print(
        f"\nThe site was built in {time.monotonic() - start:.0f} s. "
        f"Open {(HTML / 'index.html').as_uri()} or run `make serve`."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
