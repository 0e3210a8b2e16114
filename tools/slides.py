"""Make slides and figures for teaching from the chapters: _build/slides/index.html.

A chapter is the one source, here as of the lab's notebooks. Its deck has the title with the
schematic, what one will be able to do, each displayed equation with its symbols, the plots, one
short question and the summary. A deck is one HTML file: arrow keys turn it, a browser prints it,
and beside it lies the MathJax of the site, so that nothing is loaded from elsewhere.

Plots are those of the site's runs; a chapter that has not run yet is run. Beside the decks,
figures.html lists every figure as a file with the line that names its source and licence.

Usage:
    python tools/slides.py [CHAPTER ...] [--no-run]

    --no-run    draw the plots of recorded results alone, which takes seconds
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import io
import json
import re
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vendor
from notebooks import ROOT, sources

from lab import Book, Chapter, LabError, answers, text_of

BUILD = ROOT / "_build"
OUT = BUILD / "slides"
LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`$])")  # where the next one begins
SUFFIX = {"image/png": ".png", "image/svg+xml": ".svg", "image/jpeg": ".jpg"}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
{head}</head>
<body>
{body}
</body>
</html>
"""
STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
MATHJAX = r"""<script>
MathJax = {tex: {inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]]}};
</script>
<script defer src="mathjax/tex-mml-chtml.js"></script>
"""
NAV = (
    '<nav aria-label="Slides"><button value="-1" aria-label="Back">&larr;</button>'
    '<span role="status"></span><button value="1" aria-label="On">&rarr;</button></nav>'
)


@dataclass
class Picture:
    """A figure of a chapter: its label, number, kind and bytes, and words."""

    label: str
    number: str
    kind: str
    data: bytes
    caption: str  # Markdown
    alt: str

    def shown(self) -> str:
        """Return it as HTML, with its data inside."""
        data = base64.b64encode(self.data).decode()
        return (
            f'<figure><img src="data:{self.kind};base64,{data}" alt="{html.escape(self.alt)}">'
            f"<figcaption>Figure {self.number}. {inline(self.caption)}</figcaption></figure>"
        )


def markdown() -> Any:
    """Return what makes HTML of plain Markdown; formulas are left to MathJax."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    made = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def formula(text: str, options: dict[str, Any]) -> str:
        left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
        return f"{left}{html.escape(text)}{right}"

    return made.use(dollarmath_plugin, double_inline=True, renderer=formula)


def rendered(text: str) -> str:
    """Return Markdown as HTML; a link to a notebook, which a deck has not beside it, is a name."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\.ipynb\)", r"*\1*", text)
    return str(markdown().render(text))


def inline(text: str) -> str:
    return rendered(text).strip().removeprefix("<p>").removesuffix("</p>")


