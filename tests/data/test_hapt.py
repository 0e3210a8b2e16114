from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tlcourse.data import hapt

module = importlib.import_module("tlcourse.data.hapt")
LABELS = [
    # experiment, user, activity, first and last sample, counted from 1
    (1, 1, 5, 11, 135),  # 125 samples: one window
    (1, 1, 7, 136, 200),
    (1, 1, 4, 201, 387),  # 187 samples: two windows
    (2, 1, 1, 1, 248),  # 248 samples: two windows, and one sample less than three
    (3, 2, 5, 51, 174),  # 124 samples: none
    (3, 2, 6, 200, 600),  # 401 samples: five windows
]
LENGTHS = {(1, 1): 400, (2, 1): 248, (3, 2): 600}


def ramp(recording: int, n: int) -> np.ndarray:
    """A reading that tells where it comes from: the sample's number, the recording, the channel."""
    i = np.arange(1, n + 1)
    return np.stack([i, 0 * i + recording, -i, 1000 + i, i / 8, 0 * i], axis=1).astype(float)


def write(folder: Path) -> Path:
    raw = folder / "hapt" / "RawData"
    raw.mkdir(parents=True)
    for (experiment, user), n in LENGTHS.items():
        values = ramp(experiment, n)
        for kind, part in (("acc", values[:, :3]), ("gyro", values[:, 3:])):
            lines = "\n".join(" ".join(f"{v:g}" for v in row) for row in part)
            (raw / f"{kind}_exp{experiment:02}_user{user:02}.txt").write_text(lines + "\n")
    (raw / "labels.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in LABELS))
    return raw


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "data")


@pytest.fixture
def root(raw):
    return raw.parents[1]


def edit(path: Path, line: int, text: str | None) -> None:
    """Replace a line, counted from 1, or drop it and all after it."""
    lines = path.read_text().splitlines()
    lines = lines[: line - 1] if text is None else [*lines[: line - 1], text, *lines[line:]]
    path.write_text("\n".join(lines) + "\n")


