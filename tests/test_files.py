from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tlcourse._files import STALE, expand, part_of, remove_stale, writing


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expand("~/a/b") == tmp_path / "a" / "b"
    assert expand(Path("~")) == tmp_path
    assert expand("a~/b") == Path("a~/b")
    with pytest.raises(TypeError, match="checkpoint must be a path, got None"):
        expand(None, "checkpoint")


def test_no_home(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(OSError, match=r"out is '~/x', but there is no such home.*whole path"):
        expand("~/x", "out")


def test_every_write_has_a_name_of_its_own(tmp_path):
    names = {part_of(tmp_path / "file") for _ in range(100)}
    assert len(names) == 100
    assert {p.parent for p in names} == {tmp_path}


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    """The second one begins before the first ends, in one process: both succeed."""
    target = tmp_path / "file"
    begun, done = threading.Event(), threading.Event()

    def second():
        with writing(target) as file:
            begun.set()
            done.wait(60)
            file.write(b"second")

    other = threading.Thread(target=second)
    with writing(target) as file:
        other.start()
        assert begun.wait(60)
        file.write(b"first")
    assert target.read_bytes() == b"first"
    done.set()
    other.join()
    assert target.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left")])
def test_what_goes_wrong_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "new" / "file"
    with writing(target) as file:
        file.write(b"old")

    def fail():
        with writing(target) as file:
            file.write(b"ne")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError, OSError)) as caught:
        fail()
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]
    if isinstance(caught.value, OSError):
        assert caught.value.errno == 28
        assert caught.value.filename == str(target)
        assert "could not be written (No space left); one of that name from before" in str(
            caught.value
        )


def test_what_was_left_long_ago_goes(tmp_path):
    target = tmp_path / "file"
    old, folder, fresh = (part_of(target) for _ in range(3))
    other = part_of(tmp_path / "another")
    for part in (old, fresh, other):
        part.write_bytes(b"")
    folder.mkdir()
    (folder / "inside").write_bytes(b"")
    then = time.time() - STALE - 60
    for part in (old, folder, other):
        os.utime(part, (then, then))
    remove_stale(target)
    assert {p.name for p in tmp_path.iterdir()} == {fresh.name, other.name}
