"""What the tools for the book share: where the notebooks are, and how they are run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CHECKED = "nbval-check-output"  # the tag of a cell whose stored output is compared with a run's
# Seconds that a cell may take. The longest takes half a minute on a quiet machine; nothing may fail
# because a machine is slow or busy.
CELL_TIMEOUT = 1800
# How nbclient waits. By itself it goes on after 4 s without an output that comes late.
PATIENCE: dict[str, Any] = {
    "timeout": CELL_TIMEOUT,
    "startup_timeout": CELL_TIMEOUT,
    "iopub_timeout": CELL_TIMEOUT,
    "raise_on_iopub_timeout": True,
}
# What is stored, tested and shown comes from kernels with one thread: two of them share a machine,
# and sums in another order would differ in the last digits.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def toc(root: Path = ROOT) -> list[str]:
    """Return the pages named in _toc.yml, in order, without suffix: 'book/methods/distillation'."""
    import yaml  # type: ignore[import-untyped]

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, list):
            return [page for item in entry for page in pages(item)]
        if not isinstance(entry, dict):
            return []
        found = [str(entry[key]) for key in ("root", "file") if key in entry]
        for key in ("parts", "subtrees", "chapters", "entries", "sections"):
            found += pages(entry.get(key))
        return found

    return pages(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Return the file of every page in _toc.yml that exists, a notebook or Markdown."""
    found = {}
    for page in toc(root):
        for suffix in (".ipynb", ".md"):
            if (path := root / f"{page}{suffix}").is_file():
                found[page] = path
                break
    return found


def notebooks_below(folder: Path) -> list[Path]:
    """Return every notebook below a folder, in order, without Jupyter's checkpoints."""
    return sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def kernel_environment(ipython: Path) -> dict[str, str]:
    """Return the variables for a kernel that depends on this repository and nothing of the user's.

    `ipython` is a folder for IPython's own files, made when it is missing.
    """
    profile = ipython / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    # The kernels talk to this machine alone: no word on encryption at every start.
    config = "c.IPKernelApp.log_level = 40\n"
    (profile / "ipython_kernel_config.py").write_text(config, encoding="utf-8")
    search = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        "TLCOURSE_PROFILE": "quick",
        "TLCOURSE_PROGRESS": str(ipython / "progress.json"),  # not the user's
        "TQDM_DISABLE": "1",  # no progress bars in stored outputs and pages
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(search),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not the user's
        "IPYTHONDIR": str(ipython),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
