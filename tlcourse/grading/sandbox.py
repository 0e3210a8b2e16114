"""A process of its own for a student's code, which can read, reach and outlast nothing.

The process runs inside bubblewrap: the system and the packages read-only, no network, no other
process in sight, a small folder of its own in memory, no rights, an empty environment, and none of
the course's reference answers. The grader holds the other end of two pipes. Through them it sends
cells and calls, and takes back numbers, texts and plain arrays (see ``_wire``): nothing that is
received is ever executed or unpickled. Tests run on the grader's side, so that no answer of the
sandbox says "passed"; at most it says what a function returns.

It is no Jupyter kernel, though one could run in there. A kernel has five sockets, a signing key
that the student's code can read, and comm messages; all of that would be parsed on this side.
Here one message answers one message, and a copy of the process can be made for each test, so that
no test sees what another one left behind.

Limits hold for a cell, a test and the whole submission; for memory, processes, files and output.
When the process namespace's first process is killed, the kernel ends every other one in it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tlcourse.grading import _seccomp, _wire

COURSE = Path(__file__).resolve().parents[1]
INSIDE = Path(__file__).resolve().with_name("_inside.py")
WIRE = Path(_wire.__file__).resolve()
HOLD_BACK = ("grading", "exercises", "experiments", "_results")  # never inside

INSTALL = "sudo apt-get install bubblewrap"
MISSING = (
    "Student code runs inside bubblewrap, and there is no `bwrap` here. Install it "
    f"(Debian, Ubuntu: {INSTALL}; Fedora: sudo dnf install bubblewrap). Without it, as on macOS "
    "and Windows, grade on a Linux machine, or with --container docker (or podman). "
    "--unsafe-no-sandbox runs the code as you, with your files: only for code that you wrote."
)
REFUSED = (
    "bubblewrap is here but could not start: {why}. On Ubuntu 24.04 install apparmor-profiles, "
    "copy /usr/share/apparmor/extra-profiles/bwrap-userns-restrict to /etc/apparmor.d and load it "
    "with `sudo apparmor_parser -r`. In a container, allow user namespaces, or grade outside of it."
)


PATIENCE = 5
KILL_WAIT = 60  # seconds for a container to end


class Unavailable(OSError):
    """There is no sandbox on this machine; the message says how to get one."""


class Ended(RuntimeError):
    """The process inside has ended, or was ended; the message is safe to show to the student."""

    status = "crashed"


class TimedOut(Ended):
    """A limit of time was reached."""

    status = "timed out"


class Answered(RuntimeError):
    """A student's function did not return a value that crosses.

    Attributes
    ----------
    kind
        "raised", "unsendable", "timed out" or "crashed".
    name
        The exception's or the value's type, as the sandbox says: the student's word.
    text
        A traceback or reason, as the sandbox says.
    """

    def __init__(self, kind: str, name: str = "", text: str = "") -> None:
        super().__init__(f"{kind} {name}".strip())
        self.kind, self.name, self.text = kind, name, text


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds, bytes, processes.

    Seconds are those of a processor, so that a busy machine takes no points. What waits rather than
    computes is ended after `PATIENCE` times as many seconds by the clock.
    """

    cell: float = 60.0
    test: float = 10.0
    total: float = 300.0
    memory: int = 4 << 30
    processes: int = 64
    disk: int = 256 << 20
    shown: int = 64 << 10  # of a cell's output
    output: int = 64 << 20  # of all cells; beyond it the process is ended


@dataclass(frozen=True)
class Ran:
    """What a cell did: its printed output, and the exception that ended it, if any."""

    output: str
    error: str | None
    trace: str


