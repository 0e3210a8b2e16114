"""Checks of the built site that need no browser. `make book` builds it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import notebooks
import pytest
from bs4 import BeautifulSoup

BUILD = notebooks.ROOT / "_build"
SITE = BUILD / "html"
MACHINE_PATH = re.compile(r"(?<![\w./:-])/(?:home|Users|root|work|tmp|mnt|private/var)/[\w.]")
OUTSIDE = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
CDN = re.compile(
    r"unpkg\.com|jsdelivr|cdnjs|googleapis|gstatic|requirejs|google-analytics|googletagmanager"
)
# What makes a browser load something, as attribute of a tag. A plain link loads nothing.
LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src", "srcdoc"),
    "audio": ("src",),
    "video": ("src", "poster"),
    "source": ("src", "srcset"),
    "track": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
    "form": ("action",),
    "input": ("src",),
}
PASSIVE_LINKS = {"canonical", "next", "prev", "index", "search", "author", "copyright", "license"}

pytestmark = pytest.mark.usefixtures("built")


@pytest.fixture(scope="module")
def built() -> None:
    if not (SITE / "index.html").is_file():
        pytest.fail("the site is not there: run `make book` first")
    if not (BUILD / "site.key").is_file():
        pytest.fail("the site was built in part only: run `make book` first")


@cache
def pages() -> dict[str, BeautifulSoup]:
    """Return every page of the site by its path in the site."""
    files = sorted(p for p in SITE.rglob("*.html") if "_static" not in p.relative_to(SITE).parts)
    return {
        path.relative_to(SITE).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html5lib")
        for path in files
    }


@cache
def chapters() -> dict[str, BeautifulSoup]:
    """Return the pages that the contents name."""
    return {page: pages()[f"{page}.html"] for page in notebooks.toc()}


@cache
def anchors(page: str) -> set[str]:
    found = {str(tag["id"]) for tag in pages()[page].find_all(id=True)}
    return found | {str(tag["name"]) for tag in pages()[page].find_all("a", attrs={"name": True})}


def resolved(page: str, address: str) -> Path:
    """Return the file that an address in a page names."""
    path = unquote(urlsplit(address).path)
    target = SITE / path.lstrip("/") if path.startswith("/") else (SITE / page).parent / path
    target = target.resolve()
    return target / "index.html" if target.is_dir() else target


def is_outside(address: str) -> bool:
    return bool(OUTSIDE.match(address))


def loaded(page: str) -> list[str]:
    """Return the addresses that a browser loads with a page, without data in the page itself."""
    found: list[str] = []
    for name, attributes in LOADED.items():
        for tag in pages()[page].find_all(name):
            for attribute in attributes:
                value = str(tag.get(attribute, "")).strip()
                parts = value.split(",") if attribute == "srcset" else [value]
                found += [part.split()[0] for part in parts if part.split()]
    for tag in pages()[page].find_all("link", href=True):
        if not set(tag.get("rel", [])) <= PASSIVE_LINKS:
            found.append(str(tag["href"]))
    return [a for a in found if not a.startswith(("data:", "#"))]


def prose(page: str) -> str:
    """Return a page's text without code, formulas and scripts."""
    body = BeautifulSoup(str(pages()[page].find("main") or pages()[page].body), "html5lib")
    for tag in body(["pre", "code", "script", "style", "template"]):
        tag.decompose()
    for tag in body.select(".math"):
        tag.decompose()
    return body.get_text(" ")


def test_every_page_of_the_contents_was_built():
    missing = [page for page in notebooks.toc() if f"{page}.html" not in pages()]
    assert not missing


def test_no_page_loads_anything_from_outside():
    outside = [(page, a) for page in pages() for a in loaded(page) if is_outside(a)]
    assert not outside
    inline = [
        (page, found.group())
        for page, soup in pages().items()
        for tag in soup.find_all(["script", "style"], src=False)
        if (found := CDN.search(str(tag)))
    ]
    assert not inline


