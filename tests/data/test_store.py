from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
import os
import shutil
import time
from pathlib import Path

import pytest

from tlcourse._files import STALE

store = importlib.import_module("tlcourse.data.store")
Remote = store.Remote

BODY = bytes(range(256)) * 4000


def remote(*urls: str, body: bytes = BODY) -> object:
    return Remote("file.bin", urls, len(body), hashlib.md5(body).hexdigest())


def left(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones as well."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_places_in_their_order(tmp_path, monkeypatch, alone):
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "b"))
    assert store.places(tmp_path / "a") == [tmp_path / "a", tmp_path / "b", alone / "data"]
    assert store.places() == [tmp_path / "b", alone / "data"]
    monkeypatch.setenv("TLCOURSE_DATA", "")
    assert store.places() == [alone / "data"]


def test_places_expand_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.places("~/data")[0] == tmp_path / "data"


def test_a_place_that_is_a_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match=r"root is '.*file', a file"):
        store.places(file)
    monkeypatch.setenv("TLCOURSE_DATA", str(file))
    with pytest.raises(NotADirectoryError, match="TLCOURSE_DATA is"):
        store.places()


def test_root_is_a_path():
    with pytest.raises(TypeError, match="root must be the path of a folder, got 3"):
        store.places(3)


def test_without_a_cache_folder_the_other_places_do(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TLCOURSE_CACHE", str(file / "below"))
    assert store.places(tmp_path) == [tmp_path]
    with pytest.raises(OSError, match="TLCOURSE_CACHE"):
        store.places()


def test_first_place_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "b"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    def look(place):
        return store.Found(place, False) if (place / "x").exists() else None

    assert store.first(tmp_path / "a", look) is None
    (tmp_path / "b" / "x").touch()
    assert store.first(tmp_path / "a", look).folder == tmp_path / "b"
    (tmp_path / "a" / "x").touch()
    assert store.first(tmp_path / "a", look).folder == tmp_path / "a"


def test_a_place_that_may_not_be_read(tmp_path):
    def look(place):
        raise PermissionError(errno.EACCES, "Permission denied", str(place / "x"))

    with pytest.raises(PermissionError, match=r"x may not be read\. Change its permissions"):
        store.first(tmp_path, look)


def test_download(server, tmp_path):
    server.files["/file.bin"] = BODY
    target = tmp_path / "new" / "folder" / "file.bin"
    store.download(remote(server.url + "/file.bin"), target)
    assert target.read_bytes() == BODY
    assert left(tmp_path / "new") == ["file.bin"]


def test_next_address_after_one_that_fails(server, nowhere, tmp_path):
    server.files["/good"] = BODY
    server.files["/other"] = BODY[::-1]
    urls = [nowhere + "/x", server.url + "/absent", server.url + "/other", server.url + "/good"]
    store.download(remote(*urls), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert server.asked == ["/absent", "/other", "/good"]
    assert left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (BODY[:5000], "broke off after 5,000 of 1,024,000 bytes"),
        ((200, BODY[:5000], len(BODY)), "broke off after 5,000 of 1,024,000 bytes"),
        (BODY[::-1], "gave another file, of MD5 [0-9a-f]{32}, not [0-9a-f]{32}"),
        (BODY + b"more", "gave more than the 1,024,000 bytes"),
        (b"", "broke off after 0 of"),
        ((404, b"none", 4), "404"),
        ((503, b"busy", 4), "503"),
    ],
)
def test_a_wrong_answer_is_never_kept(server, tmp_path, entry, match):
    server.files["/f"] = entry
    with pytest.raises(store.DownloadError, match=match):
        store.download(remote(server.url + "/f"), tmp_path / "file.bin")
    assert left(tmp_path) == []


def test_no_network(nowhere, tmp_path):
    with pytest.raises(store.DownloadError, match=f"{nowhere}/f: .*refused"):
        store.download(remote(nowhere + "/f"), tmp_path / "file.bin")
    assert left(tmp_path) == []


def test_an_endless_answer_is_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_chunks", lambda url: iter(lambda: b"x" * 1000, None))
    with pytest.raises(store.DownloadError, match="gave more than"):
        store.download(remote("http://x"), tmp_path / "file.bin")


def test_no_space_is_seen_before(server, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"1 kB free, and 1.0 MB are needed") as info:
        store.download(remote(server.url + "/f"), tmp_path / "a" / "b" / "file.bin")
    assert info.value.errno == errno.ENOSPC
    assert server.asked == []
    assert not (tmp_path / "a").exists()


class Full:
    """A file on a disk that becomes full."""

    def __init__(self, file):
        self.file, self.room = file, 300_000

    def write(self, chunk):
        self.room -= len(chunk)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(chunk)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def test_disk_full_on_the_way(server, tmp_path, monkeypatch):
    server.files["/f"] = server.files["/g"] = BODY
    really = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: Full(really(self, mode)))
    with pytest.raises(OSError, match="Writing into .* failed: the disk is full") as info:
        store.download(remote(server.url + "/f", server.url + "/g"), tmp_path / "file.bin")
    assert info.value.errno == errno.ENOSPC
    assert server.asked == ["/f"]  # another address would not help
    assert left(tmp_path) == []


def test_disk_full_at_the_end_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def full(fd):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="your quota is used up"), store.writing(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"old"
    assert left(tmp_path) == ["file"]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def chunks(url):
        yield BODY[:1000]
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_chunks", chunks)
    with pytest.raises(KeyboardInterrupt):
        store.download(remote("http://x"), tmp_path / "file.bin")
    assert left(tmp_path) == []


def test_what_a_killed_download_left_is_removed_later(server, tmp_path):
    server.files["/f"] = BODY
    old, running = tmp_path / ".file.bin.aaaa.part", tmp_path / ".file.bin.bbbb.part"
    for part in (old, running):
        part.write_bytes(BODY)
    long_ago = time.time() - 2 * STALE
    os.utime(old, (long_ago, long_ago))
    store.download(remote(server.url + "/f"), tmp_path / "file.bin")
    assert left(tmp_path) == [".file.bin.bbbb.part", "file.bin"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"Writing into .* failed: it (lies below|is) a file"),
        store.writing(tmp_path / "file" / "x" / "y"),
    ):
        pass


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(PermissionError, match="you may not write there"),
        store.writing(tmp_path / "f"),
    ):
        pass


def test_read_checked(tmp_path):
    plain, packed = tmp_path / "f", tmp_path / "f.gz"
    plain.write_bytes(BODY)
    packed.write_bytes(gzip.compress(BODY))
    md5 = hashlib.md5(BODY).hexdigest()
    assert store.read_checked(plain, md5=md5, size=len(BODY)) == BODY
    assert store.read_checked(packed, md5=md5) == BODY
    plain.write_bytes(BODY[:-7])
    with pytest.raises(ValueError, match=r"truncated: 1,023,993 of 1,024,000 bytes\. Delete"):
        store.read_checked(plain, md5=md5, size=len(BODY))
    with pytest.raises(ValueError, match="not the original file: its MD5 sum is"):
        store.read_checked(plain, md5=md5)
    for broken in (packed.read_bytes()[:-9], b"no gzip at all", packed.read_bytes()[:50] + b"xx"):
        packed.write_bytes(broken)
        with pytest.raises(ValueError, match="truncated or damaged"):
            store.read_checked(packed, md5=md5)


def test_what_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError, match="It is a folder; the file must lie in its place"):
        store.read_checked(tmp_path, md5="")

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"cannot be read \(Permission denied\)"):
        store.read_checked(tmp_path / "f", md5="")
