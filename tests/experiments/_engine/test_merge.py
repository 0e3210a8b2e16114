"""Seeds of several files in one: what goes together, and what is refused and why."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tlcourse.experiments import load_result, merge


def record(*seeds: int, bias: float = 0.0, **changes) -> dict:
    rows = [
        {"key": key, "label": key, "unit": "%", "paper": None, "values": [s + bias for s in seeds]}
        for key in ("plain", "other")
    ]
    return {
        "experiment": "tiny",
        "title": "Tiny",
        "profile": "full",
        "settings": {"rate": 0.5, "widths": [3, 4]},
        "data": {"train": "aaaa"},
        "seeds": list(seeds),
        "rows": rows,
        "runs": [{"seeds": [seed], "date": f"2026-01-0{seed + 1}"} for seed in seeds],
    } | changes


def write(path: Path, content: dict) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def merging(tmp_path):
    """Return what merges records into tiny.json of a folder of its own."""

    def merging(*records: dict, out: Path = tmp_path / "out"):
        files = [write(tmp_path / f"part-{i}.json", r) for i, r in enumerate(records)]
        return merge(files, out=out)

    return merging


def test_seeds_are_put_in_order_with_their_numbers_and_runs(merging, tmp_path):
    result = merging(record(4, 1), record(0), record(2, title="Tiny, said better"))
    assert result.record["seeds"] == [0, 1, 2, 4]
    assert result["plain"].values == result["other"].values == (0, 1, 2, 4)
    assert [made["seeds"] for made in result.record["runs"]] == [[4], [1], [0], [2]]
    assert result.record["title"] == "Tiny, said better"
    assert result.record["settings"] == record()["settings"]
    assert load_result("tiny", folder=tmp_path / "out") == result


def test_the_same_seed_with_the_same_numbers_counts_once(merging):
    again = record(1, 2)
    again["runs"][0]["date"] = "2026-02-02"  # run a second time, elsewhere
    result = merging(record(0, 1), again, record(0, 1))
    assert result.record["seeds"] == [0, 1, 2]
    assert result["plain"].values == (0, 1, 2)
    dates = [made["date"] for made in result.record["runs"]]
    assert dates == ["2026-01-01", "2026-01-02", "2026-02-02", "2026-01-03"]


def test_the_same_seed_with_other_numbers_is_refused(merging, tmp_path):
    with pytest.raises(ValueError, match=r"Seed 1 has two values of 'plain': 1.0 in .*part-0.json, "
                       r"1.25 in .*part-1.json\. .* leave out one"):  # fmt: skip
        merging(record(0, 1), record(1, bias=0.25))
    with pytest.raises(ValueError, match=r"two values of 'plain': 1.0 in .*, 0.75 in"):
        merging(record(0, 1), record(1, bias=-0.25))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": "huge"}, "experiment is 'huge', not 'tiny'"),
        ({"profile": "quick"}, "profile is 'quick', not 'full'"),
        ({"settings": {"rate": 0.4, "widths": [3, 4]}}, "settings, 'rate', is 0.4, not 0.5"),
        ({"settings": {"rate": 0.5, "widths": [3]}}, r"settings, 'widths', is \[3\], not \[3, 4\]"),
        ({"settings": {"rate": 0.5}}, r"settings, 'widths', is 'absent', not \[3, 4\]"),
        ({"data": {"train": "bbbb"}}, "data, 'train', is 'bbbb', not 'aaaa'"),
        ({"data": {"train": "aaaa", "test": "b"}}, "data, 'test', is 'b', not 'absent'"),
    ],
    ids=str,
)
def test_what_does_not_go_together(merging, changes, message):
    with pytest.raises(ValueError, match=f"part-1.json does not go with .*part-0.json: {message}"):
        merging(record(0), record(1, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), "rows, 'other', is 'absent', not '%'"),
        (lambda rows: rows[0].update(unit="px"), "rows, 'plain', is 'px', not '%'"),
        (lambda rows: rows[0].update(key="plane"), "rows, 'plain', is 'absent', not '%'"),
    ],
)
def test_other_rows_do_not_go_together(merging, change, message):
    other = copy.deepcopy(record(1))
    change(other["rows"])
    with pytest.raises(ValueError, match=message):
        merging(record(0), other)


def test_texts_may_differ(merging):
    other = record(1, source="elsewhere")
    other["rows"][0] |= {"label": "in other words", "paper": 1.5}
    row = merging(record(0), other)["plain"]
    assert (row.label, row.paper, row.values) == ("in other words", 1.5, (0, 1))


def test_seeds_that_are_in_the_written_file_alone_stay(merging, tmp_path):
    path = write(tmp_path / "out" / "tiny.json", record(0, 7))
    assert merging(record(1), record(0)).record["seeds"] == [0, 1, 7]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="'rate', is 0.4, .* holds of seed 0, 1, 7: .*--out"):
        merging(record(3, settings={"rate": 0.4, "widths": [3, 4]}))
    assert path.read_bytes() == before


def test_a_file_may_be_merged_into_itself(tmp_path):
    path = write(tmp_path / "tiny.json", record(0))
    part = write(tmp_path / "part.json", record(1))
    assert merge([path, part], out=tmp_path).record["seeds"] == [0, 1]
    assert merge([path, part], out=tmp_path).record["runs"] == [
        *record(0)["runs"],
        *record(1)["runs"],
    ]


def test_the_quick_profile_has_a_file_of_its_own(merging, tmp_path):
    merging(record(0, profile="quick"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-quick.json"]


def test_what_cannot_be_merged(tmp_path):
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([], out=tmp_path)
    with pytest.raises(FileNotFoundError, match="no result file .*none.json"):
        merge([tmp_path / "none.json"], out=tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="broken.json is not a result file"):
        merge([broken], out=tmp_path)
    nameless = record(0)
    del nameless["experiment"]
    with pytest.raises(ValueError, match="nameless.json does not say of which experiment"):
        merge([write(tmp_path / "nameless.json", nameless)], out=tmp_path)


def test_home_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "part.json", record(0))
    merge(["~/part.json"], out="~/out")
    assert (tmp_path / "out" / "tiny.json").exists()
    assert not (tmp_path / "~").exists()
