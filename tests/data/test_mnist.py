from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tlcourse.data import mnist

module = importlib.import_module("tlcourse.data.mnist")
store = importlib.import_module("tlcourse.data.store")


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return head + values.tobytes()


@pytest.fixture
def small(monkeypatch, nowhere):
    """MNIST with six and four images: its values, and the content of its files."""
    random = np.random.default_rng(0)
    values, files, parts = [], {}, []
    for part, n in zip(module.PARTS, (6, 6, 4, 4), strict=True):
        high = 10 if len(part.shape) == 1 else 256
        value = random.integers(0, high, (n, *part.shape[1:]), dtype=np.uint8)
        content = idx(value)
        packed = gzip.compress(content, mtime=0)
        md5 = hashlib.md5(content).hexdigest()
        packed_md5 = hashlib.md5(packed).hexdigest()
        parts.append(module.Part(part.name, value.shape, md5, len(packed), packed_md5))
        files[part.name] = content
        values.append(value)
    monkeypatch.setattr(module, "PARTS", tuple(parts))
    monkeypatch.setattr(module, "MIRRORS", (nowhere + "/",))
    return values, files


def put(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def check(sets, values):
    train, test = sets
    assert torch.equal(train.images, torch.from_numpy(values[0])[:, None].float() / 255)
    assert train.labels.tolist() == values[1].tolist()
    assert torch.equal(test.images, torch.from_numpy(values[2])[:, None].float() / 255)
    assert test.labels.tolist() == values[3].tolist()
    assert train.name == test.name == "MNIST"
    assert train.classes == tuple("0123456789")


def test_the_known_sizes_and_sums():
    sizes = [part.size for part in module.PARTS]
    assert sizes == [47_040_016, 60_008, 7_840_016, 10_008]
    assert sum(remote.size for remote in module.remotes()) == 11_594_722
    from torchvision.datasets import MNIST

    known = {(remote.name, remote.md5) for remote in module.remotes()}
    assert known == set(map(tuple, MNIST.resources))
    assert sum(module.FORM.train) == 60_000
    assert sum(module.FORM.test) == 10_000


@pytest.mark.parametrize("below", ["MNIST/raw", "mnist/raw", "raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_original_files(small, tmp_path, below, packed):
    values, files = small
    put(tmp_path / "data" / below, files, packed)
    check(mnist(tmp_path / "data", download=False), values)


def dotted(name: str) -> str:
    return name.replace("-idx", ".idx")


@pytest.mark.parametrize("below", ["MNIST/raw", "MNIST", "."])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "rename",
    [
        dotted,  # 7-Zip, macOS, Kaggle
        lambda name: f"{name}/{name}",  # unpacked into folders of the file's own name
        lambda name: f"{name}/{dotted(name)}",
        lambda name: f"{name}.gz/{name}",
    ],
)
def test_the_same_files_under_other_usual_names(small, tmp_path, below, packed, rename):
    values, files = small
    put(tmp_path / below, {}, packed)
    for name, content in files.items():
        path = tmp_path / below / (rename(name) + ".gz" * packed)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if packed else content)
    check(mnist(tmp_path, download=False), values)


def test_folders_of_the_files_names_that_hold_something_else(small, tmp_path):
    for part in module.PARTS:
        (tmp_path / "MNIST" / "raw" / part.name).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="MNIST is not on this machine"):
        mnist(tmp_path, download=False)


def test_by_the_variable_and_in_the_cache(small, tmp_path, monkeypatch, alone):
    values, files = small
    put(alone / "data" / "MNIST" / "raw", files)
    check(mnist(), values)
    put(tmp_path / "data" / "MNIST" / "raw", dict.fromkeys(files, b"broken"))
    monkeypatch.setenv("TLCOURSE_DATA", str(tmp_path / "data"))
    with pytest.raises(ValueError, match="truncated"):  # the variable comes before the cache
        mnist()


def test_download(small, server, tmp_path, monkeypatch, alone):
    values, files = small
    monkeypatch.setattr(module, "MIRRORS", (server.url + "/gone/", server.url + "/"))
    server.files = {f"/{name}.gz": gzip.compress(c, mtime=0) for name, c in files.items()}
    check(mnist(), values)
    raw = alone / "data" / "MNIST" / "raw"
    assert sorted(p.name for p in raw.iterdir()) == sorted(f"{name}.gz" for name in files)
    assert len(server.asked) == 8
    check(mnist(), values)
    assert len(server.asked) == 8  # found, not fetched again


