"""What this site adds to Sphinx: repository buttons from one place, each chapter's measured cost.

- `[project.urls] Repository` in pyproject.toml is the one place that holds the repository's
  address. The buttons to the repository, to Binder and to Colab are made from it and stay off
  while it is missing.
- Figures of the notebooks are drawn with more pixels than they are shown with; the density that is
  written into the file tells their size on the page.
- book/results/chapters.json, written by tools/measure_chapters.py, holds what each chapter's run
  took. A chapter shows its record in a line under the title; one without a record shows nothing.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

RECORDS = Path("book/results/chapters.json")


def repository_address(pyproject: Path) -> str:
    """Return the repository's public address, or an empty text while there is none."""
    if not pyproject.is_file():
        return ""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
    return str(project.get("urls", {}).get("Repository", "")).rstrip("/")


def set_up_buttons(app: Sphinx, config: Config) -> None:
    address = repository_address(Path(app.srcdir) / "pyproject.toml")
    options = dict(config.html_theme_options)
    options["repository_url"] = address
    options["use_repository_button"] = bool(address)
    options["use_issues_button"] = bool(address)
    options["launch_buttons"] = (
        {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
        if address
        else {}
    )
    config.html_theme_options = options


def in_words(seconds: float) -> str:
    """Return a duration as a reader says it: '14 s', '2 min 30 s'."""
    whole = max(1, round(seconds))
    if whole < 90:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"


def sentence(record: dict[str, Any]) -> str:
    """Say in words what a chapter's run took.

    Examples
    --------
    >>> sentence({"seconds": 13.6, "cores": 2, "memory_mb": 912, "download_mb": 0})
    'Runs in 14 s on 2 cores with 0.9 GB of memory; downloads nothing.'
    """
    duration = in_words(record["seconds"])
    if "first_seconds" in record:
        duration += f", {in_words(record['first_seconds'])} the first time,"
    cores = record["cores"]
    memory = max(0.1, record["memory_mb"] / 1000)
    megabytes = record["download_mb"]
    download = "nothing" if megabytes == 0 else f"{max(1, round(megabytes)):,} MB"
    return (
        f"Runs in {duration} on {cores} {'core' if cores == 1 else 'cores'} "
        f"with {memory:.1f} GB of memory; downloads {download}."
    )


def read_records(root: Path) -> dict[str, dict[str, Any]]:
    path = root / RECORDS
    if not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8"))["chapters"])


def find_changed(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Have the chapters whose record changed read again."""
    new = read_records(Path(app.srcdir))
    old = getattr(env, "tlcourse_records", {})
    env.tlcourse_records = new  # type: ignore[attr-defined]
    names = {name for name in new.keys() | old.keys() if new.get(name) != old.get(name)}
    return sorted((names & env.found_docs) - added - changed)


def add_measured_line(app: Sphinx, doctree: nodes.document) -> None:
    record = getattr(app.env, "tlcourse_records", {}).get(app.env.docname)
    if record is None:
        return
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None:
        return
    line = nodes.paragraph("", "", classes=["tl-measured"])
    line += nodes.Text(sentence(record))
    title.parent.insert(title.parent.index(title) + 1, line)


def merge_records(
    app: Sphinx, env: BuildEnvironment, docnames: Iterable[str], other: BuildEnvironment
) -> None:
    """Every process reads the same file: nothing to merge."""


def show_at_size(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give the figures that a notebook drew the width that they were drawn for."""
    from PIL import Image

    for node in doctree.findall(nodes.image):
        file = Path(app.srcdir) / node["uri"]
        if "jupyter_execute" not in file.parts or file.suffix != ".png" or "width" in node:
            continue
        with Image.open(file) as image:
            inches = image.width / image.info["dpi"][0]
        node["width"] = f"{round(100 * inches)}px"


def drop_repeated_ids(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Take away the ids that sphinx-exercise gives to all exercises and solutions alike."""
    for name in ("exercise-content", "solution-content"):
        if "body" in context:
            context["body"] = context["body"].replace(f' id="{name}"', "")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", set_up_buttons, priority=400)
    app.connect("env-get-outdated", find_changed)
    app.connect("doctree-read", add_measured_line)
    app.connect("doctree-resolved", show_at_size)
    app.config.html_scaled_image_link = False  # type: ignore[attr-defined]
    app.connect("env-merge-info", merge_records)
    app.connect("html-page-context", drop_repeated_ids)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
