"""What may be in the repository, and what never."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from notebooks import ROOT

LARGEST = 1_000_000  # bytes
DATA = re.compile(
    r"\.(?:npz|npy|pt|pth|safetensors|ckpt|pkl|pickle|parquet|h5|hdf5|gz|zip|tar|tgz|csv|mat|"
    r"idx\d-ubyte)$|-ubyte$",
    re.IGNORECASE,
)
# Put together from parts, so that this file does not name what it looks for.
FOLDERS = "|".join(("home", "Users", "root", "work", "tmp", "mnt"))
MACHINE_PATH = re.compile(rf"(?<![\w./:$}})-])/(?:{FOLDERS})/[\w.]")
INDEX_HOST = re.compile(
    "|".join(("py" + r"pi\.org", "python" + r"hosted\.org", "ana" + r"conda\.org"))
    + r"|https?://\S+/simple\b"
)

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


@cache
def files() -> list[Path]:
    """Return what git tracks, and what it would if all were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    names = run.stdout.decode().split("\0")
    return sorted({ROOT / name for name in names if name and (ROOT / name).is_file()})


@cache
def texts() -> dict[str, str]:
    """Return the content of each text file, by name."""
    found = {}
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8")
    return found


def test_there_are_files():
    assert "pyproject.toml" in texts()


def test_no_data_set_is_in_the_repository():
    assert not [p.relative_to(ROOT).as_posix() for p in files() if DATA.search(p.name)]


def test_no_large_file_is_in_the_repository():
    large = [p.relative_to(ROOT).as_posix() for p in files() if p.stat().st_size > LARGEST]
    assert not large


def test_nothing_built_is_in_the_repository():
    built = ("_build/", ".venv/", "__pycache__/", ".ipynb_checkpoints/", ".egg-info/")
    assert not [name for name in texts() if any(part in f"{name}/" for part in built)]


def test_no_file_names_a_place_on_a_machine():
    found = [
        (name, m.group()) for name, text in texts().items() for m in MACHINE_PATH.finditer(text)
    ]
    assert not found


def test_no_file_names_a_package_index():
    found = [(name, m.group()) for name, text in texts().items() for m in INDEX_HOST.finditer(text)]
    assert not found


def test_the_lock_file_and_the_project_name_no_address_to_install_from():
    lock = texts()["requirements.lock"]
    assert not re.findall(r"https?://\S+|--\S*(?:index|links|trusted)\S*|\s@\s\S+", lock)
    project = tomllib.loads(texts()["pyproject.toml"])
    project["project"].pop("urls", None)
    assert "://" not in str(project)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /" + "home/ada/data", True),
        ('"/' + 'tmp/x"', True),
        ("https://example.org/" + "work/x", False),
        ("book/" + "work/x", False),
        ("$HOME/" + "tmp/x", False),
    ],
)
def test_machine_paths_are_recognised(text, found):
    assert bool(MACHINE_PATH.search(text)) is found