def test_download_goes_on_where_it_broke_off(small, server, monkeypatch, tmp_path):
    values, files = small
    monkeypatch.setattr(module, "MIRRORS", (server.url + "/",))
    server.files = {f"/{name}.gz": gzip.compress(c, mtime=0) for name, c in files.items()}
    last = "/t10k-labels-idx1-ubyte.gz"
    body = server.files[last]
    server.files[last] = (200, body[:10], len(body))
    with pytest.raises(
        FileNotFoundError, match=r"MNIST without t10k-labels.* broke off after 10 of"
    ):
        mnist(tmp_path / "d")
    server.files[last] = body
    server.asked.clear()
    check(mnist(tmp_path / "d"), values)
    assert server.asked == [last]


def test_nowhere_and_no_network(small, nowhere, tmp_path, alone):
    with pytest.raises(FileNotFoundError) as info:
        mnist(tmp_path / "typo")
    text = str(info.value)
    assert f"{tmp_path / 'typo'} - which does not exist" in text
    assert str(alone / "data") in text
    assert f"{nowhere}/train-images-idx3-ubyte.gz" in text
    assert "refused" in text
    assert "The download has " in text
    assert "digits()" in text
    assert "TLCOURSE_DATA" in text


def test_nowhere_and_no_download(small, nowhere):
    with pytest.raises(FileNotFoundError, match=f"no download was asked for .from {nowhere}"):
        mnist(download=False)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda c: c[:-1], r"truncated: \d+ of [\d,]+ bytes"),
        (lambda c: b"", "truncated: 0 of"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "not the original file: its MD5"),
        (lambda c: c + b"x", "not the original file"),
    ],
)
def test_a_damaged_file_is_named_and_kept(small, tmp_path, damage, match):
    _, files = small
    raw = put(tmp_path / "MNIST" / "raw", files)
    name = "train-labels-idx1-ubyte"
    content = damage(files[name])
    (raw / name).write_bytes(content)
    with pytest.raises(ValueError, match=match) as info:
        mnist(tmp_path)
    assert str(raw / name) in str(info.value)
    assert (raw / name).read_bytes() == content


def test_an_incomplete_folder(small, tmp_path):
    _, files = small
    raw = put(tmp_path / "MNIST" / "raw", files)
    (raw / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="MNIST without t10k-images-idx3-ubyte.gz"):
        mnist(tmp_path, download=False)


def test_a_file_where_the_folder_should_be(small, tmp_path):
    file = tmp_path / "data"
    file.touch()
    with pytest.raises(NotADirectoryError, match=r"root is .*, a file"):
        mnist(file)


def test_an_unreadable_file(small, tmp_path, monkeypatch):
    _, files = small
    put(tmp_path / "MNIST" / "raw", files)

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"cannot be read \(Permission denied\)"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("folder", "train", "test"),
    [("MNIST", "train", "test"), ("mnist_png", "training", "testing"), (".", "training", "test")],
)
def test_class_folders(small, tmp_path, monkeypatch, folder, train, test):
    form = module.classfolders.Form("MNIST", module.CLASSES, (2,) * 10, (1,) * 10, "L", 28)
    monkeypatch.setattr(module, "FORM", form)
    for part, n in ((train, 2), (test, 1)):
        for k in range(10):
            here = tmp_path / folder / part / str(k)
            (here / "@eaDir").mkdir(parents=True)
            for i in range(n):
                Image.new("L", (28, 28), 20 * k + i).save(here / f"{i}.png")
            for other in ("._0.png", "Thumbs.db", ".DS_Store"):
                (here / other).write_bytes(b"x")
    train, test = mnist(tmp_path, download=False)
    assert train.name == "MNIST (PNG)"
    assert train.labels.tolist() == [k for k in range(10) for _ in range(2)]
    want = torch.tensor([20.0 * k + i for k in range(10) for i in range(2)]) / 255
    assert torch.equal(train.images[:, 0, 5, 5], want)
    assert test.images.shape == (10, 1, 28, 28)
