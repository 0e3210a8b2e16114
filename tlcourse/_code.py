"""The code that numbers depend on: a module, and all of `tlcourse` that it imports."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def code_of(module: str, *, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Return the code of a module and of every `tlcourse` module that it imports, by name.

    Imports are followed through other modules and into functions; of a package's ``__init__`` only
    those of the names that are taken from it. Comments, docstrings and the layout do not count,
    nor does what is imported for type checkers alone.

    Parameters
    ----------
    module
        The name of one that has been imported.
    leave_out
        Names of modules and packages that are not followed.

    Raises
    ------
    OSError
        If the module has no source file, as in a notebook.

    Examples
    --------
    >>> sorted(code_of("tlcourse.training.schedules"))
    ['tlcourse._checks', 'tlcourse.training.schedules']
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or any(f"{name}.".startswith(f"{left}.") for left in leave_out):
            continue
        tree = _parsed(name)
        found[name] = _dumped(tree)
        waiting += _imported(tree, name)
    return dict(sorted(found.items()))


@cache
def _dumped(tree: ast.Module) -> str:
    return ast.dump(tree)


def _parsed(name: str) -> ast.Module:
    """Return the syntax tree of a module; one that has not changed is not read again."""
    file = _file(name)
    if file is not None:
        return _tree_of_file(file, file.stat().st_mtime_ns)
    try:
        return _tree(inspect.getsource(sys.modules[name]))
    except (TypeError, KeyError) as error:  # what inspect says of a notebook's __main__
        raise OSError(f"The module {name} has no source file.") from error


@cache
def _tree_of_file(file: Path, changed: int) -> ast.Module:
    return _tree(file.read_text(encoding="utf-8"))


def _tree(source: str) -> ast.Module:
    """Return a syntax tree without docstrings and without imports for type checkers."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case (
                ast.Module(body=[ast.Expr(ast.Constant(value=str())), *rest])
                | ast.ClassDef(body=[ast.Expr(ast.Constant(value=str())), *rest])
                | ast.FunctionDef(body=[ast.Expr(ast.Constant(value=str())), *rest])
            ):
                node.body = rest
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                node.body = []
    return tree


def _imported(tree: ast.Module, importer: str) -> Iterator[str]:
    """Return the modules of the package whose names or selves a module imports."""
    names: list[tuple[str, str | None]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = importer if _is_package(importer) else importer.rpartition(".")[0]
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [(module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            if _file(module) is not None:
                yield module if name is None else _home(module, name)


def _home(module: str, name: str) -> str:
    """Return the module in which what ``from module import name`` gives is defined."""
    if _file(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    if _is_package(module):
        for node in ast.walk(_parsed(module)):
            if isinstance(node, ast.ImportFrom) and node.module and _file(node.module):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _home(node.module, alias.name)
    return module


def _is_package(module: str) -> bool:
    file = _file(module)
    return file is not None and file.name == "__init__.py"


@cache
def _file(module: str) -> Path | None:
    """Return a module's file, if it is one of the package."""
    first, *parts = module.split(".")
    if first != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*parts)
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return file
    return None
