"""The README's picture is taken of the built site, by a tool."""

from __future__ import annotations

import picture
import pytest
from notebooks import ROOT
from PIL import Image


def test_the_picture_has_the_size_that_the_tool_takes():
    with Image.open(picture.PICTURE) as image:
        assert image.size == picture.SIZE


def test_the_readme_shows_it():
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"({picture.PICTURE.relative_to(ROOT).as_posix()})" in text


@pytest.mark.parametrize("missing", ["browser", "site"])
def test_what_is_missing_is_said(missing, monkeypatch, capsys, tmp_path):
    if missing == "browser":
        monkeypatch.setattr(picture, "BROWSERS", ("no-such-browser",))
    else:
        monkeypatch.setattr(picture, "BROWSERS", ("python3",))
        monkeypatch.setattr(picture, "SITE", tmp_path)
    assert picture.main() == 1
    said = capsys.readouterr().err
    assert "no-such-browser" in said if missing == "browser" else "make book" in said
