"""The page of reproductions, written from the recorded results when it is read.

A comment ``% results: NAME`` in a page is replaced by what is made here: ``documents`` by how the
course's figures stand beside those of the documents that it follows (source_tables.py),
``contents`` by a list of the experiments, ``experiments`` by a section for each, chapter by
chapter, with a plot, the table and where the numbers are from. Drawings go to _build/figures.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from source_tables import Standing
    from sphinx.application import Sphinx

    from tlcourse.experiments import Experiment, Result, ResultRow

MARK = re.compile(r"^% results: (\w+)$", re.MULTILINE)
FIGURES = Path("_build/figures")
CODE = Path("book/code.json")
MOST_ROWS = 40  # of a plot


def recorded() -> dict[str, Result]:
    """Return every result that is there, in the order of the registry."""
    from tlcourse.experiments import EXPERIMENTS, load_result, results_dir

    there = (name for name in EXPERIMENTS if (results_dir() / f"{name}.json").exists())
    return {name: load_result(name) for name in there}


def by_chapter(results: Mapping[str, Result], toc: list[str]) -> dict[str, dict[str, Result]]:
    """Return the results by the page of their chapter, in the order of the book."""
    found: dict[str, dict[str, Result]] = {}
    for name, result in results.items():
        found.setdefault(f"book/{result.record['chapter']}", {})[name] = result
    return dict(sorted(found.items(), key=lambda item: (*toc, item[0]).index(item[0])))


def title_of(root: Path, page: str) -> str:
    """Return the first heading of a page."""
    for suffix in (".ipynb", ".md"):
        file = root / f"{page}{suffix}"
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            if suffix == ".ipynb":
                cells = json.loads(text)["cells"]
                text = "\n".join(
                    "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"
                )
            heading = re.search(r"^# (.+)$", text, re.MULTILINE)
            if heading:
                return heading[1]
    return page.rpartition("/")[2].replace("-", " ").capitalize()


def documents(root: Path) -> str:
    """Say how many of the documents' figures are reproduced, how many differ, and why."""
    from source_tables import TABLES, Standing, standing

    found = {table.title: standing(table) for table in TABLES}
    total = sum(found.values(), Standing(0, 0, 0, 0, 0, 0))
    compared = total.same + total.other + total.open
    file = FIGURES / "documents.svg"
    draw_documents(found, root / file)
    lines = [
        f"The documents give **{total.figures} figures of results**. Beside **{total.beside}** of "
        f"them stands one of ours. **{total.within}** of these lie within our 95 % interval; "
        f"{total.beside - total.within} differ, for nearly all our runs are smaller, on other data "
        f"or on less of it. For the other {total.figures - total.beside} nothing of ours was run.",
        "",
        "What such tables are for is the comparison: is the method better than the table's "
        f"reference row? Of **{compared}**, ours come out **{total.same}** times the same way, "
        f"**{total.other}** times the other way, and {total.open} times our seeds cannot tell.",
        "",
        image(
            file,
            f"For each table, two bars. Its figures: {total.within} within our interval, "
            f"{total.beside - total.within} that differ, {total.figures - total.beside} with none "
            f"of ours. Its comparisons: {total.same} the same way, {total.other} the other way, "
            f"{total.open} open. The numbers by table are in the list below.",
        ),
        "Why they differ, table by table:",
        "",
    ]
    for table in TABLES:
        s = found[table.title]
        links = ", ".join(f"[{n}](#result-{n})" for n in table.experiments)
        counts = f"{s.figures} figures, {s.beside or 'none'} with one of ours"
        if s.beside:
            ways = {"the same way": s.same, "the other way": s.other, "open": s.open}
            said = [f"{number} {way}" for way, number in ways.items() if number]
            counts += f" ({links}), {s.within or 'none'} within; comparisons: {', '.join(said)}"
        lines.append(f"- **{table.title}**, {table.work}. {table.why} *{counts}.*")
    return "\n".join(lines)


def image(file: Path, alt: str) -> str:
    """Write a drawing into the page; on a telephone it scrolls rather than shrinks."""
    return (
        "````{div} tl-scroll\n"
        f"```{{image}} /{file.as_posix()}\n:class: tl-plot\n:alt: {alt}\n```\n````\n"
    )


