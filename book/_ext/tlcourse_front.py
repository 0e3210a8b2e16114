"""The front page, the decision guide, and what leads from every page to licence, citation and code.

A comment ``% course: NAME`` in a page is replaced by what is made here, from the contents
(_toc.yml), the recorded results and the package: ``transfer`` is an explorer of transfer happening,
``map`` the chapters as cards, ``start`` the decision guide, ``code`` where the code is,
``citation`` how the course is cited. Lines ``% - page: text`` after the mark are its notes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tlcourse_results as results
import tlcourse_site as site

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = re.compile(r"^% course: (\w+)$\n?((?:^% - .+$\n?)*)", re.MULTILINE)
NOTE = re.compile(r"^% - (\S+): (.+)$", re.MULTILINE)
ABOUT = "book/reference/about"
# Without a script, a folded note or solution opens under the pointer or finger, and is else closed.
FOLDED = (
    "<noscript><style>.admonition.dropdown:not(:hover) > :not(.admonition-title) "
    "{ display: none }</style></noscript>"
)


def contents(root: Path) -> dict[str, list[str]]:
    """Return the pages of the book by part."""
    import yaml

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return {
        part["caption"]: [str(chapter["file"]) for chapter in part["chapters"]]
        for part in toc["parts"]
    }


def every_page(root: Path) -> list[str]:
    return [page for pages in contents(root).values() for page in pages]


def link(root: Path, *candidates: str) -> str:
    """Link to the first of these pages that the book has; without any, return an empty text."""
    pages = every_page(root)
    found = next((page for page in candidates if f"book/{page}" in pages), None)
    return f"{{doc}}`/book/{found}`" if found else ""


def course_map(root: Path, notes: Mapping[str, str]) -> str:
    """Show every chapter as a card with its schematic."""
    cards = [
        card(root, page, caption, notes.get(page.removeprefix("book/"), ""))
        for caption, pages in contents(root).items()
        if caption != "Reference"
        for page in pages
    ]
    return "\n".join([":::::{grid} 1 2 3 3", ":gutter: 2", "", *cards, ":::::"])


def card(root: Path, page: str, caption: str, note: str) -> str:
    """Return a chapter's card: its part, its schematic if there is one, its title, a line on it."""
    title = results.title_of(root, page)
    options = [f":link: /{page}", ":link-type: doc", ":class-card: tl-card"]
    if (root / f"{page}.svg").is_file():
        options += [f":img-top: /{page}.svg", f":img-alt: Schematic of the chapter {title}"]
    text = [f"[{caption}]{{.tl-part}}\n", f"**{title}**\\", note]
    return "\n".join(["::::{grid-item-card}", *options, "", *text, "::::", ""])


def transfer() -> str:
    """Return an explorer: the labelled digits that one has, and what three ways make of them."""
    from tlcourse import explore
    from tlcourse.experiments import load_result

    result = load_result("scratch-digits")
    ways = {
        "logistic regression\non the pixels": "pixels-{}",
        "from scratch": "scratch-{}-160",
        "with transfer": "transfer-{}-160",
    }
    labels = result.record["settings"]["labels_per_class"]

    def alt(n: int) -> str:
        found = {name: result[key.format(n)].interval.mean for name, key in ways.items()}
        said = ", ".join(f"{' '.join(k.split())} {v:.0f} %" for k, v in found.items())
        return (
            f"Left: printed characters, which the network has read before, and all labelled "
            f"handwritten digits that it gets, {n} of each. Right: accuracy on new digits: {said}."
        )

    before = os.environ.get("TLCOURSE_BUILD_SITE")
    os.environ["TLCOURSE_BUILD_SITE"] = "1"
    try:
        with results.drawing():
            shown = explore.explorer(
                lambda n: draw_transfer(result, ways, n),
                labels,
                name="transfer",
                alt=alt,
                label="Labelled images of each digit",
            )
    finally:
        explore._built.discard("transfer")
        if before is None:
            del os.environ["TLCOURSE_BUILD_SITE"]
        else:
            os.environ["TLCOURSE_BUILD_SITE"] = before
    return f"{shown.data}\n"


@cache
def images() -> tuple[Any, Any]:
    """Return printed characters, and the handwritten digits."""
    from tlcourse.data import digits, glyphs

    return glyphs(n_train=45, n_test=45, seed=0)[0], digits(size=32)[0]


