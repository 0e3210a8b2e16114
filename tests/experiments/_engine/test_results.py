"""Result files: read whole, written in one step, and those of the course are what they say."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path

import pytest

from tlcourse.experiments import EXPERIMENTS, load_result, results_dir
from tlcourse.experiments._engine.results import OF_A_RUN, file_name, write_json

RECORD = {
    "title": "Tiny",
    "profile": "full",
    "seeds": [0, 1, 2],
    "runs": [],
    "rows": [
        {"key": "plain", "label": "alone", "unit": "%", "values": [3.0, 4.0, 5.0], "paper": 4.5},
        {"key": "bias", "label": "raised by", "unit": "logits", "values": [1, 1, 1], "paper": None},
    ],
}


def write(folder: Path, record=RECORD, name: str = "tiny.json") -> Path:
    path = folder / name
    path.write_text(record if isinstance(record, str) else json.dumps(record), encoding="utf-8")
    return path


def changed(row: int = 0, **what) -> dict:
    rows = [dict(r) for r in RECORD["rows"]]
    rows[row].update(what)
    return RECORD | {"rows": rows}


def test_rows_and_their_intervals(tmp_path):
    write(tmp_path)
    result = load_result("tiny", folder=tmp_path)
    assert list(result.rows) == ["plain", "bias"]
    assert result["plain"].values == (3.0, 4.0, 5.0)
    found = result["plain"].interval
    assert (found.mean, found.n) == (4.0, 3)
    assert found.margin == pytest.approx(4.302653 / math.sqrt(3))  # Student's t with 2 degrees
    assert result.record == RECORD


RUN = {
    "seeds": [0],
    "date": "2026-03-01",
    "seconds": 10.0,
    "resumed": False,
    "hardware": "CPU",
    "processes": 1,
    "versions": {"torch": "2.3.0"},
    "commits": ["0123456789ab"],
}


def test_a_file_from_before_seeds_were_recorded_apart_is_one_run_of_them_all(tmp_path):
    of_old = {key: RUN[key] for key in ("date", "resumed", "hardware", "versions")}
    old = {key: RECORD[key] for key in RECORD if key != "runs"} | of_old
    write(tmp_path, old | {"wall_seconds": 30.5, "commits": ["a", "b"]})
    result = load_result("tiny", folder=tmp_path)
    assert result["plain"].values == (3.0, 4.0, 5.0)
    (made,) = result.record["runs"]
    assert made == of_old | {"seeds": [0, 1, 2], "seconds": 30.5, "commits": ["a", "b"]}
    assert not {*of_old, "wall_seconds", "commits"} & set(result.record)
    assert result.origin == "3 seeds, 30 s on CPU, torch 2.3.0, 2026-03-01"


def test_the_origin_sums_what_the_runs_say(tmp_path):
    late = {"seconds": 120.0, "date": "2026-03-04", "hardware": "GPU"}
    runs = [RUN | late, RUN, RUN | {"date": "2026-03-02"}]
    write(tmp_path, RECORD | {"runs": runs})
    assert load_result("tiny", folder=tmp_path).origin == (
        "3 seeds, 2 minutes on GPU and CPU, torch 2.3.0, 2026-03-01 to 2026-03-04"
    )
    one = {"seeds": [0], "runs": [RUN], "rows": [RECORD["rows"][0] | {"values": [1.0]}]}
    write(tmp_path, one)
    assert load_result("tiny", folder=tmp_path).origin.startswith("1 seed, 10 s on CPU, ")
    for seconds, said in ((119, "119 s"), (120, "2 minutes"), (5400, "90 minutes")):
        write(tmp_path, one | {"runs": [RUN | {"seconds": seconds}]})
        assert f", {said} on CPU" in load_result("tiny", folder=tmp_path).origin


def test_home_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write(tmp_path)
    for folder in ("~", Path("~")):
        assert load_result("tiny", folder=folder).record["title"] == "Tiny"


def test_differences_are_taken_seed_by_seed(tmp_path):
    write(tmp_path, changed(1, values=[1.0, 0.0, 7.0]))
    result = load_result("tiny", folder=tmp_path)
    assert result.differences("plain", "bias") == (2.0, 4.0, -2.0)
    with pytest.raises(KeyError, match="no row 'plian'"):
        result.differences("plain", "plian")


def test_an_unknown_row_names_the_known_ones(tmp_path):
    write(tmp_path)
    with pytest.raises(KeyError, match="no row 'plian'; there are plain, bias. Did you mean 'plai"):
        load_result("tiny", folder=tmp_path)["plian"]


def test_the_table(tmp_path):
    write(tmp_path)
    frame = load_result("tiny", folder=tmp_path).frame(digits=1)
    assert list(frame) == ["mean", "95 % interval, 3 seeds", "source"]
    assert frame.columns.name == "%"
    assert frame.loc["alone"].tolist() == ["4.0", "1.5 to 6.5", "4.5"]
    assert frame.loc["raised by (logits)"].tolist() == ["1.0", "1.0 to 1.0", ""]


def test_the_unit_of_most_rows_stands_in_the_corner(tmp_path):
    plain, bias = RECORD["rows"]
    again = bias | {"key": "again", "label": "once more"}
    other = plain | {"key": "other", "label": "its error on the 3s", "unit": "error on the 3s, %"}
    write(tmp_path, RECORD | {"rows": [plain, bias, again, other]})
    frame = load_result("tiny", folder=tmp_path).frame()
    assert frame.columns.name == "logits"
    assert list(frame.index) == ["alone (%)", "raised by", "once more", "its error on the 3s (%)"]


def test_no_column_is_empty(tmp_path):
    one = {"seeds": [0], "rows": [RECORD["rows"][0] | {"values": [3.14159], "paper": None}]}
    write(tmp_path, one, "one-quick.json")
    frame = load_result("one", profile="quick", folder=tmp_path).frame()
    assert list(frame) == ["mean"]
    assert frame.loc["alone"].tolist() == ["3.14"]
    assert frame.columns.name == "%"
    assert "<th>%</th>" in frame.to_html()  # the corner is a heading with words


def test_a_missing_file_names_near_ones_and_the_command(tmp_path):
    write(tmp_path, name="kd-mnist.json")
    with pytest.raises(FileNotFoundError) as info:
        load_result("kd-mnits", folder=tmp_path)
    assert str(info.value) == (
        f"No recorded result kd-mnits.json in {tmp_path}. Did you mean 'kd-mnist'? "
        "`tlcourse run kd-mnits --profile full` writes it."
    )
    with pytest.raises(FileNotFoundError, match="tiny-quick.json in .* --profile quick"):
        load_result("tiny", profile="quick", folder=tmp_path / "no such folder")


def test_an_unknown_profile(tmp_path):
    with pytest.raises(ValueError, match="profile is 'ful'; .* Did you mean 'full'"):
        load_result("tiny", profile="ful", folder=tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"seeds": [0], "ro',
        "[1, 2]",
        "null",
        '{"rows": []}',
        '{"seeds": [0]}',
        '{"seeds": 3, "rows": []}',
        '{"seeds": [0], "rows": [1]}',
        changed(values=None),
        {"seeds": [0], "rows": [{"key": "a"}]},
    ],
    ids=str,
)
def test_what_is_no_result_file(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match="is not a result file .* writes it anew") as info:
        load_result("tiny", folder=tmp_path)
    assert str(path) in str(info.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "tiny.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a result file"):
        load_result("tiny", folder=tmp_path)


def test_a_row_without_a_value_for_each_seed(tmp_path):
    write(tmp_path, changed(values=[1.0, 2.0]))
    with pytest.raises(ValueError, match=r"not one value for each of the seeds \[0, 1, 2\]"):
        load_result("tiny", folder=tmp_path)


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "tiny.json").mkdir()
    with pytest.raises(OSError, match="tiny.json"):
        load_result("tiny", folder=tmp_path)


# --- writing --------------------------------------------------------------------------------------


def test_writing(tmp_path):
    path = tmp_path / "new" / "folder" / "tiny.json"
    write_json({"a": [1, 2], "ü": "é"}, path)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1, 2], "ü": "é"}
    assert text.endswith("}\n")
    assert "ü" in text
    assert [p.name for p in path.parent.iterdir()] == ["tiny.json"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, place, error):
    path = tmp_path / "tiny.json"
    write_json({"old": 1}, path)

    def broken(*arguments):
        raise error

    monkeypatch.setattr(*(os, "fsync") if place == "fsync" else (Path, "replace"), broken)
    with pytest.raises(type(error)):
        write_json({"new": 2}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.json"]


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json({"a": float("nan")}, tmp_path / "tiny.json")
    assert list(tmp_path.iterdir()) == []


# --- the files of the course ----------------------------------------------------------------------

RECORDED = [p for p in sorted(results_dir().glob("*.json")) if p.name != "chapters.json"]


def test_the_results_of_a_clone_lie_in_the_book():
    assert results_dir() == Path(__file__).resolve().parents[3] / "book" / "results"
    assert file_name("a", "full") == "a.json"
    assert file_name("a", "quick") == "a-quick.json"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_a_recorded_result_is_what_it_says(path):
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    record = json.loads(text)
    name = record["experiment"]
    assert name in EXPERIMENTS
    assert path.name == file_name(name, "full"), "a result is recorded in the full profile"
    assert record["profile"] == "full"
    result, experiment = load_result(name), EXPERIMENTS[name]
    assert [(row.key, row.label, row.paper) for row in result.rows.values()] == [
        (row.key, row.label, row.paper) for row in experiment.rows
    ]
    assert [row.unit for row in result.rows.values()] == [
        row.unit or experiment.unit for row in experiment.rows
    ]
    known = [s for profile, s in experiment.settings.items() if profile.startswith("full")]
    assert record["settings"] in json.loads(json.dumps(known))
    assert record["seeds"] == list(range(experiment.seeds["full"]))
    assert len(record["seeds"]) >= 3
    assert all(math.isfinite(v) for row in result.rows.values() for v in row.values)
    assert record["data"]
    for made in result.record["runs"]:
        assert set(OF_A_RUN) - {"processes"} <= set(made)
        assert set(made["seeds"]) <= set(record["seeds"])
        assert made["commits"]
        assert made["seconds"] > 0
    assert {seed for made in result.record["runs"] for seed in made["seeds"]} == {*record["seeds"]}
    assert result.origin.startswith(f"{len(record['seeds'])} seeds, ")
    assert str(Path.home()) not in text