def draw_documents(found: Mapping[str, Standing], file: Path) -> None:
    """Draw a bar for each table: what became of its figures, and of its comparisons."""
    from tlcourse.plotting import INK

    with drawing() as plt:
        figure, axes = plt.subplots(1, 2, figsize=(7.5, 0.9 + 0.27 * len(found)), sharey=True)
        kinds = {
            "figures": {
                "within our interval": [s.within for s in found.values()],
                "differ": [s.beside - s.within for s in found.values()],
                "none of ours": [s.figures - s.beside for s in found.values()],
            },
            "comparisons": {
                "the same way": [s.same for s in found.values()],
                "the other way": [s.other for s in found.values()],
                "open": [s.open for s in found.values()],
            },
        }
        for axis, (name, parts) in zip(axes, kinds.items(), strict=True):
            left = [0] * len(found)
            looks = zip(("#0072B2", "#D55E00", "none"), ("", "///", ""), strict=True)
            for (label, counts), (colour, hatch) in zip(parts.items(), looks, strict=True):
                axis.barh(
                    range(len(found)),
                    counts,
                    left=left,
                    label=label,
                    color=colour,
                    hatch=hatch,
                    edgecolor=INK,
                    linewidth=0.6,
                )
                left = [a + b for a, b in zip(left, counts, strict=True)]
            axis.set_xlabel(name)
            axis.grid(visible=False, axis="y")
            axis.legend(fontsize=8, loc="lower right")
        axes[0].set_yticks(range(len(found)), list(found))
        axes[0].invert_yaxis()
        save(figure, file)


@contextmanager
def drawing() -> Iterator[Any]:
    """Give pyplot, in the style of the course, without a screen; leave all as it was."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from tlcourse.plotting import use_style

    with mpl.rc_context():
        use_style()
        yield plt
        plt.close("all")


def save(figure: Figure, file: Path) -> None:
    """Write a drawing; its bytes depend on what is drawn alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None})


def contents(root: Path, chapters: Mapping[str, Mapping[str, Result]]) -> str:
    """List the experiments, by chapter."""
    return "\n".join(
        f"- {title_of(root, page)}: " + ", ".join(f"[{name}](#result-{name})" for name in results)
        for page, results in chapters.items()
    )


def groups_of(rows: Mapping[str, ResultRow]) -> dict[str, dict[str, ResultRow]]:
    """Group rows by what stands before the colon of their labels, where most have one."""
    split = [label.rpartition(": ")[0] for label in rows]
    if sum(map(bool, split)) * 2 < len(split) or len(set(split)) * 2 > len(split):
        return {"": dict(rows)}
    groups: dict[str, dict[str, ResultRow]] = {}
    for (label, row), group in zip(rows.items(), split, strict=True):
        groups.setdefault(group, {})[label.removeprefix(f"{group}: ")] = row
    return groups


def panels(result: Result) -> Iterator[dict[str, dict[str, ResultRow]]]:
    """Yield what each plot shows: rows of one unit, in groups, not more than a page holds."""
    for unit in dict.fromkeys(row.unit for row in result.rows.values()):
        of_unit = [row for row in result.rows.values() if row.unit == unit]
        often = Counter(row.label for row in of_unit)
        rows = {
            row.label if often[row.label] == 1 else f"{row.label} ({row.key})": row
            for row in of_unit
        }
        flat = [(g, n, row) for g, named in groups_of(rows).items() for n, row in named.items()]
        while flat:
            panel: dict[str, dict[str, ResultRow]] = {}
            for group, name, row in flat[:MOST_ROWS]:
                panel.setdefault(group, {})[name] = row
            flat = flat[MOST_ROWS:]
            yield panel


def described(panel: Mapping[str, Mapping[str, ResultRow]]) -> str:
    """Return the alternative text of a plot."""
    rows = [
        (f"{g}: {n}" if g else n, row) for g, named in panel.items() for n, row in named.items()
    ]
    low = min(rows, key=lambda item: item[1].interval.mean)
    high = max(rows, key=lambda item: item[1].interval.mean)
    papers = sum(row.paper is not None for _, row in rows)
    return (
        f"{len(rows)} rows as dots with 95 % intervals, {low[1].unit}: from "
        f"{low[1].interval.mean:.4g} ({low[0]}) to {high[1].interval.mean:.4g} ({high[0]})."
        + (f" {papers} open diamonds: the source's figures." if papers else "")
    )


