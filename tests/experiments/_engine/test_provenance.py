"""What counts as a change of the code that a result was made with."""

from __future__ import annotations

import pytest

from tlcourse.experiments._engine.provenance import changed, digests, running

CODE = 'def f(x):\n    """Say."""\n    return x + 1\n'


@pytest.mark.parametrize(
    "other",
    [
        'def f(x):\n    """Say more.\n\n    And more.\n    """\n    return x + 1\n',
        "# why\ndef f(x):\n\n    return x + 1  # one\n",
        '"""A module."""\n\ndef f(x):\n    "Say."\n    return x + 1\n',
    ],
)
def test_comments_docstrings_and_empty_lines_do_not_count(other):
    assert running(other) == running(CODE)


@pytest.mark.parametrize(
    "other", [CODE.replace("1", "2"), CODE + "y = '# no comment'\n", CODE.replace("x)", "x, y)")]
)
def test_code_counts(other):
    assert running(other) != running(CODE)


def test_a_sign_in_a_text_is_no_comment():
    assert running("a = '# b'\n") == "a = '# b'"


def test_changed_new_and_lost_modules_are_named():
    then = {"tlcourse.a": "1", "tlcourse.b": "1", "tlcourse.c": "1"}
    now = {"tlcourse.a": "1", "tlcourse.b": "2", "tlcourse.d": "1"}
    assert changed(then, now) == ["tlcourse.b", "tlcourse.c", "tlcourse.d"]


def test_an_experiment_that_was_only_moved_has_not_changed():
    then = {"tlcourse.experiments.kd": "1"}
    assert changed(then, {"tlcourse.experiments.distillation.kd": "1"}) == []
    now = {"tlcourse.experiments.distillation.kd": "2"}
    assert changed(then, now) == ["tlcourse.experiments.distillation.kd"]


def test_the_engine_and_the_type_checkers_imports_do_not_count():
    found = digests("tlcourse.experiments.distillation.kd")
    assert "tlcourse.distillation.loss" in found
    assert not [name for name in found if "._engine" in name]
