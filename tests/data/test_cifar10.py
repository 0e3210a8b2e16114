from __future__ import annotations

import hashlib
import importlib
import io
import os
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tlcourse._files import STALE
from tlcourse.data import cifar10

module = importlib.import_module("tlcourse.data.cifar10")
classfolders = importlib.import_module("tlcourse.data.classfolders")
store = importlib.import_module("tlcourse.data.store")


def old_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """Return a batch as NumPy of 2009 wrote it under Python 2."""
    content = pickle.dumps({b"data": data, b"labels": labels}, protocol=2)
    content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    changed = content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")  # dtype("u1", 0, 1), no booleans
    assert changed != content
    return changed


@pytest.fixture
def small(monkeypatch, nowhere):
    """CIFAR-10 in batches of three images: data and labels by name, and the files."""
    random = np.random.default_rng(0)
    values, files = {}, {}
    for name in (*module.TRAIN, *module.TEST):
        values[name] = (
            random.integers(0, 256, (3, 3072), dtype=np.uint8),
            [int(k) for k in random.integers(0, 10, 3)],
        )
        files[name] = old_pickle(*values[name])
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(module, "TRAIN", {name: sums[name] for name in module.TRAIN})
    monkeypatch.setattr(module, "TEST", {name: sums[name] for name in module.TEST})
    files["batches.meta"] = b"meta"
    archive = store.Remote(module.ARCHIVE.name, (nowhere + "/a.tar.gz",), 1000, "0" * 32)
    monkeypatch.setattr(module, "ARCHIVE", archive)
    return values, files


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check(sets, values):
    train, test = sets
    names = [f"data_batch_{i}" for i in range(1, 6)]
    images = np.concatenate([values[name][0] for name in names])
    assert torch.equal(train.images, torch.from_numpy(images).view(15, 3, 32, 32).float() / 255)
    assert train.labels.tolist() == [k for name in names for k in values[name][1]]
    assert test.labels.tolist() == values["test_batch"][1]
    assert (train.name, test.name) == ("CIFAR-10", "CIFAR-10")
    assert train.classes[3] == "cat"


def test_the_known_sums_are_torchvisions():
    from torchvision.datasets import CIFAR10

    assert list(map(tuple, CIFAR10.train_list)) == list(module.TRAIN.items())
    assert list(map(tuple, CIFAR10.test_list)) == list(module.TEST.items())
    assert CIFAR10.tgz_md5 == module.ARCHIVE.md5
    assert CIFAR10.url in module.ARCHIVE.urls


@pytest.mark.parametrize(
    "below",
    [
        "cifar-10-batches-py",
        "cifar10/cifar-10-batches-py",
        "CIFAR-10/cifar-10-batches-py",
        "cifar-10-python/cifar-10-batches-py",
        ".",
    ],
)
def test_original_batches(small, tmp_path, below):
    values, files = small
    put(tmp_path / "data" / below, files)
    check(cifar10(tmp_path / "data", download=False), values)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_no_pickle_is_opened_before_its_sum_is_right(small, tmp_path):
    _, files = small
    bomb = Bomb()
    bomb.path = str(tmp_path / "exploded")
    files["data_batch_1"] = pickle.dumps(bomb)
    put(tmp_path / module.FOLDER, files)
    with pytest.raises(ValueError, match=r"data_batch_1 is not the original file: its MD5"):
        cifar10(tmp_path)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(files["data_batch_1"])
    assert (tmp_path / "exploded").exists()  # it would have


def test_an_incomplete_or_truncated_copy(small, tmp_path):
    _, files = small
    folder = put(tmp_path / module.FOLDER, files)
    (folder / "data_batch_4").write_bytes(files["data_batch_4"][:-1])
    with pytest.raises(ValueError, match="data_batch_4 is not the original"):
        cifar10(tmp_path)
    (folder / "data_batch_4").unlink()
    with pytest.raises(ValueError, match="lacks data_batch_4"):
        cifar10(tmp_path)


