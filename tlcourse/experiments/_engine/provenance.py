"""Which code a result was made with, and what of it has changed since.

A record holds, for each module of the package that an experiment uses, a digest of its code at the
commit of the run. It is compared with the code of today without asking git, so that a built page
is the same wherever it is built.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Mapping

from tlcourse import _code
from tlcourse._code import code_of

ENGINE = "tlcourse.experiments._engine"
EXPERIMENTS = "tlcourse.experiments"


def digests(module: str) -> dict[str, str]:
    """Return a digest of the code of a module and of each that it uses, by name.

    Comments, docstrings and empty lines do not count, so that the digest is that of what runs. It
    is of the text, not of a syntax tree, whose form changes with the version of Python.

    Examples
    --------
    >>> sorted(digests("tlcourse.training.schedules"))
    ['tlcourse._checks', 'tlcourse.training.schedules']
    """
    found = {}
    for name in code_of(module, leave_out=[ENGINE]):
        file = _code._file(name)
        assert file is not None
        text = running(file.read_text(encoding="utf-8"))
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:8]
    return found


def running(source: str) -> str:
    r"""Return Python source without comments, docstrings and empty lines.

    Examples
    --------
    >>> running('def f():\n    "What it does."\n    return 1  # one\n')
    'def f():\n    return 1'
    """
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                assert first.end_lineno is not None
                lines[first.lineno - 1 : first.end_lineno] = [""] * (
                    first.end_lineno - first.lineno + 1
                )
    return "\n".join(line.rstrip() for line in lines if line.strip())


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the modules whose code differs, those of experiments last.

    A module that only one of the two has counts as changed. Where the modules of experiments were
    moved, that is one change: they are compared by what they hold, not by name.

    Examples
    --------
    >>> changed({"tlcourse.a": "1", "tlcourse.b": "1"}, {"tlcourse.a": "1", "tlcourse.b": "2"})
    ['tlcourse.b']
    """
    names = {n for n in then.keys() | now.keys() if not n.startswith(f"{EXPERIMENTS}.")}
    found = sorted(name for name in names if then.get(name) != now.get(name))
    own_then = {d for n, d in then.items() if n.startswith(f"{EXPERIMENTS}.")}
    own_now = {n: d for n, d in now.items() if n.startswith(f"{EXPERIMENTS}.")}
    return found + sorted(name for name, digest in own_now.items() if digest not in own_then)