class Sandbox:
    """One student's process: `run_cell` runs code in it, `test` calls what the code defined.

    Parameters
    ----------
    course
        Files and folders of the package ``tlcourse`` that are there to be imported.
    limits
        See `Limits`.
    way
        "bubblewrap"; "docker:IMAGE" or "podman:IMAGE"; or "none", which protects from nothing.

    Raises
    ------
    Unavailable
        If there is no sandbox on this machine.

    Examples
    --------
    >>> with Sandbox(way="none") as sandbox:  # of code that we wrote
    ...     ran = sandbox.run_cell("def double(x): return 2 * x")
    ...     with sandbox.test() as student:
    ...         print(student.double(21))
    42
    """

    def __init__(
        self,
        course: Sequence[str] = (),
        limits: Limits | None = None,
        way: str = "bubblewrap",
    ) -> None:
        self.limits = limits or Limits()
        self._until = time.monotonic() + PATIENCE * self.limits.total
        self._printed = 0
        self._output = bytearray()
        self._looked = 0.0
        self._used = 0.0  # seconds of a processor, when last looked at
        self._may_use = float("inf")
        self._cells = 0
        self.child = 0  # the first process inside, where it is known
        self._first = -1  # a handle of it, which no other process can come by
        self._kill: list[str] = []  # the command that ends a container
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        check_course(course)
        if way == "bubblewrap":
            self._start_bubblewrap(course)
        elif way == "none":
            self._folder = tempfile.TemporaryDirectory(prefix="tlcourse-unsafe-")
            self._start(unconfined(course, Path(self._folder.name), self.limits))
        else:
            name = f"tlcourse-{secrets.token_hex(8)}"
            command = container(way, course, self.limits, name)
            self._kill = [command[0], "kill", name]
            self._start(command)
        try:
            ready = self._exchange(None, time.monotonic() + 120)
        except Ended as error:
            self.close()
            why = self._said().strip() or str(error)
            message = REFUSED if way == "bubblewrap" else "The sandbox could not start: {why}."
            raise Unavailable(message.format(why=why)) from None
        if way != "none" and (ready.get("ready") == 0 or ready.get("answers")):
            self.close()
            if ready.get("ready") == 0:
                raise Unavailable("The sandbox would run student code as root; that is refused.")
            raise Unavailable(
                f"The sandbox would hold the course's reference answers, in {ready['answers']}: an "
                "image needs the course's packages (torch and the others) without tlcourse itself."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run_cell(self, source: str) -> Ran:
        """Run a cell and return its output; an exception in it is part of the result.

        Raises
        ------
        Ended
            If the cell reaches a limit or ends its process. The sandbox is closed then.
        """
        self._cells += 1
        request = {"op": "cell", "source": source, "number": self._cells}
        self._may_use = self._used + self.limits.cell
        reply = self._exchange(request, time.monotonic() + PATIENCE * self.limits.cell)
        self._may_use = float("inf")  # a test is limited inside
        error, trace = reply.get("error"), reply.get("trace")
        return Ran(
            self._said(),
            error[: self.limits.shown] if isinstance(error, str) else None,
            trace[: self.limits.shown] if isinstance(trace, str) else "",
        )

    @contextlib.contextmanager
    def test(self, seconds: float | None = None) -> Iterator[Student]:
        """Open a copy of the process for one test: the student's functions, by name.

        What the test leaves behind there vanishes with the copy.
        """
        seconds = self.limits.test if seconds is None else seconds
        wait = PATIENCE * seconds
        until = time.monotonic() + wait + 2  # the sandbox itself should end a test in time
        self._send({"op": "test", "seconds": seconds, "wait": wait}, until)
        open_ = True

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            nonlocal open_
            if not open_:
                raise Answered("crashed")
            reply = self._exchange(request, until)
            if "test" in reply:
                open_ = False
                raise Answered("timed out" if reply["test"] == "timed out" else "crashed")
            return reply

        try:
            yield Student(ask)
        finally:
            if open_ and self._process.poll() is None:
                self._exchange({"op": "end"}, until)
            self._output.clear()  # what a test makes a function print could quote the test

    def close(self) -> None:
        """End every process inside; return when all are gone."""
        if self._first >= 0:
            # The namespace's first process: with it the kernel ends all the others, and only then
            # does its handle become readable. bubblewrap itself may be gone sooner.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            gone = select.poll()
            gone.register(self._first, select.POLLIN)
            gone.poll(10_000)
            os.close(self._first)
            self._first = -1
        elif self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._kill:  # what has ended above is the client; the container would go on
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(self._kill, check=False, capture_output=True, timeout=KILL_WAIT)
            self._kill = []
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._folder:
            self._folder.cleanup()
            self._folder = None

    # The rest is private.

    def _start_bubblewrap(self, course: Sequence[str]) -> None:
        if shutil.which("bwrap") is None:
            raise Unavailable(MISSING)
        filter_in, filter_out = os.pipe()
        info_in, info_out = os.pipe()
        os.write(filter_out, _seccomp.program())
        os.close(filter_out)
        try:
            self._start(bubblewrap(course, self.limits, filter_in, info_out), (filter_in, info_out))
        finally:
            os.close(filter_in)
            os.close(info_out)
            with os.fdopen(info_in, "rb") as file:
                info = file.read()
        with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
            child = int(json.loads(info)["child-pid"])
            self._first = os.pidfd_open(child)
            self.child = child

    def _start(self, command: list[str], files: tuple[int, ...] = ()) -> None:
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                pass_fds=files,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,  # Ctrl-C is for the grader, which then closes
            )
        except OSError as error:
            raise Unavailable(f"{command[0]} could not be started: {error}.") from error
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        self._err = self._process.stderr.fileno()
        for file in (self._in, self._out, self._err):
            os.set_blocking(file, False)

    def _send(self, message: dict[str, Any], until: float) -> None:
        left = memoryview(_wire.pack(message))
        while left:
            if self._in in self._wait(until, writing=True):
                try:
                    left = left[os.write(self._in, left) :]
                except OSError:
                    self._end(Ended("its process ended"))

    def _exchange(self, message: dict[str, Any] | None, until: float) -> dict[str, Any]:
        """Send a message, if any, and return the next one, within the limits of time and size."""
        until = min(until, self._until)
        if message is not None:
            self._send(message, until)
        data, wanted, parts = bytearray(), _wire.HEAD.size, (0, 0)
        try:
            while len(data) < wanted:
                if self._out not in self._wait(until):
                    continue
                piece = os.read(self._out, min(wanted - len(data), 1 << 20))
                if not piece:
                    self._drain()
                    self._end(Ended("its process ended"))
                data += piece
                if len(data) == _wire.HEAD.size == wanted:
                    parts = _wire.sizes(bytes(data))
                    wanted += sum(parts)
            self._drain()
            text = bytes(data[_wire.HEAD.size : _wire.HEAD.size + parts[0]])
            return _wire.unpack(text, bytes(data[_wire.HEAD.size + parts[0] :]))
        except _wire.WireError as error:
            self._end(Ended(f"it sent what is no answer ({error})"))
            raise AssertionError from None  # not reached

    def _wait(self, until: float, *, writing: bool = False) -> set[int]:
        """Return which pipes are ready; take what was printed, and look at time and memory."""
        now = time.monotonic()
        if now >= until:
            self._end(TimedOut("its time was up"))
        if now - self._looked > 0.2:
            self._looked = now
            if self.child:
                size, self._used = usage(self.child, self.limits.memory)
                if size > self.limits.memory:
                    self._end(Ended(f"it used more than {self.limits.memory >> 20:,} MB of memory"))
                if self._used > self._may_use:
                    self._end(TimedOut("its time was up"))
        asked = select.poll()
        asked.register(self._err, select.POLLIN)
        asked.register(*((self._in, select.POLLOUT) if writing else (self._out, select.POLLIN)))
        ready = {file for file, _ in asked.poll(1000 * min(0.1, until - now))}
        if self._err in ready and not self._drain():
            # The output is closed: only the channel is left to wait for.
            time.sleep(0.001)
        return ready

    def _drain(self) -> bool:
        """Keep what was printed, up to a limit; return whether there was any."""
        found = False
        while True:
            try:
                piece = os.read(self._err, 1 << 16)
            except BlockingIOError:
                return True
            if not piece:
                return found
            found = True
            self._printed += len(piece)
            self._output += piece[: max(0, self.limits.shown - len(self._output))]
            if self._printed > self.limits.output:
                self._end(Ended(f"it printed more than {self.limits.output >> 20} MB"))

    def _said(self) -> str:
        text = self._output.decode("utf-8", "replace")
        self._output.clear()
        return text

    def _end(self, error: Ended) -> None:
        self.close()
        raise error