def draw(panel: Mapping[str, Mapping[str, ResultRow]], file: Path, source: str) -> None:
    """Draw the rows of a panel."""
    from tlcourse.plotting import plot_result

    with drawing():
        figure = plot_result(panel, source=source)
        longest = max(len(name) for named in panel.values() for name in named)
        figure.set_figwidth(6.0 + max(0, longest - 30) * 0.06)
        save(figure, file)


def plots(name: str, result: Result, root: Path) -> str:
    """Draw a result's plots; show the first of each unit, and fold what does not fit beside it."""
    shown, folded, units = [], [], set()
    source = re.split(r"[,;:]", result.record["source"])[0]
    for i, panel in enumerate(panels(result)):
        file = FIGURES / f"{name}-{i}.svg"
        draw(panel, root / file, source)
        unit = next(iter(next(iter(panel.values())).values())).unit
        (folded if unit in units else shown).append(image(file, described(panel)))
        units.add(unit)
    rest = f"`````{{dropdown}} More rows\n{''.join(folded)}`````\n" if folded else ""
    return "\n".join(shown) + "\n" + rest


def code_since(experiment: Experiment, record: Mapping[str, Mapping[str, str]]) -> str:
    """Say whether the code has changed since the commits that a result was recorded at."""
    from tlcourse.experiments._engine.provenance import changed, digests

    if not record:
        return "Which code that was is not recorded."
    module = experiment.run_seed.__module__
    now = digests(module)
    found = sorted({name for then in record.values() for name in changed(then, now)})
    if not found:
        return "Its code is the same today."
    family = module.split(".")[2]
    method = [m for m in found if m.startswith((f"tlcourse.{family}.", module))]
    names = ", ".join(f"`{m.removeprefix('tlcourse.')}`" for m in method)
    among = f", among them {names}" if names else ", none of the method's own among them"
    return f"Since then {len(found)} of the {len(now)} modules that it uses have changed{among}."


def section(name: str, result: Result, root: Path, code: Mapping[str, Any]) -> str:
    """Write the section of an experiment."""
    from tlcourse.experiments import get

    record = result.record
    schedule = record["settings"].get("schedule")
    commits = dict.fromkeys(c for made in record["runs"] for c in made["commits"])
    better = "" if " " in record["better"] else f" ({record['better']} is better)"
    table = result.frame().to_html(border=0)
    parts = [
        f"(result-{name})=\n### {name}\n",
        f"{record['title']}{better}.\n",
        plots(name, result, root),
        f'<details class="tl-table"><summary>Table of {len(result.rows)} rows</summary>\n'
        f'<div class="tl-scroll">{table}</div>\n</details>\n',
        f"*Source*: {record['source']}.\n" if record["source"] else "",
        f"*How it was run*: {schedule + '; ' if schedule else ''}{result.origin}; commit "
        f"{', '.join(f'`{c}`' for c in commits)}. {code_since(get(name), code.get(name, {}))} "
        f"Again: `tlcourse run {name} --profile full`.\n",
    ]
    return "\n".join(parts)


def experiments(root: Path, chapters: Mapping[str, Mapping[str, Result]]) -> str:
    """Write a section for every experiment, in those of their chapters."""
    path = root / CODE
    code = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    parts = []
    for page, results in chapters.items():
        parts.append(f"## {title_of(root, page)}\n")
        there = any((root / f"{page}{suffix}").is_file() for suffix in (".ipynb", ".md"))
        parts.append(f"Discussed in {{doc}}`/{page}`.\n" if there else "")
        parts += [section(name, result, root, code) for name, result in results.items()]
    return "\n".join(parts)


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is generated in the place of its marks."""
    if not MARK.search(source[0]):
        return
    root = Path(app.srcdir)
    here = Path(__file__)
    results = sorted((root / "book" / "results").glob("*.json"))
    for file in (here, here.with_name("source_tables.py"), root / CODE, *results):
        app.env.note_dependency(str(file))
    toc = re.findall(r"file: (\S+)", (root / "_toc.yml").read_text(encoding="utf-8"))
    chapters = by_chapter(recorded(), toc)
    made = {
        "documents": lambda: documents(root),
        "contents": lambda: contents(root, chapters),
        "experiments": lambda: experiments(root, chapters),
    }
    source[0] = MARK.sub(lambda mark: made[mark[1]](), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
