"""Submissions of a small assignment, things that they should not reach, and who is still alive."""

import contextlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from tlcourse.grading import grade as grading
from tlcourse.grading.assignment import load
from tlcourse.grading.sandbox import INSTALL, Sandbox

TOY = Path(__file__).with_name("toy")
GOT = "REACHED" + "-IT"  # what a probe prints when it got through
RIGHT = {
    "total": "def total(values):\n    return BASE * sum(values)",
    "scaled": "def scaled(values, factor):\n    return [factor * value for value in values]",
    "words": "An answer of my own.",
}


@pytest.fixture(autouse=True, scope="session")
def bubblewrap():
    """Nothing here is skipped in silence: without bubblewrap it fails, and says what to do."""
    if shutil.which("bwrap") is None:
        pytest.fail(f"These tests need bubblewrap: {INSTALL}", pytrace=False)


@pytest.fixture(scope="session")
def toy():
    return load(TOY)


def code(source, **metadata):
    return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": []}


def notebook(answers=None, *, first=(), last=(), change=None):
    """Return a submission's bytes: right answers but for those given (None: the cell is gone)."""
    answers = {**RIGHT, **(answers or {})}
    book = json.loads((TOY / "toy.ipynb").read_text())
    cells = []
    for cell in book["cells"]:
        name = cell["metadata"]["nbgrader"]["grade_id"]
        if name in answers:
            if answers[name] is None:
                continue
            cell["source"] = answers[name]
        cells.append(cell)
    head = [code(source) for source in first]
    book["cells"] = [*cells[:2], *head, *cells[2:], *(code(source) for source in last)]
    if change is not None:
        book = change(book) or book
    return json.dumps(book).encode()


class World:
    """What is outside of the sandbox and should stay untouched and unread."""

    def __init__(self, folder: Path) -> None:
        self.secret = "CANARY-7f3a"
        self.folder = folder
        for name in ("gradebook.db", "other/toy.ipynb", "source/tests.py", "seed"):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(self.secret)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.port = self.server.getsockname()[1]
        self.local = socket.socket(socket.AF_UNIX)
        self.local.bind(f"\0tlcourse-{os.getpid()}-{self.port}")
        self.local.listen()
        self.local.setblocking(False)
        self.namespaces: set[str] = set()
        self.before = self._state()

    def _state(self):
        return sorted(
            (str(p), p.read_bytes() if p.is_file() else b"") for p in self.folder.rglob("*")
        )

    def check(self, record):
        """Nothing was read, written or called, and no process of any sandbox is left."""
        told = json.dumps(record).replace(json.dumps(self.secret), "")
        shown = "".join(cell["output"] + cell["trace"] for cell in record["cells"])
        assert GOT not in shown, shown
        assert self.secret not in shown, told
        assert self._state() == self.before
        for server in (self.server, self.local):
            with pytest.raises(BlockingIOError):
                server.accept()
        assert self.alive() == []

    def alive(self):
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
                if str((path / "ns/pid").readlink()) in self.namespaces and state not in "ZX":
                    found.append((path / "cmdline").read_bytes())
        return found


@pytest.fixture
def world(tmp_path_factory, monkeypatch):
    """The world, and the environment with a secret in it."""
    world = World(tmp_path_factory.mktemp("outside"))
    monkeypatch.setenv("TLCOURSE_CANARY", world.secret)

    class Watched(Sandbox):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            assert self.child
            namespace = Path(f"/proc/{self.child}/ns/pid")
            # Held open, its number is given to no other sandbox, as of a test in another process.
            held.enter_context(namespace.open("rb"))
            world.namespaces.add(str(namespace.readlink()))

    monkeypatch.setattr(grading, "Sandbox", Watched)
    with world.server, world.local, contextlib.ExitStack() as held:
        yield world