def draw_transfer(result: Any, ways: Mapping[str, str], n: int) -> Any:
    """Draw a frame: what the network has read, what it is given, and how well it then reads."""
    import matplotlib.pyplot as plt
    import torch

    from tlcourse.data import few_per_class
    from tlcourse.plotting import plot_seeds

    source, train = images()
    few = few_per_class(train, n, seed=0)
    order = torch.argsort(few.labels, stable=True)
    wide = 1 if n <= 5 else 2  # images of a digit that stand side by side
    mosaic = few.images[order, 0].reshape(10, n // wide, wide, 32, 32)  # (digit, row, column, H, W)
    picture = mosaic.permute(1, 3, 0, 2, 4).reshape(n // wide * 32, 10 * wide * 32)
    figure = plt.figure(figsize=(7.2, 2.8))
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25), height_ratios=(1, 3))
    read, given = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    read.imshow(torch.cat(list(source.images[:10, 0]), dim=1).numpy(), cmap="gray_r")
    read.set_title("it has read printed characters ...", fontsize=9)
    given.imshow(picture.numpy(), cmap="gray_r")
    given.set_title(f"... and is given {10 * n} handwritten digits", fontsize=9)
    for axis in (read, given):
        axis.set_axis_off()
    axis = figure.add_subplot(grid[:, 1])
    plot_seeds(axis, {name: result[key.format(n)].values for name, key in ways.items()})
    axis.set_xlim(20, 100)
    axis.set_xlabel("accuracy on new digits, %")
    return figure


def code(address: str) -> str:
    """Say where the code is and how to get it; the address is in pyproject.toml alone."""
    start = "`make lab` opens the notebooks, `make book` runs them all and builds these pages."
    if not address:
        return f"In a folder of the course, {start}"
    return (
        f"The code: <{address}>. `git clone {address} transfer-learning`; in that folder, {start}"
    )


def citation(root: Path, address: str) -> str:
    """Return the entry by which the course is cited, from CITATION.cff."""
    import yaml

    cff = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(f"{{{author['name']}}}" for author in cff["authors"])
    fields = {"title": f"{{{cff['title']}}}", "author": authors, "version": cff["version"]}
    if address:
        fields["url"] = address
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["```bibtex", "@software{tlcourse,", *lines, "}", "```"])


SIZES = {"small": 1, "large": 1_000_000}  # labelled images, for `strategy`
# The row of `finetune-cases` that does in each case what `strategy` says.
ADVISED = {
    "small-similar": "head",
    "small-different": "new-later",
    "large-similar": "all-d3",
    "large-different": "all-d1",
}


def measured(root: Path, case: str) -> str:
    """Draw what was recorded of a case, and set the advised way beside the best one."""
    from tlcourse.experiments import load_result
    from tlcourse.metrics import interval

    size, similarity = case.split("-")
    result = load_result("finetune-cases")
    target = f"{similarity}-{size}"
    ends = (f"-{target}", f"-{target}-many")
    rows = {k.removesuffix(e): row for k, row in result.rows.items() for e in ends if k.endswith(e)}
    names = {key: row.label.partition(f", {size} and")[0] for key, row in rows.items()}
    panel = {"": {names[key]: row for key, row in rows.items()}}
    file = results.FIGURES / f"start-{case}.svg"
    results.draw(panel, root / file, "")
    advised, best = ADVISED[case], max(rows, key=lambda key: rows[key].interval.mean)
    verdict = f"The advised way is *{names[advised]}*, "
    if best == advised:
        verdict += "and it has the highest mean."
    else:
        pairs = zip(rows[best].values, rows[advised].values, strict=True)
        gap = interval([b - a for b, a in pairs])
        verdict += (
            f"the highest mean that of *{names[best]}*: {gap.mean:.1f} points more, seed by seed "
            f"({gap.low:.1f} to {gap.high:.1f})."
        )
    how = "" if similarity == "similar" else " in shuffled tiles"
    return (
        "What we measured ([finetune-cases](#result-finetune-cases)), from printed characters to "
        f"handwritten digits{how}, at the plateau. {verdict}\n\n"
        + results.image(file, results.described(panel))
    )


