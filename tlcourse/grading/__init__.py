"""Grading of assignments: student code in a sandbox, the tests outside of it."""
