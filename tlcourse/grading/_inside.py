"""What runs inside the sandbox: it runs a student's cells, then answers the grader's calls.

Nothing here is trusted once the first cell has run: a cell can change this very program, and then
whatever it sends is the student's word. The grader takes it as such.

It is started as a script, with its limits as JSON in the first argument. Messages, see _wire.py,
come on standard input and leave on standard output; both are moved away before a cell can print.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import types
from typing import Any, BinaryIO


def limit(limits: dict[str, int]) -> None:
    """Set the limits of this process and its children; none of them can be raised again."""
    for name in ("AS", "NPROC", "FSIZE", "NOFILE", "CPU"):
        which = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(which)
        value = limits[name] if hard == resource.RLIM_INFINITY else min(limits[name], hard)
        resource.setrlimit(which, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Out of memory, the system ends this first.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")
    if limits["uid"] and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(limits["uid"], limits["uid"], limits["uid"])
        os.setresuid(limits["uid"], limits["uid"], limits["uid"])


def read(channel: BinaryIO) -> dict[str, Any]:
    text, arrays = wire.sizes(_exactly(channel, wire.HEAD.size))
    message: dict[str, Any] = wire.unpack(_exactly(channel, text), _exactly(channel, arrays))
    return message


def _exactly(channel: BinaryIO, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = channel.read(size - len(data))
        if not piece:
            os._exit(0)  # the grader is done
        data += piece
    return bytes(data)


def write(channel: BinaryIO, message: dict[str, Any]) -> None:
    channel.write(wire.pack(message))
    channel.flush()


class Notebook:
    """The names that the cells have defined, and how a cell is run."""

    def __init__(self) -> None:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module  # where pickle and dataclasses look for a cell's classes
        self.names: dict[str, Any] = module.__dict__
        self.names["display"] = print  # as in a notebook, where it needs no import
        self.shell: Any = None

    def run(self, source: str, number: int) -> dict[str, Any]:
        """Run a cell; magics and `!commands` need IPython, which plain Python does without."""
        file = f"<cell {number}>"
        tree: ast.Module | None = None
        try:
            with contextlib.suppress(SyntaxError):
                tree = ast.parse(source, file)
            if tree is None:
                self._ipython(source)
            else:
                self._python(tree, source, file)
        except BaseException as error:
            return {"error": type(error).__name__, "trace": _told(error)}
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
        return {"error": None, "trace": ""}

    def _python(self, tree: ast.Module, source: str, file: str) -> None:
        import linecache

        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, file, "exec"), self.names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), file, "eval"), self.names)
            if value is not None and not source.rstrip().endswith(";"):
                print(repr(value))

    def _ipython(self, source: str) -> None:
        if self.shell is None:
            from IPython.core.history import HistoryManager
            from IPython.core.interactiveshell import InteractiveShell

            class Shell(InteractiveShell):
                def enable_gui(self, gui: str | None = None) -> None:
                    """There is none: `%matplotlib inline` is obeyed by doing nothing."""

                def showtraceback(self, *args: Any, **kwargs: Any) -> None:
                    """Show nothing: the grader does."""

                showsyntaxerror = showtraceback

            HistoryManager.enabled = False  # type: ignore[assignment]
            self.shell = Shell(user_ns=self.names)
            self.names["get_ipython"] = lambda: self.shell
        self.shell.run_cell(source).raise_error()


def _told(error: BaseException) -> str:
    """Return a traceback from the first cell on, without lone surrogates, which no file holds."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [k for k, frame in enumerate(frames) if frame.filename.startswith("<")]
    lines = traceback.format_list(frames[mine[0] :] if mine else [])[-20:]
    text = "".join([*lines, *traceback.format_exception_only(error)])
    return _readable(text)


def _readable(text: str) -> str:
    return text[-8000:].encode("utf-8", "replace").decode()


def answer(notebook: Notebook, request: dict[str, Any]) -> dict[str, Any]:
    """Answer one call: a student's function, a variable, or a few lines of the test's own."""
    names = notebook.names
    try:
        if request["op"] == "get":
            value = _look_up(names, request["name"])
        elif request["op"] == "call":
            function = _look_up(names, request["name"])
            given, named = _tensors(request["args"]), _tensors(request["kwargs"])
            value = function(*given, **named)
        else:  # "run"
            scope = {**names, **_tensors(request["names"])}
            exec(compile(request["source"], "<test>", "exec"), scope)
            value = scope["result"]
    except BaseException as error:
        return {"error": type(error).__name__, "trace": _told(error)}
    try:
        wire.pack({"value": value})
    except BaseException as error:
        return {"unsendable": type(value).__name__, "why": _readable(str(error))}
    return {"value": value}


def _look_up(names: dict[str, Any], name: str) -> Any:
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    return names[name]


def _tensors(value: Any) -> Any:
    """Return arrays as tensors, which is what the course's functions take."""
    if type(value).__name__ == "ndarray":
        import torch

        return torch.from_numpy(value)
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return value


def test(
    notebook: Notebook, channel_in: BinaryIO, channel_out: BinaryIO, seconds: float, wait: float
) -> str:
    """Answer the calls of one test in a copy of this process; return how the copy ended.

    Whatever a test leaves behind, changed variables or a broken process, ends with the copy. It has
    so many seconds of a processor, and may wait so many by the clock.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or there is nothing to wait for
    child = os.fork()
    if child == 0:
        try:
            whole = int(seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            while True:
                request = read(channel_in)
                if request["op"] == "end":
                    break
                write(channel_out, answer(notebook, request))
        except BaseException:
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + wait
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            if used.ru_utime + used.ru_stime >= seconds and os.WIFSIGNALED(status):
                return "timed out"
            return "ended" if status == 0 else "crashed"
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timed out"
        time.sleep(0.002)


def main() -> None:
    # Unbuffered reading: a copy that reads ahead would take requests from its parent.
    channel_in = os.fdopen(os.dup(0), "rb", buffering=0)
    channel_out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    notebook = Notebook()
    # Before any cell: is there a course with the answers beside the one that was put here?
    courses = [os.path.join(path, "tlcourse", "__init__.py") for path in sys.path[1:]]  # noqa: PTH118
    held = [path for path in courses if os.path.exists(path)]  # noqa: PTH110
    write(channel_out, {"ready": os.getuid(), "answers": held})
    while True:
        request = read(channel_in)
        if request["op"] == "cell":
            write(channel_out, notebook.run(request["source"], request["number"]))
        elif request["op"] == "test":
            limits = request["seconds"], request["wait"]
            how = test(notebook, channel_in, channel_out, *limits)
            write(channel_out, {"test": how})


if __name__ == "__main__":
    limit(json.loads(sys.argv[1]))
    # This file's folder for the one import, then the folder of the course, before the packages.
    sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120 - pathlib is not needed
    import _wire as wire

    sys.path[0] = sys.argv[2]
    main()
