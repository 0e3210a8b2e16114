"""The page of reproductions: how the documents' figures are counted, and what is drawn."""

from __future__ import annotations

import json
import sys

import pytest
import record_code
from notebooks import BOOK, ROOT
from pybtex.database import parse_file

sys.path.insert(0, str(BOOK / "_ext"))

import source_tables
import tlcourse_results as page
from source_tables import TABLES, SourceTable, Standing, standing

from tlcourse.experiments import Result, ResultRow, get, load_result

RECORDED = page.recorded()
# Figures of a source that stand in none of the documents: more rows of the paper's own.
NOT_QUOTED = {"kd-mnist-jitter", "ccsa-replayed"}


def result(**rows):
    """Make a result of three seeds from values and a source's figure for each row."""
    made = {key: ResultRow(key, key, "%", tuple(v), paper) for key, (v, paper) in rows.items()}
    return Result(made, {"seeds": [0, 1, 2]})


def counted(monkeypatch, **rows):
    monkeypatch.setattr(source_tables, "load_result", lambda name: result(**rows))
    table = SourceTable("", "", "", 9, "", ("one",), None, lambda key: "base")
    return standing(table)


BASE = ((50.0, 51.0, 52.0), 60.0)


def test_a_figure_is_within_when_the_interval_holds_it(monkeypatch):
    assert counted(monkeypatch, base=BASE) == Standing(9, 1, 0, 0, 0, 0)
    assert counted(monkeypatch, base=(BASE[0], 52.0)) == Standing(9, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("values", "paper", "way"),
    [
        ((55.0, 56.1, 57.0), 62.0, "same"),
        ((45.0, 46.1, 47.0), 58.0, "same"),
        ((45.0, 46.1, 47.0), 62.0, "other"),
        ((45.0, 51.0, 57.0), 62.0, "open"),
        ((55.0, 56.1, 57.0), 60.0, "open"),  # the source sees no difference
    ],
)
def test_a_comparison_goes_one_way_beyond_the_interval_or_is_open(monkeypatch, values, paper, way):
    found = counted(monkeypatch, base=BASE, row=(values, paper))
    assert (found.same, found.other, found.open) == tuple(
        int(way == kind) for kind in ("same", "other", "open")
    )


def test_a_row_without_a_figure_of_the_source_is_not_counted(monkeypatch):
    assert counted(monkeypatch, base=BASE, row=((1.0, 2.0, 3.0), None)).beside == 1


def test_every_quoted_figure_is_in_one_table():
    named = [name for table in TABLES for name in table.experiments]
    assert len(named) == len(set(named))
    with_figures = {
        name
        for name, recorded in RECORDED.items()
        if any(row.paper is not None for row in recorded.rows.values())
    }
    assert with_figures - set(named) == NOT_QUOTED


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_a_table_adds_up(table):
    found = standing(table)
    assert found.beside <= found.figures
    assert bool(found.beside) == bool(table.experiments)
    keys = {k for n in table.experiments for k in source_tables.rows_beside(table, load_result(n))}
    references = {table.reference(key) for key in keys}
    assert references <= keys
    compared = found.same + found.other + found.open
    assert compared <= found.beside - len(references)
    assert table.why
    assert table.document in parse_file(BOOK / "references.bib").entries


def test_rows_are_grouped_by_what_stands_before_the_colon():
    row = ResultRow("", "", "%", (1.0,), None)
    rows = dict.fromkeys(("A: x", "A: y", "B: x", "B: y"), row)
    assert {g: list(named) for g, named in page.groups_of(rows).items()} == {
        "A": ["x", "y"],
        "B": ["x", "y"],
    }
    assert list(page.groups_of(dict.fromkeys(("x", "y", "A: z"), row))) == [""]


@pytest.mark.parametrize("name", RECORDED)
def test_every_row_is_in_a_plot_that_a_page_holds(name):
    recorded = RECORDED[name]
    panels = list(page.panels(recorded))
    sizes = [sum(map(len, panel.values())) for panel in panels]
    assert sum(sizes) == len(recorded.rows)
    assert max(sizes) <= page.MOST_ROWS
    assert all(len(page.described(panel)) > 20 for panel in panels)


def test_a_plot_has_the_same_bytes_every_time(tmp_path):
    panel = next(page.panels(load_result("kd-mnist")))
    for name in ("a.svg", "b.svg"):
        page.draw(panel, tmp_path / name, "Hinton")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "Hinton" in (tmp_path / "a.svg").read_text("utf-8")


def test_results_stand_in_the_order_of_the_book():
    results = {name: load_result(name) for name in ("lwf", "kd-mnist")}
    chapters = [f"book/{results[name].record['chapter']}" for name in ("kd-mnist", "lwf")]
    assert list(page.by_chapter(results, chapters)) == chapters
    assert list(page.by_chapter(results, chapters[::-1])) == chapters[::-1]


def test_the_code_of_every_result_is_recorded():
    """`python tools/record_code.py` records it."""
    code = json.loads((ROOT / page.CODE).read_text("utf-8"))
    for name, recorded in RECORDED.items():
        runs = recorded.record["runs"]
        assert set(code.get(name, ())) == {c for made in runs for c in made["commits"]}, name


def test_an_experiment_is_found_in_any_version_of_the_package():
    package = ROOT / "tlcourse"
    assert record_code.module_at(package, "kd-mnist") == "tlcourse.experiments.distillation.kd"
    assert record_code.module_at(package, "none") is None


def test_a_commit_that_is_not_there_is_left_out():
    assert record_code.digests_at("0" * 12, "kd-mnist") is None


def test_a_change_of_the_code_is_told():
    from tlcourse.experiments._engine.provenance import digests

    experiment = get("kd-mnist")
    now = digests(experiment.run_seed.__module__)
    assert page.code_since(experiment, {"abc": now}) == "Its code is the same today."
    then = now | {"tlcourse.distillation.loss": "0", "tlcourse.metrics": "0"}
    said = page.code_since(experiment, {"abc": then})
    assert f"2 of the {len(now)} modules" in said
    assert "`distillation.loss`" in said
    assert "`metrics`" not in said
    assert page.code_since(experiment, {}) == "Which code that was is not recorded."