def tarball(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def served(small, server, monkeypatch):
    """The archive on a server; with a file in it that wants to lie elsewhere."""
    values, files = small
    body = tarball({f"{module.FOLDER}/{n}": c for n, c in files.items()} | {"../evil": b"x"})
    md5 = hashlib.md5(body).hexdigest()
    url = server.url + "/a.tar.gz"
    monkeypatch.setattr(module, "ARCHIVE", store.Remote("a.tar.gz", (url,), len(body), md5))
    server.files["/a.tar.gz"] = body
    return values, body


def test_download(served, server, tmp_path):
    values, _ = served
    check(cifar10(tmp_path / "data"), values)
    check(cifar10(tmp_path / "data"), values)
    assert server.asked == ["/a.tar.gz"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == [module.FOLDER]
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("where", ["half a download", "while unpacking"])
def test_an_interrupted_download_leaves_nothing(served, server, tmp_path, monkeypatch, where):
    values, body = served
    if where == "half a download":
        server.files["/a.tar.gz"] = (200, body[:100], len(body))
        with pytest.raises(FileNotFoundError, match="broke off after 100 of"):
            cifar10(tmp_path / "data")
    else:
        copy = module.shutil.copyfileobj
        calls = []

        def interrupted(source, target):
            calls.append(copy(source, target))
            if len(calls) == 3:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module.shutil, "copyfileobj", interrupted)
            with pytest.raises(KeyboardInterrupt):
                cifar10(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    server.files["/a.tar.gz"] = body
    check(cifar10(tmp_path / "data"), values)


def test_what_a_killed_download_left_is_removed_later(served, tmp_path):
    old, running = (tmp_path / f".{module.FOLDER}.{name}.part" for name in ("aaaa", "bbbb"))
    for part in (old, running):
        put(part / module.FOLDER, {"data_batch_1": b"half"})
    long_ago = time.time() - 2 * STALE
    os.utime(old, (long_ago, long_ago))
    check(cifar10(tmp_path), served[0])
    assert not old.exists()
    assert running.exists()


def test_no_space(served, server, tmp_path, monkeypatch):
    usage = module.shutil._ntuple_diskusage(10**9, 10**9 - 10**8, 10**8)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="100 MB free, and 190 MB are needed"):
        cifar10(tmp_path)
    assert server.asked == []


def test_nowhere_and_no_network(small, nowhere, alone):
    with pytest.raises(FileNotFoundError) as info:
        cifar10()
    for text in (str(alone / "data"), f"{nowhere}/a.tar.gz", "1 kB", "glyphs() and digits()"):
        assert text in str(info.value)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """CIFAR-10 as class folders: three JPEG files of each class for training, two for testing."""
    form = classfolders.Form("CIFAR-10", module.CLASSES, (3,) * 10, (2,) * 10, "RGB", 32)
    monkeypatch.setattr(module, "FORM", form)
    root = tmp_path / "data"
    for part, n in (("train", 3), ("test", 2)):
        for k, name in enumerate(module.CLASSES):
            folder = root / "cifar10" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (32, 32), (20 * k, 10 * i, 99)).save(
                    folder / f"{i:04}.jpg", quality=100
                )
            (folder / ".DS_Store").touch()
            (folder / "notes.txt").touch()
    return root


def test_class_folders(folders):
    train, test = cifar10(folders, download=False)
    assert train.name == "CIFAR-10 (JPEG)"
    assert train.images.shape == (30, 3, 32, 32)
    assert test.images.shape == (20, 3, 32, 32)
    assert train.labels.tolist() == [k for k in range(10) for _ in range(3)]
    middle = train.images[:, :, 16, 16] * 255
    want = torch.tensor([[20.0 * k, 10.0 * i, 99.0] for k in range(10) for i in range(3)])
    assert (middle - want).abs().max() <= 2


@pytest.mark.parametrize("name", ["CIFAR10", "cifar-10", "CIFAR-10", "."])
def test_class_folders_under_other_names(folders, name, tmp_path):
    (folders / "cifar10").rename(tmp_path / "moved")
    target = folders / name
    if name == ".":
        folders.rmdir()
    (tmp_path / "moved").rename(target)
    assert cifar10(folders, download=False)[1].name == "CIFAR-10 (JPEG)"