def start(root: Path) -> str:
    """Return the decision guide: a tab for each case, nested; it works without a script."""
    from tlcourse.finetuning import SMALL_TARGET, strategy

    chapters = {
        "small-similar": link(root, "methods/feature-extraction"),
        "small-different": link(root, "methods/fine-tuning"),
        "large-similar": link(root, "methods/fine-tuning"),
        "large-different": link(root, "methods/fine-tuning"),
    }
    sizes = {"small": f"Fewer than {SMALL_TARGET:,}", "large": f"{SMALL_TARGET:,} or more"}
    likeness = {
        "similar": "They look like the source's",
        "different": "They look different",
    }
    parts = ["::::::{tab-set}"]
    for size, label in sizes.items():
        parts += [f":::::{{tab-item}} {label} labelled images", "::::{tab-set}"]
        for similarity, words in likeness.items():
            advice = strategy(SIZES[size], similarity)
            case = f"{size}-{similarity}"
            parts += [
                f":::{{tab-item}} {words}",
                f"**Keep as it is**: {advice.freeze}.\n",
                f"**Train**: {advice.train}.\n",
                f"**Learning rate**: {advice.learning_rate}.\n",
                f"*Why*: {advice.why} *Who says so*: {advice.source}.\n",
                f"Read {chapters[case]}.\n",
                measured(root, case),
                ":::",
            ]
        parts += ["::::", ":::::"]
    return "\n".join([*parts, "::::::"])


def machine(root: Path) -> str:
    """Say what the chapters cost on the machine on which they were measured."""
    records = site.read_records(root)
    rows = [
        f"| {{doc}}`/{page}` | {site.in_words(records[page]['seconds'])} | "
        f"{records[page]['memory_mb'] / 1000:.1f} GB |"
        for page in every_page(root)
        if page in records
    ]
    return "\n".join(
        ["| chapter | on two cores, no graphics card | memory |", "|---|--:|--:|", *rows]
    )


def source_of(root: Path, notes: Mapping[str, str]) -> str:
    """List the chapters by what one has, of those that the book has."""
    rows = []
    for pages, words in notes.items():
        found = link(root, *pages.split("|"))
        if found:
            rows.append(f"| {words} | {found} |")
    return "\n".join(["| you have | start with |", "|---|---|", *rows])


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is generated in the place of its marks."""
    if not MARK.search(source[0]):
        return
    root = Path(app.srcdir)
    address = site.repository_address(root / "pyproject.toml")
    depends = [root / "_toc.yml", root / "pyproject.toml", root / "CITATION.cff", Path(__file__)]
    for file in (*depends, *sorted((root / "book" / "results").glob("*.json"))):
        app.env.note_dependency(str(file))

    def made(mark: re.Match[str]) -> str:
        notes = dict(NOTE.findall(mark[2]))
        match mark[1]:
            case "transfer":
                return transfer()
            case "map":
                return course_map(root, notes)
            case "start":
                return start(root)
            case "machine":
                return machine(root)
            case "source":
                return source_of(root, notes)
            case "code":
                return code(address)
            case "citation":
                return citation(root, address)
        raise ValueError(f"{docname}: there is nothing called {mark[1]!r} to put in.")

    source[0] = MARK.sub(lambda mark: f"{made(mark)}\n", source[0])


def first_words(texts: Iterable[str], most: int = 160) -> str:
    """Return the first text that says something, cut after a word."""
    text = next((" ".join(t.split()) for t in texts if len(t.split()) > 7), "")
    return text if len(text) <= most else f"{text[: most - 1].rpartition(' ')[0]} …"


def lead_on(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give a page its description, and its ways to licence, citation and code."""
    from docutils import nodes

    if doctree is not None:
        texts = (
            node.astext()
            for node in doctree.findall(nodes.paragraph)
            if "tl-measured" not in node["classes"]
        )
        words = escape(first_words(texts), quote=True)
        title = escape(re.sub(r"<[^>]+>", "", context.get("title", "")), quote=True)
        if words:
            context["metatags"] = (
                f"{context.get('metatags', '')}\n"
                f'<meta name="description" content="{words}">\n'
                f'<meta property="og:title" content="{title}">\n'
                f'<meta property="og:description" content="{words}">\n'
            )
    context["metatags"] = f"{context.get('metatags', '')}\n{FOLDED}\n"
    if ABOUT not in app.env.found_docs:
        return
    about = "" if pagename == ABOUT else context["pathto"](ABOUT)
    address = site.repository_address(Path(app.srcdir) / "pyproject.toml")
    repository = f' · <a href="{escape(address, quote=True)}">Code</a>' if address else ""
    context["theme_extra_footer"] = (
        f'<p>Text and figures: <a href="{about}#licence">CC BY 4.0</a> · code: '
        f'<a href="{about}#licence">MIT</a> · <a href="{about}#citation">Cite</a> · '
        f'<a href="{about}#the-code">Get the code</a>{repository}</p>'
    )
    if "header_buttons" in context:
        context["header_buttons"].append(
            {
                "type": "link",
                "url": about or "#",
                "tooltip": "Licence, citation and code",
                "icon": "fas fa-circle-info",
                "label": "about",
            }
        )


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", fill)
    app.connect("html-page-context", lead_on, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
