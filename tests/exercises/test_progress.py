"""The file that holds what has been passed, and `tlcourse progress`."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tlcourse import cli
from tlcourse.exercises import spottune
from tlcourse.exercises._progress import passed, record
from tlcourse.exercises._question import Question, texts

easy = Question("ex-spottune-hand", lambda answer: None if answer == 7 else "no", right=7)


def place() -> Path:
    return Path(os.environ["TLCOURSE_PROGRESS"])


def test_only_what_is_passed_is_kept(capsys):
    for answer in (6, ..., None):
        easy.check(answer)
    assert not place().exists()
    easy.check(7)
    assert passed() == {"ex-spottune-hand": date.today().isoformat()}
    assert capsys.readouterr().out.splitlines() == [
        "Failed: no",
        "Not attempted: put your answer in the place of `...`.",
        "Not attempted: put your answer in the place of `...`.",
        "Passed.",
    ]


def test_a_second_pass_keeps_the_day_of_the_first():
    kept = {"passed": {"ex-spottune-hand": "2020-01-01"}}
    place().write_text(json.dumps(kept))
    easy.check(7)
    assert json.loads(place().read_text()) == kept
    record("ex-spottune-noise")
    assert passed() == kept["passed"] | {"ex-spottune-noise": date.today().isoformat()}


@pytest.mark.parametrize("content", ["", "notes of mine", "[]", '{"passed": 3}', '{"other": {}}'])
def test_a_file_that_is_not_the_courses_is_left_as_it_is(content, capsys):
    place().write_text(content)
    with pytest.raises(ValueError, match="is not a file of progress"):
        passed()
    with pytest.warns(UserWarning, match="Your progress is not kept"):
        easy.check(7)
    assert "Passed." in capsys.readouterr().out
    assert place().read_text() == content


def test_where_nothing_can_be_written_an_answer_is_right_all_the_same(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLCOURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    with pytest.warns(UserWarning, match="Your progress is not kept"):
        easy.check(7)
    assert "Passed." in capsys.readouterr().out


def test_progress_says_by_chapter_what_is_missing():
    for question in (spottune.q1, spottune.q2, spottune.q4):
        record(question.label)
    lines = CliRunner().invoke(cli.app, ["progress"]).output.splitlines()
    at = lines.index("adaptive/spottune  3 of 4")
    assert lines[at + 1].strip() == spottune.q3.title
    assert not any(spottune.q1.title in line for line in lines)
    assert sum(" of " in line and not line.startswith(" ") for line in lines) == len(
        {text["chapter"] for text in texts().values()}
    )


def test_hints_come_one_after_the_other_and_begin_again(monkeypatch, capsys):
    text = {"title": "T", "hints": ["one", "two"], "solution": "three"}
    monkeypatch.setattr(Question, "_text", property(lambda self: text))
    question = Question("ex-any", lambda answer: None, right=1)
    for _ in range(3):
        question.hint()
    question.solution()
    assert capsys.readouterr().out.split() == ["one", "two", "one", "three"]
