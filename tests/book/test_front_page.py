"""The front page, the decision guide, and what leads from every page to licence and citation."""

from __future__ import annotations

import os
import sys

import pytest
from notebooks import BOOK, ROOT, toc

sys.path.insert(0, str(BOOK / "_ext"))

import tlcourse_front as front

from tlcourse.experiments import load_result
from tlcourse.finetuning import strategy

CHAPTERS = [page for page in toc() if not page.startswith(("book/reference/", "book/index"))]


def test_the_parts_hold_the_pages_of_the_contents():
    assert front.every_page(ROOT) == toc()[1:]


def test_the_map_has_a_card_for_every_chapter():
    shown = front.course_map(ROOT, {})
    assert [page for page in CHAPTERS if f":link: /{page}\n" in shown] == CHAPTERS
    assert shown.count("{grid-item-card}") == len(CHAPTERS)


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_card_shows_the_schematic_where_there_is_one(page):
    shown = front.card(ROOT, page, "Part", "what it is about")
    assert (f":img-top: /{page}.svg" in shown) == (ROOT / f"{page}.svg").is_file()
    assert "what it is about" in shown


def test_every_line_of_the_map_is_read():
    text = (BOOK / "index.md").read_text("utf-8")
    mark = next(m for m in front.MARK.finditer(text) if m[1] == "map")
    notes = dict(front.NOTE.findall(mark[2]))
    assert len(notes) == text.count("% - ")
    without = [page for page in CHAPTERS if page.removeprefix("book/") not in notes]
    assert not without, f"the map in book/index.md says nothing of {without}"


def test_a_link_leads_to_the_first_page_that_there_is():
    assert front.link(ROOT, "methods/none", "methods/distillation") == (
        "{doc}`/book/methods/distillation`"
    )
    assert front.link(ROOT, "methods/none") == ""


def test_the_explorer_has_a_frame_for_each_number_of_labels(monkeypatch):
    monkeypatch.delenv("TLCOURSE_BUILD_SITE", raising=False)
    shown = front.transfer()
    assert shown.count("<img") == 1 + 3  # the first, and all frames
    found = load_result("scratch-digits")
    for row in ("pixels-1", "scratch-1-160", "transfer-20-160"):
        assert f"{found[row].interval.mean:.0f} %" in shown
    assert "\n\n" not in shown.strip()  # or Markdown would end the block of HTML
    assert "TLCOURSE_BUILD_SITE" not in os.environ
    assert front.transfer() == shown  # the same bytes, and the name is free again


def test_the_code_is_found_with_and_without_an_address():
    assert "git clone" not in front.code("")
    assert "`git clone https://example.org/course transfer-learning`" in front.code(
        "https://example.org/course"
    )


def test_the_citation_has_what_the_citation_file_has():
    shown = front.citation(ROOT, "https://example.org/course")
    assert "title = {{Transfer learning, one tested method at a time}}," in shown
    assert "url = {https://example.org/course}," in shown
    assert "url" not in front.citation(ROOT, "")


def test_the_guide_gives_the_advice_of_the_package():
    shown = front.start(ROOT)
    for size in front.SIZES.values():
        for similarity in ("similar", "different"):
            advice = strategy(size, similarity)
            for text in (advice.freeze, advice.train, advice.learning_rate, advice.source):
                assert text in shown
    assert shown.count("{tab-item}") == 2 + 4


def test_the_guide_shows_what_was_recorded_of_a_case():
    for case, advised in front.ADVISED.items():
        size, similarity = case.split("-")
        shown = front.measured(ROOT, case)
        assert (ROOT / f"_build/figures/start-{case}.svg").is_file()
        end = f"-{similarity}-{size}" + ("" if advised == "head" else "-many")
        rows = load_result("finetune-cases").rows
        words = {key: row.label.partition(f", {size}")[0] for key, row in rows.items()}
        assert f"The advised way is *{words[advised + end]}*" in shown
        ends = [
            k for k in rows if k.endswith((f"-{similarity}-{size}-many", f"-{similarity}-{size}"))
        ]
        best = max(ends, key=lambda key: rows[key].interval.mean)
        more = rows[best].interval.mean - rows[advised + end].interval.mean
        assert f"*{words[best]}*: {more:.1f} points more" in shown


def test_the_guide_leads_to_pages_that_there_are():
    notes = {"methods/none": "nothing", "methods/distillation": "a teacher"}
    shown = front.source_of(ROOT, notes)
    assert "| a teacher | {doc}`/book/methods/distillation` |" in shown
    assert "nothing" not in shown


def test_a_description_is_the_first_sentence_that_says_something():
    long = "word " * 60
    assert front.first_words(["Discussed in X.", long]) == f"{'word ' * 31}…"
    assert len(front.first_words([long])) <= 160
    assert front.first_words(["short"]) == ""
