from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tlcourse.data import dsa
from tlcourse.data.windows import G

module = importlib.import_module("tlcourse.data.dsa")
ACTIVITIES = (3, 7)
NAMES = ("s01", "s03")


def values(activity: int, person: int, segment: int) -> np.ndarray:
    """A reading that tells its activity, person, segment, row and column."""
    row, column = np.meshgrid(np.arange(125), np.arange(45), indexing="ij")
    return activity * 1000 + person * 100 + segment * 10 + column / 8 + row / 1024


def write(folder: Path, names=NAMES) -> Path:
    for activity in ACTIVITIES:
        for person in range(1, 9):
            here = folder / f"a{activity:02}" / f"p{person}"
            here.mkdir(parents=True)
            for name in names:
                rows = values(activity, person, int(name[1:]))
                text = "\n".join(",".join(f"{v:.10g}" for v in row) for row in rows)
                (here / f"{name}.txt").write_text(text + "\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data" / "dsa" / "data")


@pytest.fixture
def root(folder):
    return folder.parents[1]


def test_segments_persons_and_labels(root):
    data = dsa(root, activities=ACTIVITIES)
    assert data.windows.shape == (32, 125, 6)
    assert (data.rate, data.units[0], data.units[3]) == (25, "m/s^2", "rad/s")
    assert data.classes == ("lying on the back", "standing in a lift")
    assert data.labels.tolist() == [0] * 16 + [1] * 16
    assert data.persons.tolist() == [p for p in range(1, 9) for _ in NAMES] * 2
    assert data.name == "DSA, torso (2 of 60 segments)"
    want = torch.from_numpy(values(7, 5, 3)[:, :6].astype(np.float32))
    assert torch.equal(data.windows[16 + 2 * 4 + 1], want)


@pytest.mark.parametrize(
    ("unit", "first"),
    [("torso", 0), ("right arm", 9), ("left arm", 18), ("right leg", 27), ("left leg", 36)],
)
def test_the_columns_of_a_unit(root, unit, first):
    data = dsa(root, unit=unit, activities=ACTIVITIES)
    want = torch.from_numpy(values(3, 1, 1)[:, first : first + 6].astype(np.float32))
    assert torch.equal(data.windows[0], want)
    assert unit in data.name
    in_g = dsa(root, unit=unit, activities=ACTIVITIES, matched=True)
    torch.testing.assert_close(in_g.windows[0, :, :3], want[:, :3] / G)
    assert torch.equal(in_g.windows[0, :, 3:], want[:, 3:])
    assert (in_g.rate, in_g.units[0], in_g.units[3]) == (25, "g", "rad/s")


def test_labels_follow_the_order_given(root):
    data = dsa(root, activities=(7, 3))
    assert data.classes == ("standing in a lift", "lying on the back")
    assert int(data.windows[data.labels == 0][0, 0, 0]) == 7110


def test_a_whole_copy_has_no_remark(folder, root, monkeypatch):
    monkeypatch.setattr(module, "SEGMENTS", 2)
    for path in folder.glob("*/*/s03.txt"):
        path.rename(path.with_name("s02.txt"))
    assert dsa(root, activities=ACTIVITIES).name == "DSA, torso"


@pytest.mark.parametrize("below", ["dsa/data", "dsa", "data", "."])
def test_where_it_is_looked_for(tmp_path, folder, below):
    target = tmp_path / "other" / below
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    assert len(dsa(tmp_path / "other", activities=ACTIVITIES)) == 32