class Deck(Chapter):
    """A chapter on its way to its slides."""

    def __init__(
        self, page: str, cells: list[dict[str, Any]], book: Book, plots: dict[str, Any]
    ) -> None:
        self.plots, self.pictures = plots, list[Picture]()
        self.slides: list[tuple[str, str]] = []  # heading and content, HTML
        self.title = book.titles[page]
        self._section, self._asked, self._in_exercises = self.title, False, False
        super().__init__(page, cells, book)
        if not self._asked and self.exercises:
            first = next(c for c in self.learner if c["source"].startswith("### Exercise"))
            head, _, text = first["source"].partition("\n")
            self.slides.append((inline(head.removeprefix("### ")), rendered(text)))
        self.slides.append(("Summary", rendered(self._summary())))

    def _add(self, name: str, text: str, pictures: dict[str, Any], whom: str = "all") -> None:
        super()._add(name, text, pictures, whom)
        if whom != "all":
            return
        parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
        for k, part in enumerate(parts):
            if found := re.match(r"#{1,3} (.*)", part):
                self._section = inline(found[1])
                self._in_exercises = found[1] == "Exercises" or self._in_exercises
            elif part.startswith("$$") and not self._in_exercises:
                self._equation(parts, k)
            elif part.startswith("> **What you will be able to do**"):
                lines = part.replace("\n> ", "\n").replace("\n>", "\n").split("\n")[1:]
                self.slides.append(("What you will be able to do", rendered("\n".join(lines))))

    def _equation(self, parts: list[str], k: int) -> None:
        """Add a formula between the words that lead to it and the meaning of its symbols."""
        before = (
            parts[k - 1] if k and not parts[k - 1].startswith(("#", "!", "$$", "|", "<")) else ""
        )
        said = [] if before.startswith("- ") else re.split(SENTENCE, before)
        short = len(" ".join(said[-2:]).split()) <= 40
        shown = [" ".join(said[-2:] if short else said[-1:]), parts[k]]
        if parts[k + 1 : k + 2] and parts[k + 1].startswith("where"):
            shown.append(re.split(SENTENCE, parts[k + 1])[0])
            if parts[k + 2 : k + 3] and parts[k + 2].startswith("- "):
                shown.append(parts[k + 2])
        made = rendered("\n\n".join(shown))
        head, last = self.slides[-1] if self.slides else ("", "")
        if head == self._section and last.count('<div class="math block">') == 1:  # two fit
            self.slides[-1] = (head, last + made)
        else:
            self.slides.append((self._section, made))

    def _code(self, cell: dict[str, Any]) -> None:
        super()._code(cell)
        about = cell["metadata"].get("mystnb", {})
        plot = self.plots.get(cell["id"])
        if plot is None or "figure" not in about or self._in_solution or self._in_exercises:
            return
        figure = about["figure"]
        caption = self._inline(figure.get("caption", ""))
        alt = about.get("image", {}).get("alt", "")
        number = self.book.labels[figure["name"]]
        self._show(Picture(figure["name"], number, plot[0], plot[1], caption, alt))

    def _show(self, picture: Picture) -> None:
        self.pictures.append(picture)
        self.slides.append((self._section, picture.shown()))

    def _directive(
        self, name: str, title: str, options: dict[str, str], body: str, pictures: dict[str, Any]
    ) -> str:
        if name == "figure" and "name" in options:
            path = (ROOT / self.page).parent / title
            label, number = options["name"], self.book.labels[options["name"]]
            kind = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}[path.suffix]
            words = self._inline(body.strip())
            self._show(Picture(label, number, kind, path.read_bytes(), words, options["alt"]))
        if name == "question" and not self._asked:
            self._asked = True
            said = [f"<p>{inline(self._inline(title))}</p>"]
            for answer, right, why in answers(body):
                why = f"{'Right.' if right else 'No.'} {why}"
                said.append(
                    f"<details><summary>{inline(self._inline(answer))}</summary>"
                    f"{rendered(self._inline(why))}</details>"
                )
            self.slides.append(("A question", "\n".join(said)))
        return super()._directive(name, title, options, body, pictures)

    def _summary(self) -> str:
        for cell in self.learner:
            if found := re.search(r"^## Summary\n(.*?)(?=^## |\Z)", cell["source"], re.M | re.S):
                return found[1]
        raise LabError(f"{self.page} has no summary.")

    def page_of_slides(self, cite: str) -> str:
        """Return the deck as HTML."""
        body = []
        drawn = [picture for picture in self.pictures if picture.kind == "image/svg+xml"]
        picture = (drawn or self.pictures)[0].shown() if self.pictures else ""
        first = [(self.title, picture)]
        for level, (head, content) in enumerate(
            [*first, *(s for s in self.slides if s[1] != picture)]
        ):
            tag = "h1" if level == 0 else "h2"
            body.append(f"<section><{tag}>{head}</{tag}>\n{content}\n</section>")
        body[-1] = body[-1].replace("</section>", f"<footer>{html.escape(cite)}</footer></section>")
        body += [NAV, f"<script>\n{SCRIPT}</script>"]
        return PAGE.format(
            title=html.escape(self.title), style=STYLE, head=MATHJAX, body="\n".join(body)
        )


def chapters() -> dict[str, list[dict[str, Any]]]:
    """Return the cells of every chapter, by page."""
    return {
        page: json.loads(path.read_text(encoding="utf-8"))["cells"]
        for page, path in sources().items()
        if path.suffix == ".ipynb"
    }


def plots_of_runs(pages: list[str]) -> dict[str, dict[str, Any]]:
    """Return the first picture of each cell, from the site's runs; run the chapters that need it.

    Raises
    ------
    LabError
        If a chapter fails.
    """
    from build_site import execution_key, set_environment
    from jupyter_cache import get_cache  # type: ignore[import-untyped]
    from run_chapters import read, run_chapters

    set_environment()
    cache = BUILD / f"executed-{execution_key()}"
    paths = [sources()[page] for page in pages]
    if problems := run_chapters(paths, cache):
        raise LabError("\n".join(problems))
    store = get_cache(str(cache))
    found: dict[str, dict[str, Any]] = {}
    try:
        for page, path in zip(pages, paths, strict=True):
            _, run = store.merge_match_into_notebook(read(path))
            found[page] = {
                cell.id: picture
                for cell in run.cells
                if cell.cell_type == "code" and (picture := first_picture(cell.outputs))
            }
    finally:
        store.db.dispose()
    return found


def first_picture(outputs: list[Any]) -> tuple[str, bytes] | None:
    """Return kind and bytes of the first picture among a cell's outputs."""
    for output in outputs:
        for kind, data in output.get("data", {}).items():
            if kind == "image/svg+xml":
                return kind, data.encode()
            if kind in SUFFIX:
                return kind, base64.b64decode(data)
    return None