class Student:
    """The student's functions and variables, by name, as one test sees them.

    ``student.f(x)`` calls f inside; arrays arrive there as tensors and come back as arrays.
    """

    def __init__(self, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._ask = ask

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        request = {"op": "call", "name": name, "args": list(args), "kwargs": kwargs}
        return self._value(self._ask(request))

    def get(self, name: str) -> Any:
        """Return the value of a variable of the notebook."""
        return self._value(self._ask({"op": "get", "name": name}))

    def run(self, source: str, **names: Any) -> Any:
        """Run lines of the test beside the student's names; return what they call ``result``.

        They run in the sandbox, so what they return is the student's word, as a call's result is.
        """
        return self._value(self._ask({"op": "run", "source": source, "names": names}))

    @staticmethod
    def _value(reply: dict[str, Any]) -> Any:
        if set(reply) == {"value"}:
            return reply["value"]
        for kind, name, text in (("raised", "error", "trace"), ("unsendable", "unsendable", "why")):
            if isinstance(reply.get(name), str) and isinstance(reply.get(text), str):
                raise Answered(kind, reply[name], reply[text])
        raise Answered("crashed")


def check_course(course: Sequence[str]) -> None:
    """Raise unless each is a file or folder of the package that may be seen by students."""
    for name in course:
        parts = Path(name).parts
        if not parts or ".." in parts or Path(name).is_absolute() or parts[0] in HOLD_BACK:
            raise ValueError(f"{name!r} is no part of tlcourse that a sandbox may hold.")
        if not (COURSE / name).exists():
            raise ValueError(f"{name!r} is not in {COURSE}; name files and folders of tlcourse.")


def bubblewrap(
    course: Sequence[str], limits: Limits, filter_file: int, info_file: int
) -> list[str]:
    """Return the command that starts the process inside bubblewrap."""
    root = os.geteuid() == 0
    command = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--hostname", "sandbox", "--info-fd", str(info_file), "--cap-drop", "ALL"]
    if root:
        # Under a user namespace the process would still be root to the files that are bound, and
        # root's processes are not counted. So it becomes another user, for which it needs these.
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    if _seccomp.program():
        command += ["--seccomp", str(filter_file)]
    elif not root:
        command += ["--disable-userns"]
    # First what is made, then what is bound: an environment may lie below /tmp.
    command += ["--proc", "/proc", "--dev", "/dev"]
    for name in ("/dev/shm", "/tmp"):
        command += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", name]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(name)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            command += ["--ro-bind", name, name]
    bound = _bound()
    home = Path.home()
    if {Path("/"), home, *home.parents} & set(bound):
        raise Unavailable(f"Python is installed right in {home} or above it, which would be seen.")
    made: set[Path] = set()
    for path in bound:
        if not path.exists() or any(path != b and path.is_relative_to(b) for b in bound):
            continue
        for parent in reversed(path.parents[:-1]):
            if parent not in made:
                made.add(parent)
                command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", str(path), str(path)]
    for path in _answers(bound):
        command += ["--tmpfs", str(path), "--remount-ro", str(path)]
    for folder in ("/grader", "/course", "/course/tlcourse"):
        command += ["--perms", "0755", "--dir", folder]
    for path in (INSIDE, WIRE):
        command += ["--ro-bind", str(path), f"/grader/{path.name}"]
    for name in course:
        command += ["--ro-bind", str(COURSE / name), f"/course/tlcourse/{name}"]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    for name, value in _environment().items():
        command += ["--setenv", name, value]
    uid = 2_000_000_000 + secrets.randbelow(100_000_000) if root else 0
    return [*command, "--", *_inside(limits, uid)]


def unconfined(course: Sequence[str], folder: Path, limits: Limits) -> list[str]:
    """Return the command that starts the process as oneself, with all that one can read."""
    (folder / "tlcourse").mkdir()
    for name in course:
        (folder / "tlcourse" / name).symlink_to(COURSE / name)
    environment = [f"{name}={value}" for name, value in _environment().items()]
    return ["env", "-i", "-C", str(folder), *environment, *_inside(limits, 0, folder)]


def container(way: str, course: Sequence[str], limits: Limits, name: str) -> list[str]:
    """Return the command that starts the process in a container of "docker:IMAGE"."""
    engine, _, image = way.partition(":")
    if engine not in ("docker", "podman") or not image:
        raise ValueError(f"{way!r}: a container is docker:IMAGE or podman:IMAGE.")
    if shutil.which(engine) is None:
        raise Unavailable(
            f"--container {engine}: there is no `{engine}` here. Install and start it."
        )
    command = [engine, "run", "--rm", "-i", "--network", "none", "--read-only", "--cap-drop", "ALL"]
    command += ["--security-opt", "no-new-privileges", "--user", "65534:65534", "--name", name]
    command += ["--memory", str(limits.memory), "--memory-swap", str(limits.memory)]
    command += ["--pids-limit", str(limits.processes), "--shm-size", str(limits.disk)]
    command += ["--tmpfs", f"/tmp:size={limits.disk},mode=1777", "--workdir", "/tmp"]
    for path in (INSIDE, WIRE):
        command += ["--volume", f"{path}:/grader/{path.name}:ro"]
    for part in course:
        command += ["--volume", f"{COURSE / part}:/course/tlcourse/{part}:ro"]
    command += [f"--env={key}={value}" for key, value in _environment().items()]
    _, *inside = _inside(limits, 0)
    return [*command, "--entrypoint", "python", image, *inside]


def usage(process: int, enough: int) -> tuple[int, float]:
    """Return the bytes and the seconds of a processor that a process and its descendants use.

    Bytes that copies of a process share are counted once. That is slow; it is done only where the
    quick count, of them in each copy, is above ``enough``.
    """
    found, todo = [], [process]
    while todo:
        pid = todo.pop()
        found.append(pid)
        with contextlib.suppress(OSError, ValueError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
    pages = ticks = exact = 0
    for pid in found:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own, and those of children that ended
    size, seconds = pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")
    if size <= enough:
        return size, seconds
    for pid in found:
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    exact += 1024 * int(line.split()[1])
    return exact, seconds


def _inside(limits: Limits, uid: int, folder: Path | None = None) -> list[str]:
    """Return the command inside; ``folder`` holds the course where nothing is confined."""
    values = {
        "AS": limits.memory,
        # Without a namespace of its own, all processes of the user count.
        "NPROC": limits.processes if folder is None else 1 << 20,
        "FSIZE": limits.disk,
        "NOFILE": 512,
        "CPU": int(limits.total) + 1,
        "uid": uid,
    }
    script = f"/grader/{INSIDE.name}" if folder is None else str(INSIDE)
    return [sys.executable, "-I", "-B", script, json.dumps(values), str(folder or "/course")]


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }


def _bound() -> list[Path]:
    """Return what the sandbox sees of this machine: the system's programs, Python, packages."""
    names = ("site-packages", "dist-packages")
    packages = [Path(path) for path in dict.fromkeys(sys.path) if Path(path).name in names]
    system = [Path(path) for path in ("/usr", "/etc/ld.so.cache", "/etc/alternatives")]
    return [*system, Path(sys.base_prefix), Path(sys.prefix), *packages]


def bound_above(path: Path) -> Path | None:
    """Return the folder that the sandbox sees and that a path is in, or None."""
    return next((seen for seen in _bound() if path.is_relative_to(seen.resolve())), None)


def _answers(bound: Sequence[Path]) -> list[Path]:
    """Return the copies of the course among what is bound: installed ones, and this one."""
    places = ["", "lib*/python3*/*-packages/", "local/lib*/python3*/*-packages/"]
    places += ["envs/*/lib/python3*/*-packages/"]  # conda's
    found = [copy for path in bound for place in places for copy in path.glob(f"{place}tlcourse")]
    for path in bound:
        if COURSE.is_relative_to(path.resolve()):
            found.append(path / COURSE.relative_to(path.resolve()))
    return [path for path in dict.fromkeys(found) if path.is_dir()]
