from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tlcourse.data import uci_har

module = importlib.import_module("tlcourse.data.uci_har")
LABELS = {"train": [1, 6, 3], "test": [2, 5]}
PERSONS = {"train": [1, 1, 30], "test": [2, 4]}
SIGNALS = [f"{s}_{a}" for s in ("body_acc", "total_acc", "body_gyro") for a in "xyz"]


def values(part: str, name: str) -> np.ndarray:
    n = len(LABELS[part])
    start = 1000 * SIGNALS.index(name) + 200 * np.arange(n)[:, None] + (part == "test") * 50
    return start + np.arange(128) / 4.0


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data" / "UCI HAR Dataset"
    for part in LABELS:
        inertial = folder / part / "Inertial Signals"
        inertial.mkdir(parents=True)
        for name in SIGNALS:
            rows = values(part, name)
            text = "\n".join(" " + " ".join(f"{v: .7e}" for v in row) for row in rows)
            (inertial / f"{name}_{part}.txt").write_text(text + "\n")
        (folder / part / f"y_{part}.txt").write_text("\n".join(map(str, LABELS[part])) + "\n")
        people = "\n".join(map(str, PERSONS[part])) + "\n"
        (folder / part / f"subject_{part}.txt").write_text(people)
    return folder


@pytest.fixture
def root(folder):
    return folder.parent


@pytest.mark.parametrize("acceleration", ["total", "body"])
def test_the_parts_as_published(root, acceleration):
    train, test = uci_har(root, acceleration=acceleration)
    for part, data in (("train", train), ("test", test)):
        assert data.windows.shape == (len(LABELS[part]), 125, 6)
        for c, name in enumerate(
            [f"{acceleration}_acc_{a}" for a in "xyz"] + [f"body_gyro_{a}" for a in "xyz"]
        ):
            want = torch.from_numpy(values(part, name)[:, :125].astype(np.float32))
            torch.testing.assert_close(data.windows[:, :, c], want)
        assert (data.labels + 1).tolist() == LABELS[part]
        assert data.persons.tolist() == PERSONS[part]
        assert (data.rate, data.units[0], data.units[3]) == (50, "g", "rad/s")
    assert [train.classes[k] for k in train.labels] == ["walking", "lying", "walking downstairs"]
    assert train.name == ("UCI HAR" if acceleration == "total" else "UCI HAR, without gravity")


def test_matched(root):
    train, _ = uci_har(root, matched=True)
    assert train.windows.shape == (3, 64, 6)
    assert train.rate == 25
    want = torch.from_numpy(values("train", "total_acc_y")[:, ::2].astype(np.float32))
    torch.testing.assert_close(train.windows[:, :, 1], want, atol=1e-3, rtol=0)


def test_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError) as info:
        uci_har(tmp_path)
    for text in (str(tmp_path), "archive.ics.uci.edu/dataset/240", "61 MB", "imu()"):
        assert text in str(info.value)


def edit(path: Path, line: int, text: str | None) -> None:
    lines = path.read_text().splitlines()
    lines = lines[: line - 1] if text is None else [*lines[: line - 1], text, *lines[line:]]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "line", "text", "match"),
    [
        ("y_train.txt", 2, "7", "y_train.txt, line 2: activity is 7; it takes 1 to 6"),
        ("y_train.txt", 2, "0", "y_train.txt, line 2: activity is 0"),
        ("y_train.txt", 2, "2.5", "line 2: activity is 2.5"),
        ("y_train.txt", 3, None, "subject_train.txt, line 3: the file has 2 lines"),
        ("subject_train.txt", 3, None, "subject_train.txt is truncated after line 2 of 3"),
        ("subject_train.txt", 1, "31", "line 1: person is 31; it takes 1 to 30"),
        ("Inertial Signals/total_acc_y_train.txt", 3, None, "truncated after line 2 of 3"),
        ("Inertial Signals/body_gyro_z_train.txt", 2, "1 2", "line 2: 2 numbers .* are 128"),
        (
            "Inertial Signals/body_gyro_z_train.txt",
            2,
            " ".join(["1"] * 127 + ["z"]),
            "body_gyro_z_train.txt, line 2, column 128: 'z' is no finite number",
        ),
    ],
)
def test_a_fault_is_named_with_its_line(folder, root, name, line, text, match):
    edit(folder / "train" / name, line, text)
    with pytest.raises(ValueError, match=match) as info:
        uci_har(root)
    assert str(folder / "train") in str(info.value)


def test_a_person_in_both_parts(folder, root):
    edit(folder / "test" / "subject_test.txt", 2, "30")
    with pytest.raises(ValueError, match=r"subject_test.txt names persons \[30\], who are in"):
        uci_har(root)


def test_a_missing_file(folder, root):
    (folder / "test" / "Inertial Signals" / "total_acc_z_test.txt").unlink()
    uci_har(root, acceleration="body")  # which does not need it
    with pytest.raises(ValueError, match="lacks total_acc_z_test.txt"):
        uci_har(root)


def test_parsed_once_for_both_rates(root, monkeypatch):
    first = uci_har(root)[1].fingerprint()
    monkeypatch.setattr(module, "read_numbers", lambda *_, **__: pytest.fail("parsed again"))
    assert uci_har(root)[1].fingerprint() == first
    uci_har(root, matched=True)


def test_a_file_that_changed_is_parsed_again(folder, root):
    uci_har(root)
    edit(folder / "test" / "y_test.txt", 2, "4")
    edit(folder / "test" / "Inertial Signals" / "body_gyro_z_test.txt", 2, " ".join(["7"] * 128))
    _, test = uci_har(root)
    assert test.classes[test.labels[1]] == "sitting"
    assert (test.windows[1, :, 5] == 7).all()


def test_refuses():
    with pytest.raises(ValueError, match="acceleration is 'gravity'; it takes 'total', 'body'"):
        uci_har(acceleration="gravity")