def test_the_decoded_copy_is_used_and_renewed(folders, alone, monkeypatch):
    first, _ = cifar10(folders)
    (kept,) = (alone / "decoded").iterdir()
    decode = classfolders._decode
    calls = []
    monkeypatch.setattr(classfolders, "_decode", lambda *a: calls.append(1) or decode(*a))
    assert torch.equal(cifar10(folders)[0].images, first.images)
    assert calls == []
    content = kept.read_bytes()
    changed = bytearray(content)
    changed[-5] ^= 1
    for broken in (b"", content[:-10], b"x" * 200, bytes(changed)):
        kept.write_bytes(broken)
        calls.clear()
        assert torch.equal(cifar10(folders)[0].images, first.images)
        assert calls == [1]
        assert torch.equal(cifar10(folders)[0].images, first.images)
        assert calls == [1]  # the renewed copy is whole
    Image.new("RGB", (32, 32), "white").save(folders / "cifar10/train/cat/0001.jpg")
    assert cifar10(folders)[0].images[10].min() == 1
    assert calls == [1, 1]


def test_without_room_for_the_decoded_copy_it_goes_on(folders, monkeypatch, alone):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.warns(UserWarning, match="decoded images are not kept: .*the disk is full"):
        train, _ = cifar10(folders)
    assert len(train) == 30
    assert list((alone / "decoded").iterdir()) == []


def test_without_a_cache_folder_it_goes_on(folders, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "file" / "x"))
    with pytest.warns(UserWarning, match="decoded images are not kept"):
        assert len(cifar10(folders)[0]) == 30


def test_an_incomplete_copy_is_named(folders):
    (folders / "cifar10/train/dog/0002.jpg").unlink()
    with pytest.raises(ValueError, match=r"train.dog holds 2 images; CIFAR-10 has 3 there"):
        cifar10(folders)


def test_a_link_that_leads_nowhere_is_named(folders, tmp_path):
    link = folders / "cifar10/train/dog/0002.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "no such file.jpg")
    with pytest.raises(ValueError, match=r"1 images of CIFAR-10 cannot be used: .*0002.jpg \(.*No"):
        cifar10(folders)


def test_a_folder_that_may_not_be_read_is_named(folders, monkeypatch):
    closed, really = folders / "cifar10/test/frog", os.scandir

    def scandir(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(classfolders.os, "scandir", scandir)
    with pytest.raises(PermissionError, match=r"test.frog may not be read. Change its permissions"):
        cifar10(folders)


def test_a_folder_in_the_place_of_a_batch(small, tmp_path):
    _, files = small
    folder = put(tmp_path / module.FOLDER, files)
    (folder / "data_batch_2").unlink()
    (folder / "data_batch_2").mkdir()
    with pytest.raises(IsADirectoryError, match=r"It is a folder.*data_batch_2"):
        cifar10(tmp_path)


def test_a_class_that_lacks_is_named(folders):
    for path in (folders / "cifar10/test/ship").iterdir():
        path.unlink()
    (folders / "cifar10/test/ship").rmdir()
    with pytest.raises(ValueError, match=r"test.ship holds 0 images"):
        cifar10(folders)


def test_broken_images_are_named(folders, alone):
    train = folders / "cifar10/train"
    (train / "cat/0000.jpg").write_bytes(b"nothing")
    whole = (train / "dog/0001.jpg").read_bytes()
    (train / "dog/0001.jpg").write_bytes(whole[:-20])
    Image.new("RGB", (31, 32)).save(train / "ship/0002.jpg")
    with pytest.raises(ValueError, match=r"3 images of CIFAR-10 cannot be used") as info:
        cifar10(folders)
    for text in ("cat", "dog", "truncated", "31 x 32 pixels, not 32"):
        assert text in str(info.value)
    assert not (alone / "decoded").exists()