def plots_of_results(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pictures of the cells that draw recorded results, drawn now.

    Nothing is trained: a cell that needs what another one has trained is left out.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from tlcourse.plotting import use_style

    use_style()
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    found = {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the chapters' own runs are where one is an error
        exec(text_of(code[0]), names)
        for cell in code[1:]:
            drawn = text_of(cell)
            if "plot_result(" not in drawn or "figure" not in cell["metadata"].get("mystnb", {}):
                continue
            with contextlib.suppress(NameError):
                exec(drawn, names)
                file = io.BytesIO()
                plt.gcf().savefig(file, format="png", dpi=200, bbox_inches="tight")
                found[cell["id"]] = ("image/png", file.getvalue())
            plt.close("all")
    return found


def about() -> dict[str, Any]:
    """Return title, authors and version of the course."""
    import yaml  # type: ignore[import-untyped]

    cff: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return cff


def line_for(picture: Picture, deck: Deck) -> str:
    """Return the line that stands below a figure that is shown elsewhere."""
    course = about()
    who = ", ".join(one["name"] for one in course["authors"])
    return f'Figure {picture.number} of "{deck.title}", in: {who}, {course["title"]}. {LICENCE}'


def write(decks: list[Deck], out: Path) -> None:
    """Write the decks, their figures, and the two pages that list them."""
    course = about()
    (out / "figures").mkdir(parents=True, exist_ok=True)
    cite = f"From {course['title']}. Text and figures: {LICENCE}"
    rows, items = [], []
    for deck in decks:
        name = deck.page.removeprefix("book/").replace("/", "-")
        (out / f"{name}.html").write_text(deck.page_of_slides(cite), encoding="utf-8")
        count = len(deck.slides)
        items.append(f'<li><a href="{name}.html">{inline(deck.title)}</a> ({count} slides)</li>')
        for picture in deck.pictures:
            file = f"figures/{name}-{picture.label.removeprefix('fig-')}{SUFFIX[picture.kind]}"
            (out / file).write_bytes(picture.data)
            rows.append(
                f'<tr><td><a href="{file}"><img src="{file}" loading="lazy" '
                f'alt="{html.escape(picture.alt)}"></a></td><td>{inline(picture.caption)}'
                f"<p><code>{html.escape(line_for(picture, deck))}</code></p></td></tr>"
            )
    listed = (
        "<main><h1>Slides</h1><p>Arrow keys turn the slides; a browser prints a deck as PDF. "
        'For slides of your own: <a href="figures.html">the figures</a>, each with the line that '
        f"names its source.</p><ul>{''.join(items)}</ul><footer>{cite}</footer></main>"
    )
    shown = (
        "<main><h1>Figures</h1><p>Copy the line below a figure with it. Say so where you have "
        "changed it. Recordings, photographs and digits inside a figure have their own sources, "
        f"which the chapter names.</p><table>{''.join(rows)}</table></main>"
    )
    for file, title, body in (("index", "Slides", listed), ("figures", "Figures", shown)):
        text = PAGE.format(title=title, style=STYLE, head=MATHJAX, body=body)
        (out / f"{file}.html").write_text(text, encoding="utf-8")


def make(pages: list[str], out: Path, *, run: bool = True) -> list[Deck]:
    """Make the slides of the chapters, by page such as book/adaptive/spottune."""
    all_cells = chapters()
    book = Book.read(all_cells)
    if unknown := [page for page in pages if page not in all_cells]:
        known = ", ".join(page.removeprefix("book/") for page in all_cells)
        raise LabError(
            f"no chapter is called {unknown[0].removeprefix('book/')}; there are {known}."
        )
    if vendor.main() != 0:
        raise LabError("MathJax is missing: install the locked packages.")
    plots = (
        plots_of_runs(pages) if run else {page: plots_of_results(all_cells[page]) for page in pages}
    )
    decks = [Deck(page, all_cells[page], book, plots[page]) for page in pages]
    write(decks, out)
    shutil.copytree(vendor.TARGET, out / "mathjax", dirs_exist_ok=True)
    return decks


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as adaptive/spottune; otherwise all")
    parser.add_argument("--no-run", action="store_true", help="plots of recorded results alone")
    given = parser.parse_args()
    pages = [f"book/{name.removeprefix('book/')}" for name in given.chapters] or [*chapters()]
    try:
        decks = make(pages, OUT, run=not given.no_run)
    except LabError as error:
        print(f"No slides: {error}", file=sys.stderr)
        return 1
    print(f"{len(decks)} decks: open {(OUT / 'index.html').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
