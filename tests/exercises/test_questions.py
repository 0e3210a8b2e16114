"""Every question of every chapter: its solution, its stub, its wrong answers, and hostile ones."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import signal
import time

import numpy as np
import pytest
import torch

import tlcourse.exercises
from tlcourse.exercises._question import Question, function, texts, value

MODULES = [m.name for m in pkgutil.iter_modules(tlcourse.exercises.__path__) if m.name[0] != "_"]
QUESTIONS = {
    f"{module}.{name}": question
    for module in MODULES
    for name, question in vars(importlib.import_module(f"tlcourse.exercises.{module}")).items()
    if isinstance(question, Question)
}
each = pytest.mark.parametrize("name", QUESTIONS)
wrong_answers = pytest.mark.parametrize(
    ("name", "diagnosis"), [(name, said) for name, q in QUESTIONS.items() for said in q.wrong]
)


@each
def test_the_right_answer_passes(name):
    question = QUESTIONS[name]
    assert question.outcome(question.right).status == "passed", question.outcome(question.right)


@each
@pytest.mark.parametrize("stub", [..., None, lambda *given: ..., lambda *given: None])
def test_the_stub_is_not_attempted(name, stub):
    assert QUESTIONS[name].outcome(stub).status == "not attempted"


@wrong_answers
def test_a_wrong_answer_gets_its_own_diagnosis(name, diagnosis):
    question = QUESTIONS[name]
    outcome = question.outcome(question.wrong[diagnosis])
    assert outcome.status == "failed"
    assert diagnosis in outcome.message
    others = [said for said in question.wrong if said != diagnosis]
    assert not any(said in outcome.message for said in others)


def raises(*given):
    raise RuntimeError("broken on purpose")


@each
def test_an_exception_is_told_with_its_line(name):
    question = QUESTIONS[name]
    outcome = question.outcome(raises)
    if callable(question.right):
        assert outcome.status == "raised"
        assert "RuntimeError: broken on purpose" in outcome.message
        assert "line" in outcome.message
    else:
        assert outcome.status in ("failed", "raised")


@each
@pytest.mark.parametrize("odd", ["text", 10**9, object(), {"a": object()}, [[], [1]], type])
def test_a_wrong_type_never_passes_and_is_told(name, odd):
    outcome = QUESTIONS[name].outcome(odd)
    assert outcome.status in ("failed", "raised")
    assert outcome.message


@pytest.mark.parametrize(
    "given", [True, np.True_, torch.tensor(True), np.array(True), lambda: True, lambda: [True]]
)
def test_a_truth_is_no_number(given):
    for question in (value("any", 1.0), function("any", lambda: 1.0, lambda: [()])):
        assert question.outcome(given).status == "failed"
    listed = given() if callable(given) else [given]
    assert value("any", [1.0]).outcome(listed).status == "failed"


def test_numbers_agree_within_the_tolerance_and_no_further():
    question = value("any", 100.0, tolerance=1e-3)
    assert question.outcome(100.09).status == "passed"
    assert question.outcome(100.2).status == "failed"
    near = value("any", 0.0, tolerance=1e-3)
    assert near.outcome(0.0009).status == "passed"
    assert near.outcome(0.0011).status == "failed"
    assert near.outcome(float("nan")).status == "failed"


def test_the_answer_is_not_told():
    outcome = value("any", 1234.5).outcome(1.0)
    assert "1234" not in outcome.message
    assert "1234" not in value("any", {"a": 1234.5}).outcome({"a": 1}).message


def test_an_answer_that_changes_its_arguments_spoils_nothing():
    def change(x):
        x.append(1)
        return 5

    question = function("any", lambda x: len(x), lambda: [([],), ([],)])
    assert question.outcome(change).message.startswith("in call 1 of 2, got 5.0, not 0.0")


def test_a_function_that_answers_some_calls_only_is_wrong():
    question = function("any", lambda x: x, lambda: [(1,), (2,)])
    assert question.outcome(lambda x: 1 if x == 1 else None).status == "failed"


def test_a_loop_that_catches_all_is_stopped_and_the_clock_given_back():
    def stubborn(x):
        while True:
            with contextlib.suppress(Exception):
                while True:
                    pass

    rung = []
    before = signal.signal(signal.SIGALRM, lambda *given: rung.append(1))
    try:
        question = function("any", lambda x: x, lambda: [(1,)], limit=0.2)
        assert "loop without end" in question.outcome(stubborn).message
        assert question.outcome(lambda x: x).status == "passed"
        time.sleep(0.6)
        assert not rung
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        signal.raise_signal(signal.SIGALRM)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, before)


def endless(*given):
    while True:
        pass


@pytest.mark.parametrize("name", [n for n, q in QUESTIONS.items() if callable(q.right)])
def test_a_loop_without_end_is_stopped(name, monkeypatch):
    question = QUESTIONS[name]
    monkeypatch.setattr(question, "limit", 0.2)
    outcome = question.outcome(endless)
    assert outcome.status == "failed"
    assert "loop without end" in outcome.message


def test_every_exercise_of_the_book_has_its_question_and_the_other_way_round():
    asked = [question.label for question in QUESTIONS.values()]
    assert sorted(asked) == sorted(texts())


@each
def test_a_question_is_where_its_chapter_says_and_has_hints_and_a_solution(name):
    text = texts()[QUESTIONS[name].label]
    assert name.split(".")[0] == text["chapter"].split("/")[-1].replace("-", "_")
    assert text["hints"]
    assert text["solution"]


@pytest.mark.parametrize("module", MODULES)
def test_questions_are_numbered_as_in_the_chapter(module):
    mine = {n.split(".")[1]: q for n, q in QUESTIONS.items() if n.split(".")[0] == module}
    order = [label for label in texts() if label in {q.label for q in mine.values()}]
    assert [mine[f"q{number}"].label for number in range(1, len(mine) + 1)] == order
