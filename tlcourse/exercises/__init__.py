"""Answers checked where they are written: a module for each chapter, a question for each exercise.

Each question has ``check(answer)``, ``hint()`` and ``solution()``. Nothing leaves this machine;
what has been passed is kept in one file, which `tlcourse progress` reads.

Examples
--------
>>> from tlcourse.exercises import spottune as ex
>>> ex.q1.check(...)
Not attempted: put your answer in the place of `...`.
"""