def test_no_style_sheet_loads_anything_from_outside():
    pattern = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
    sheets = {p.relative_to(SITE).as_posix(): p.read_text("utf-8") for p in SITE.rglob("*.css")}
    for page, soup in pages().items():
        styles = [str(tag) for tag in soup("style")]
        styles += [str(tag["style"]) for tag in soup.find_all(style=True)]
        sheets[page] = "\n".join(styles)
    assert any(name.endswith("site.css") for name in sheets)
    outside = [
        (name, address)
        for name, text in sheets.items()
        for match in pattern.finditer(text)
        if is_outside(address := match.group(1) or match.group(2))
    ]
    assert not outside


def test_everything_that_is_loaded_is_there():
    missing = [
        (page, address)
        for page in pages()
        for address in loaded(page)
        if not is_outside(address) and not resolved(page, address).exists()
    ]
    assert not missing


def test_equations_are_set_by_the_sites_own_script():
    with_math = [page for page, soup in pages().items() if soup.select(".math.notranslate")]
    assert with_math
    for page in with_math:
        assert any(a.partition("?")[0].endswith("tex-mml-chtml.js") for a in loaded(page)), page
    fonts = SITE / "_static/vendor/mathjax/output/chtml/fonts/woff-v2"
    assert (fonts / "MathJax_Main-Regular.woff").is_file()


def test_no_page_needs_a_kernel():
    """An explorer shows frames drawn beforehand; widgets would need scripts from elsewhere."""
    for page, soup in pages().items():
        assert "vnd.jupyter.widget" not in str(soup), f"{page} holds a live widget"


def test_internal_links_resolve():
    broken = []
    for page, soup in pages().items():
        for tag in soup.find_all("a", href=True):
            address = str(tag["href"])
            if is_outside(address) or urlsplit(address).scheme:
                continue
            target = resolved(page, address) if urlsplit(address).path else SITE / page
            fragment = unquote(urlsplit(address).fragment)
            inside = target.is_relative_to(SITE) and target.is_file()
            name = target.relative_to(SITE).as_posix() if inside else ""
            if not inside or (fragment and name in pages() and fragment not in anchors(name)):
                broken.append((page, address))
    assert not broken


def test_no_id_is_used_twice():
    for page, soup in pages().items():
        ids = [tag["id"] for tag in soup.find_all(id=True)]
        assert not {i for i in ids if ids.count(i) > 1}, page


def test_citations_resolve_to_a_reference():
    cited = 0
    for page, soup in pages().items():
        for tag in soup.select("a.footnote-reference"):
            entry = soup.find(id=str(tag["href"])[1:])
            assert entry is not None, (page, tag)
            assert entry.get_text(" ", strip=True)
            cited += 1
    assert cited


def test_the_bibliography_lists_every_work():
    keys = re.findall(
        r"^@\w+\{([^,]+),", (notebooks.BOOK / "references.bib").read_text("utf-8"), re.M
    )
    listed = chapters()["book/reference/bibliography"].select(".citation")
    assert len(keys) == len(listed) == len(set(keys))


def test_every_image_says_what_it_shows():
    bare = []
    for page, soup in pages().items():
        for tag in soup.find_all("img"):
            alt = str(tag.get("alt", "")).strip()
            where = tag.find_parent("article") is not None
            a_path = bool(re.search(r"\.(?:png|svg|jpe?g|gif|webp)$|^[\w.-]*/[\w./-]+$", alt))
            too_short = where and len(alt.split()) < 4
            if a_path or too_short or "alt" not in tag.attrs:
                bare.append((page, alt or str(tag)[:80]))
        for tag in soup.select("article svg"):
            named = tag.get("aria-label") or tag.find("title") or tag.get("aria-hidden") == "true"
            if not named:
                bare.append((page, str(tag)[:80]))
    assert not bare


