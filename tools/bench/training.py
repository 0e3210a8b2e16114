"""Training: what the loop adds to the steps themselves."""

from __future__ import annotations

from bench.timing import Case

CASES: tuple[Case, ...] = ()
