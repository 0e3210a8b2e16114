"""Every question of every chapter: its solution, its stub, its wrong answers, and hostile ones."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import tlcourse.exercises
from tlcourse.exercises._question import Question, texts

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