def test_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError) as info:
        dsa(tmp_path)
    for text in (str(tmp_path), "archive.ics.uci.edu/dataset/256", "170 MB", "imu()", "dsa/data"):
        assert text in str(info.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: lines[:100], "s03.txt is truncated after line 100 of 125"),
        (lambda lines: [], "s03.txt is truncated after line 0 of 125"),
        (lambda lines: [*lines, lines[0]], "s03.txt, line 126: the file has 125 lines"),
        (lambda lines: [*lines[:9], lines[9][:-200], *lines[10:]], "line 10: .* numbers where"),
        (lambda lines: [*lines[:9], lines[9] + ",1", *lines[10:]], "line 10: 46 numbers where"),
        (
            lambda lines: [*lines[:9], lines[9].replace(",", ";", 1), *lines[10:]],
            "line 10: 44 numbers where there are 45",
        ),
        (
            lambda lines: [*lines[:9], "x" + lines[9], *lines[10:]],
            "line 10, column 1: 'x7430.008789.*' is no finite number",
        ),
        (
            lambda lines: [*lines[:9], "NaN" + lines[9][lines[9].index(",") :], *lines[10:]],
            "line 10, column 1: 'NaN' is no finite number",
        ),
        (
            lambda lines: [*lines[:9], lines[9][lines[9].index(",") :], *lines[10:]],
            "line 10, column 1: '' is no finite number",
        ),
    ],
)
def test_a_fault_is_named_with_its_line(folder, root, change, match):
    path = folder / "a07" / "p4" / "s03.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=match) as info:
        dsa(root, activities=ACTIVITIES)
    assert str(path) in str(info.value)


@pytest.mark.parametrize("name", ["s61.txt", "s00.txt", "s1.txt", "s001.txt", "x01.txt"])
def test_a_misnumbered_segment(folder, root, name):
    (folder / "a03" / "p2" / "s01.txt").rename(folder / "a03" / "p2" / name)
    with pytest.raises(ValueError, match=f"p2.{name} is misnumbered"):
        dsa(root, activities=ACTIVITIES)


def test_a_copy_that_is_not_complete(folder, root):
    path = folder / "a03" / "p2" / "s01.txt"
    text = path.read_text()
    path.unlink()
    with pytest.raises(ValueError, match=r"a03.p2 has 1 segments and another .* 2; .* is s01.txt"):
        dsa(root, activities=ACTIVITIES)
    (folder / "a03" / "p2" / "s02.txt").write_text(text)
    with pytest.raises(ValueError, match=r"a03.p2 has 2 segments and another .* 2; .* is s01.txt"):
        dsa(root, activities=ACTIVITIES)
    for left in (folder / "a03" / "p2").iterdir():
        left.unlink()
    (folder / "a03" / "p2").rmdir()
    with pytest.raises(ValueError, match=r"a03.p2 has 0 segments"):
        dsa(root, activities=ACTIVITIES)
    with pytest.raises(ValueError, match=r"a09.p1 has 0 segments"):
        dsa(root, activities=(7, 9))


def test_what_a_file_manager_leaves_is_no_segment(folder, root):
    (folder / "a03" / "p2" / "._s01.txt").write_bytes(b"\0\1")
    (folder / "a03" / "p2" / ".DS_Store").write_bytes(b"\0")
    assert len(dsa(root, activities=ACTIVITIES)) == 32


def test_parsed_once_for_all_units(root, monkeypatch):
    first = dsa(root, activities=ACTIVITIES)
    read = module.read_numbers
    monkeypatch.setattr(module, "read_numbers", lambda *_, **__: pytest.fail("parsed again"))
    assert dsa(root, activities=ACTIVITIES).fingerprint() == first.fingerprint()
    dsa(root, activities=ACTIVITIES, unit="left leg", matched=True)
    monkeypatch.setattr(module, "read_numbers", read)
    assert dsa(root, activities=(7, 3)).labels[0] == 0
    last = root / "dsa" / "data" / "a07" / "p8" / "s03.txt"
    last.write_text(last.read_text().replace("7830,", "7831,", 1))
    assert dsa(root, activities=ACTIVITIES).windows[-1, 0, 0] == 7831


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"unit": "arm"}, ValueError, "unit is 'arm'; it takes 'torso', 'right arm'"),
        ({"activities": (0, 3)}, ValueError, r"activities must be in \[1, 19\]"),
        ({"activities": (3,)}, ValueError, "at least 2 different"),
    ],
)
def test_refuses(given, error, match):
    with pytest.raises(error, match=match):
        dsa(**given)