def test_explorers_have_a_labelled_slider_and_a_text_for_each_frame():
    for page, soup in pages().items():
        for box in soup.select(".tl-explorer"):
            slider = box.find("input", type="range")
            frames = box.find("template").find_all("img")
            assert box.find("label", attrs={"for": slider["id"]}).get_text(strip=True), page
            assert slider["aria-valuetext"], page
            assert int(slider["max"]) == len(frames) - 1, page
            assert all(frame["alt"] and frame["data-value"] for frame in frames), page
            first = box.find("img")
            assert (first["src"], first["alt"]) == (frames[0]["src"], frames[0]["alt"]), page
            assert box.find("noscript"), page


def test_every_page_has_a_language_a_title_of_its_own_and_one_main_heading():
    titles = {}
    for page, soup in pages().items():
        assert soup.html["lang"] == "en", page
        assert soup.find("meta", attrs={"name": "viewport"}), page
        title = soup.title.get_text(strip=True)
        assert titles.setdefault(title, page) == page, f"{page} and {titles[title]}: {title!r}"
    for page, soup in chapters().items():
        headings = soup.select("article h1")
        assert len(headings) == 1, page


def test_chapters_show_what_their_run_took():
    for page, path in notebooks.sources().items():
        shown = chapters()[page].select(".tl-measured")
        assert len(shown) == (path.suffix == ".ipynb"), page


def test_no_output_shows_an_error_or_a_warning():
    for page, soup in pages().items():
        assert not soup.select(".output.stderr, .output.traceback"), page
        outputs = "\n".join(tag.get_text() for tag in soup.select(".cell_output"))
        found = re.search(r"Traceback \(most recent|\w*Warning: ", outputs)
        assert not found, (page, found)


def test_no_page_names_a_place_on_a_machine():
    found = {
        (path.relative_to(SITE).as_posix(), match.group())
        for path in SITE.rglob("*")
        if path.suffix in (".html", ".ipynb", ".md", ".txt", ".json", ".js", ".inv")
        and "_static" not in path.relative_to(SITE).parts
        for match in MACHINE_PATH.finditer(path.read_text("utf-8", errors="replace"))
    }
    assert not found


def test_no_markup_is_left_unread():
    """A role, a footnote or a formula that MyST did not understand stays in the text."""
    for page in chapters():
        text = prose(f"{page}.html")
        found = re.search(r"\{[a-z:]+\}`|\[\^[\w-]+\]|:::|\$\$|\]\(#?[\w./-]+\)", text)
        assert not found, (page, found.group() if found else "")


def test_the_search_index_knows_every_page():
    index = (SITE / "searchindex.js").read_text("utf-8")
    missing = [page for page in notebooks.toc() if f'"{page}"' not in index]
    assert not missing
    assert (SITE / "search.html").is_file()


def test_every_chapter_says_what_it_is_about_to_a_search_engine():
    for page, soup in chapters().items():
        description = soup.find("meta", attrs={"name": "description"})
        assert description, page
        assert len(str(description["content"]).split()) > 5, page
        assert soup.find("link", rel="icon"), page


def test_every_page_leads_to_licence_citation_and_code():
    for page, soup in chapters().items():
        footer = soup.select_one(".extra_footer")
        assert footer, page
        addresses = [str(tag["href"]) for tag in footer.find_all("a", href=True)]
        for part in ("licence", "citation", "the-code"):
            assert any(a.endswith(f"#{part}") for a in addresses), (page, part)
        assert soup.select(".article-header-buttons a.btn-about"), page


def test_the_front_page_shows_transfer_and_a_card_for_each_chapter():
    front = chapters()["book/index"]
    assert front.select(".tl-explorer")
    cards = {str(tag["href"]).partition("#")[0] for tag in front.select(".tl-card a")}
    missing = [
        page
        for page, path in notebooks.sources().items()
        if path.suffix == ".ipynb" and f"{page.removeprefix('book/')}.html" not in cards
    ]
    assert not missing