def test_windows_lie_inside_one_segment(root):
    data = hapt(root)
    assert (data.name, data.rate, data.units[0], data.units[3]) == ("HAPT", 50, "g", "rad/s")
    assert data.channels == ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
    starts = data.windows[:, 0, 0].int().tolist()
    assert starts == [11, 201, 263, 1, 63, 200, 262, 324, 386, 448]
    assert data.windows[:, 0, 1].int().tolist() == [1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert [data.classes[k] for k in data.labels] == (
        ["standing", "sitting", "sitting", "walking", "walking"] + ["lying"] * 5
    )
    assert data.persons.tolist() == [1] * 5 + [2] * 5
    for start, recording, window in zip(
        starts, data.windows[:, 0, 1].int(), data.windows, strict=True
    ):
        values = ramp(int(recording), 1000)[start - 1 : start + 124]
        torch.testing.assert_close(window, torch.from_numpy(values.astype(np.float32)))


def test_matched_is_half_the_rate_inside_the_same_segments(root):
    data = hapt(root, matched=True)
    assert (data.rate, data.units[0]) == (25, "g")
    # Of 401 samples from 200, counted from 1: those at 201, 203 ... are 200 at 25 Hz.
    assert data.windows.shape == (2, 125, 6)
    numbers = data.windows[:, :, 0]
    torch.testing.assert_close(numbers[0], torch.arange(201, 451, 2).float(), atol=1e-2, rtol=0)
    torch.testing.assert_close(numbers[1, 0], torch.tensor(201 + 124.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(data.windows[:, :, 1], torch.full((2, 125), 3.0))


def test_activities_and_hop(root):
    data = hapt(root, activities=(6, 7, 4), hop=1)
    assert data.classes == ("lying", "stand to sit", "sitting")
    assert data.labels.bincount(minlength=3).tolist() == [401 - 124, 0, 187 - 124]
    with pytest.raises(ValueError, match=r"No segment of 'stand to sit', .* lasts 2.5 s"):
        hapt(root, activities=(7, 8))


@pytest.mark.parametrize("below", ["hapt", "HAPT Data Set", "hapt/HAPT Data Set", "."])
def test_where_it_is_looked_for(tmp_path, raw, below, monkeypatch, alone):
    for place in (tmp_path / "other", alone / "data"):
        target = place / below / "RawData"
        target.parent.mkdir(parents=True, exist_ok=True)
        raw.rename(target)
        if place == alone / "data":
            assert len(hapt()) == 10
        else:
            assert len(hapt(place)) == 10
            monkeypatch.setenv("TLCOURSE_DATA", str(place))
            assert len(hapt()) == 10
            monkeypatch.delenv("TLCOURSE_DATA")
        target.rename(raw)


def test_nowhere(tmp_path, alone):
    with pytest.raises(FileNotFoundError) as info:
        hapt(tmp_path / "typo")
    text = str(info.value)
    assert f"{tmp_path / 'typo'} - which does not exist" in text
    assert str(alone / "data") in text
    assert "archive.ics.uci.edu/dataset/341" in text
    assert "80 MB" in text
    assert "imu()" in text
    assert "TLCOURSE_DATA" in text
    assert "no checksum is published" in text


ACC = "acc_exp03_user02.txt"


@pytest.mark.parametrize(
    ("name", "line", "text", "match"),
    [
        (ACC, 7, "0.1 0.2", r"acc_exp03_user02.txt, line 7: 2 numbers where there are 3"),
        (ACC, 7, "0.1 0.2 0.3 0.4", "line 7: 4 numbers where there are 3"),
        (ACC, 7, "", "line 7: 0 numbers"),
        (ACC, 7, "0.1 O.2 0.3", r"line 7, column 2: 'O.2' is no finite number"),
        (ACC, 7, "0.1 0.2 nan", r"line 7, column 3: 'nan' is no finite number"),
        (ACC, 7, "inf 0.2 0.1", r"line 7, column 1: 'inf' is no finite number"),
        (ACC, 7, "0.1 0_2 0.3", r"line 7, column 2: '0_2' is no finite number"),
        (ACC, 7, "0.1 é 0.3", r"line 7: not text but byte 0xc3"),
        (ACC, 590, None, "acc_exp03_user02.txt is truncated after line 589: gyro_exp03.* has 600"),
        (ACC, 1, None, "acc_exp03_user02.txt is truncated after line 0"),
        ("gyro_exp01_user01.txt", 300, None, "gyro_exp01_user01.txt is truncated after line 299"),
        ("labels.txt", 4, "2 1 1 1 249", "labels.txt, line 4: the segment ends at 249, but .* 248"),
        ("labels.txt", 4, "2 1 1 0 248", "labels.txt, line 4: first sample is 0; it takes 1 to"),
        ("labels.txt", 4, "2 1 13 1 248", "line 4: activity is 13; it takes 1 to 12"),
        ("labels.txt", 4, "2 1 1.5 1 248", "line 4: activity is 1.5"),
        ("labels.txt", 4, "2 1 1 9 8", "line 4: the segment ends at 8, before it starts at 9"),
        ("labels.txt", 4, "2 2 1 1 248", "line 4: there is no recording acc_exp02_user02.txt"),
        ("labels.txt", 4, "2 1 1 248", "labels.txt, line 4: 4 numbers where there are 5"),
        ("labels.txt", 4, "2 1 1 1 x", "labels.txt, line 4, column 5: 'x' is no finite number"),
        ("labels.txt", 5, None, "labels.txt is truncated after line 4, or acc_exp03_user02.txt is"),
    ],
)
def test_a_fault_is_named_with_its_line(raw, root, name, line, text, match):
    edit(raw / name, line, text)
    with pytest.raises(ValueError, match=match) as info:
        hapt(root)
    assert str(raw) in str(info.value)
    edit(raw / "labels.txt", 1, "1 1 5 11 135")  # the error is not a matter of a later change


def test_files_that_are_missing_or_misnumbered(raw, root):
    (raw / "gyro_exp02_user01.txt").rename(raw / "gyro_exp02_user09.txt")
    with pytest.raises(ValueError, match="acc_exp02_user01.txt is there, but gyro_exp02_user01"):
        hapt(root)
    (raw / "acc_exp02_user01.txt").rename(raw / "acc_exp02_user09.txt")
    with pytest.raises(ValueError, match=r"labels.txt, line 4: there is no recording acc_exp02_us"):
        hapt(root)
    (raw / "acc_exp02_user09.txt").rename(raw / "acc_exp2_user9.txt")
    with pytest.raises(ValueError, match="acc_exp2_user9.txt is misnumbered"):
        hapt(root)
    (raw / "labels.txt").unlink()
    (raw / "acc_exp2_user9.txt").unlink()
    (raw / "gyro_exp02_user09.txt").unlink()
    with pytest.raises(ValueError, match="lacks labels.txt"):
        hapt(root)
    for path in raw.iterdir():
        path.unlink()
    (raw / "labels.txt").write_text("1 1 5 11 135\n")
    with pytest.raises(ValueError, match="holds no recording"):
        hapt(root)


def test_an_unreadable_file(raw, root, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"cannot be read \(Permission denied\)"):
        hapt(root)


def test_parsed_once_but_never_answered_with_old_numbers(raw, root, monkeypatch, alone):
    import os

    first = hapt(root)
    read = module.read_numbers
    monkeypatch.setattr(module, "read_numbers", lambda *_, **__: pytest.fail("parsed again"))
    assert hapt(root).fingerprint() == first.fingerprint()
    assert len(hapt(root, activities=(5, 6), hop=31)) > 0  # of the same parse
    monkeypatch.setattr(module, "read_numbers", read)
    path = raw / ACC
    before = path.stat()
    text = path.read_text()
    path.write_text(text.replace("250 3 -250", "251 3 -250"))  # as long, and as old
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert hapt(root).windows[5, 50, 0] == 251
    path.write_text(text)
    assert hapt(root).fingerprint() == first.fingerprint()
    assert len(list((alone / "parsed").iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b[: len(b) // 3] + bytes(999) + b[len(b) // 3 + 999 :]],
)
def test_a_broken_cache_is_parsed_again(root, alone, damage, monkeypatch):
    first = hapt(root).fingerprint()
    (kept,) = (alone / "parsed").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert hapt(root).fingerprint() == first
    monkeypatch.setattr(module, "read_numbers", lambda *_, **__: pytest.fail("parsed again"))
    assert hapt(root).fingerprint() == first  # it was mended


def test_without_room_for_the_cache(root, alone, monkeypatch):
    alone.mkdir(exist_ok=True)
    (alone / "parsed").touch()  # a file where the folder should be
    with pytest.warns(UserWarning, match="parsed recordings are not kept"):
        assert len(hapt(root)) == 10


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"activities": (1,)}, ValueError, "at least 2 different numbers"),
        ({"activities": (1, 1)}, ValueError, "at least 2 different numbers"),
        ({"activities": (1, 13)}, ValueError, r"activities must be in \[1, 12\], got 13"),
        ({"activities": "12"}, TypeError, "must be a sequence of numbers"),
        ({"activities": 5}, TypeError, "must be a sequence of numbers"),
        ({"activities": (1, "2")}, TypeError, "activities must be an integer"),
        ({"hop": 0}, ValueError, "hop must be at least 1"),
    ],
)
def test_refuses(given, error, match):
    with pytest.raises(error, match=match):
        hapt(**given)
