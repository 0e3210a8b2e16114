"""A question: what it asks of an answer, what it says of a wrong one."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from tlcourse.exercises._answers import difference, is_empty
from tlcourse.exercises._limit import OutOfTime, time_limit
from tlcourse.exercises._progress import record

Status = Literal["passed", "failed", "raised", "not attempted"]
Judge = Callable[[Any], str | None]


@dataclass(frozen=True)
class Outcome:
    """What became of an answer; `str` is the sentence for the learner."""

    status: Status
    message: str = ""

    def __str__(self) -> str:
        said = f": {self.message}" if self.message else "."
        return self.status.capitalize() + said


@dataclass
class Question:
    """One exercise of a chapter.

    Parameters
    ----------
    label
        The exercise's label in the chapter, from which hints and solution are taken.
    judge
        Says what is wrong with an answer, or None where it is right. :func:`function` and
        :func:`value` make the usual ones.
    right
        An answer that passes, independent of the chapter's solution where that is possible.
    wrong
        For each diagnosis an answer that gets it.
    limit
        Seconds that an answer may take.
    """

    label: str
    judge: Judge
    right: Any
    wrong: Mapping[str, Any] = field(default_factory=dict)
    limit: float = 60.0
    _hints_shown: int = field(default=0, repr=False)

    def check(self, answer: Any = ...) -> None:
        """Say what became of the answer: passed, failed, raised, or not attempted."""
        outcome = self.outcome(answer)
        if outcome.status == "passed":
            record(self.label)
        print(outcome)

    def outcome(self, answer: Any = ...) -> Outcome:
        """Return what :meth:`check` prints, and keep nothing."""
        if is_empty(answer):
            return Outcome("not attempted", "put your answer in the place of `...`.")
        try:
            with time_limit(self.limit):
                diagnosis = self.judge(answer)
        except NotAttemptedError:
            return Outcome("not attempted", "the function returns nothing yet.")
        except OutOfTime:
            return Outcome(
                "failed", f"no answer within {self.limit:g} seconds. Is there a loop without end?"
            )
        except Exception as error:  # whatever the learner's code may raise
            return Outcome("raised", _where(error))
        return Outcome("passed") if diagnosis is None else Outcome("failed", diagnosis)

    def hint(self) -> None:
        """Print the next hint; after the last one, the first again."""
        hints = self._text["hints"]
        print(hints[self._hints_shown % len(hints)])
        self._hints_shown += 1

    def solution(self) -> None:
        """Print the chapter's solution."""
        print(self._text["solution"])

    @property
    def title(self) -> str:
        """The exercise's title in the chapter."""
        return str(self._text["title"])

    @property
    def _text(self) -> dict[str, Any]:
        return texts()[self.label]

    def __repr__(self) -> str:
        return f"{self.title}: .check(answer), .hint(), .solution()"


class NotAttemptedError(Exception):
    """A function of the learner returns nothing, or `...`."""


def function(
    label: str,
    right: Callable[..., Any],
    cases: Callable[[], list[tuple[Any, ...]]],
    wrong: Mapping[str, Callable[..., Any]] | None = None,
    *,
    tolerance: float = 1e-4,
    limit: float = 60.0,
) -> Question:
    """Return a question whose answer is a function that must agree with ``right``.

    Parameters
    ----------
    label
        The exercise's label.
    right
        The reference.
    cases
        Returns a tuple of arguments for each call. It is called anew for each function, so that an
        answer that changes its arguments spoils nothing.
    wrong
        For each diagnosis the mistake as a function: an answer that agrees with it gets that
        diagnosis.
    tolerance
        Of numbers, relative, and absolute near 0.
    limit
        Seconds.
    """
    mistakes = dict(wrong or {})

    def judge(answer: Any) -> str | None:
        if said := not_a_function(answer):
            return said
        given = [answer(*arguments) for arguments in cases()]
        if all(one is None or one is ... for one in given):
            raise NotAttemptedError
        found = _unlike(given, right)
        if found is None:
            return None
        for diagnosis, mistake in mistakes.items():
            if _unlike(given, mistake) is None:
                return diagnosis
        return found

    def _unlike(given: list[Any], other: Callable[..., Any]) -> str | None:
        for number, (one, arguments) in enumerate(zip(given, cases(), strict=True), start=1):
            if said := difference(one, other(*arguments), tolerance):
                return f"in call {number} of {len(given)}, {said}"
        return None

    return Question(label, judge, right, mistakes, limit)


def not_a_function(answer: Any) -> str | None:
    """Say that a function is asked for, unless the answer is one."""
    if callable(answer):
        return None
    return f"a function is asked for, not {type(answer).__name__}. Give its name alone."


def value(
    label: str, right: Any, wrong: Mapping[str, Any] | None = None, *, tolerance: float = 1e-4
) -> Question:
    """Return a question whose answer is a number, a text, or several by name or in order.

    Parameters
    ----------
    label
        The exercise's label.
    right
        The answer.
    wrong
        For each diagnosis the answer that gets it.
    tolerance
        Of numbers, relative, and absolute near 0.
    """
    mistakes = dict(wrong or {})

    def judge(answer: Any) -> str | None:
        if difference(answer, right, tolerance) is None:
            return None
        for diagnosis, mistake in mistakes.items():
            if difference(answer, mistake, tolerance) is None:
                return diagnosis
        return difference(answer, right, tolerance, tell=False)

    return Question(label, judge, right, mistakes)


@cache
def texts() -> dict[str, dict[str, Any]]:
    """Return title, hints and solution of every exercise by label, as the chapters have them."""
    found: dict[str, dict[str, Any]] = json.loads(
        (files("tlcourse.exercises") / "texts.json").read_text(encoding="utf-8")
    )
    return found


def _where(error: Exception) -> str:
    """Return the error in a line, with the line of the learner's code that it comes from."""
    own = str(files("tlcourse"))
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(own)]
    place = f" (line {theirs[-1].lineno} of your answer)" if theirs else ""
    return f"{type(error).__name__}: {error}{place}"
