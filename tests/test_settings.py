from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tlcourse import settings


def test_the_profile(monkeypatch):
    for value, expected in [(None, "quick"), ("", "quick"), ("quick", "quick"), ("full", "full")]:
        if value is None:
            monkeypatch.delenv("TLCOURSE_PROFILE", raising=False)
        else:
            monkeypatch.setenv("TLCOURSE_PROFILE", value)
        assert settings.current_profile() == expected
        assert settings.profile(quick=5, full=200) == (200 if expected == "full" else 5)


@pytest.mark.parametrize("value", ["fast", "QUICK", " full"])
def test_an_unknown_profile(monkeypatch, value):
    monkeypatch.setenv("TLCOURSE_PROFILE", value)
    with pytest.raises(ValueError, match=f"TLCOURSE_PROFILE is '{value}'; it takes .* Unset it"):
        settings.profile(quick=1, full=2)


def draws() -> tuple[float, float, float, list[float]]:
    return random.random(), float(np.random.rand()), float(torch.rand(())), torch.randn(3).tolist()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_seed_repeats_python_numpy_and_torch(seed):
    settings.seed_everything(seed)
    first = draws()
    second = draws()
    settings.seed_everything(seed)
    assert draws() == first
    assert all(a != b for a, b in zip(first, second, strict=True))
    settings.seed_everything(1)
    assert all(a != b for a, b in zip(first, draws(), strict=True))


@pytest.mark.parametrize(
    ("seed", "error"),
    [(-1, ValueError), (2**32, ValueError), (0.0, TypeError), (True, TypeError), ("0", TypeError)],
)
def test_a_wrong_seed_changes_nothing(seed, error):
    settings.seed_everything(3)
    first = draws()
    settings.seed_everything(3)
    with pytest.raises(error, match="seed must be"):
        settings.seed_everything(seed)
    assert draws() == first


def test_the_cache_folder_is_made_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "a" / "b"))
    assert settings.cache_dir() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    assert settings.cache_dir() == tmp_path / "a" / "b"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TLCOURSE_CACHE", "~/mine")
    assert settings.cache_dir() == tmp_path / "mine"


@pytest.mark.parametrize("unset", [True, False])
@pytest.mark.parametrize(
    ("platform", "variable", "below_home"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("darwin", None, "Library/Caches"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
    ],
)
def test_without_the_variable_it_is_the_users(
    tmp_path, monkeypatch, unset, platform, variable, below_home
):
    if unset:
        monkeypatch.delenv("TLCOURSE_CACHE", raising=False)
    else:
        monkeypatch.setenv("TLCOURSE_CACHE", "")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert settings.cache_dir() == tmp_path / "home" / below_home / "tlcourse"
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "chosen"))
        assert settings.cache_dir() == tmp_path / "chosen" / "tlcourse"


def test_a_cache_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for chosen in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("TLCOURSE_CACHE", str(chosen))
        with pytest.raises(OSError, match="cannot be made .* Set TLCOURSE_CACHE to a folder"):
            settings.cache_dir()


def test_a_user_without_a_home_folder(monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TLCOURSE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(OSError, match="Could not determine home.* Set TLCOURSE_CACHE to a folder"):
        settings.cache_dir()
