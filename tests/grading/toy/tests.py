"""A small assignment without torch, so that a sandbox is ready in a moment."""

import numpy as np

from tlcourse.grading.assignment import Failed, Tests, close
from tlcourse.grading.sandbox import Limits

tests = Tests()
limits = Limits(cell=3, test=2, total=30, memory=1 << 30, processes=40, disk=64 << 20)


@tests.visible("test-total", 4, "Three numbers.")
def shown_total(student, rng):
    close(student.total([1.0, 2.0, 3.5]), 6.5)


@tests.hidden("test-total", 6, "Any numbers.")
def any_total(student, rng):
    values = rng.normal(size=7).tolist()
    mistakes = {"That is the mean.": np.mean(values)}
    close(student.total(values), sum(values), mistakes=mistakes)


@tests.hidden("test-scaled", 10, "Any numbers and factor, twice.")
def any_scaled(student, rng):
    for _ in range(2):
        values, factor = rng.normal(size=5).tolist(), float(rng.normal())
        found = student.scaled(values, factor)
        if not (isinstance(found, list) and len(found) == 5):
            raise Failed("scaled should return a list of five numbers.")
        for actual, value in zip(found, values, strict=True):
            close(actual, value * factor)
