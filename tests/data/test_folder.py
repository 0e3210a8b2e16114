from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tlcourse.data import image_folder, load_image

module = importlib.import_module("tlcourse.data.folder")


@pytest.fixture
def pets(tmp_path) -> Path:
    """Twenty photos in two folders, and what else lies in such folders."""
    root = tmp_path / "pets"
    random = np.random.default_rng(0)
    for name in ("dog", "cat"):
        (root / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (30 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.{'png' if i % 2 else 'jpg'}")
        for other in (".DS_Store", "notes.txt", "._0.jpg", "Thumbs.db"):
            (root / name / other).write_bytes(b"x")
    (root / "readme.md").touch()
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    return root


def test_twenty_photos_in_two_folders(pets):
    data = image_folder(pets, size=32)
    assert data.images.shape == (20, 3, 32, 32)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0] * 10 + [1] * 10
    assert data.name == "pets"
    assert torch.equal(data.images[3], load_image(pets / "cat" / "3.png", size=32))
    assert torch.equal(data.images[14], load_image(pets / "dog" / "4.jpg", size=32))
    assert data.fingerprint() == image_folder(str(pets), size=32).fingerprint()


def test_images_deeper_down_count(pets):
    (pets / "cat" / "summer").mkdir()
    (pets / "cat" / "0.jpg").rename(pets / "cat" / "summer" / "0.JPG")
    (pets / "cat" / ".thumbnails").mkdir()
    (pets / "cat" / ".thumbnails" / "0.jpg").write_bytes(b"x")
    assert len(image_folder(pets, size=8)) == 20


def test_a_link_is_followed_as_a_folder_is(pets, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(elsewhere / "deep" / "one.png")
    (pets / "cat" / "more").symlink_to(elsewhere)
    (pets / "dog" / "linked.png").symlink_to(elsewhere / "deep" / "one.png")
    (pets / "horse").symlink_to(elsewhere)
    data = image_folder(pets, size=8)
    assert data.classes == ("cat", "dog", "horse")
    assert data.labels.bincount().tolist() == [11, 11, 1]


def test_a_link_that_leads_back_up_ends(pets):
    (pets / "cat" / "again").symlink_to(pets / "cat")
    (pets / "dog" / "all").mkdir()
    (pets / "dog" / "all" / "up").symlink_to(pets / "dog")
    assert len(image_folder(pets, size=8)) == 20


def test_a_link_that_leads_nowhere_is_named(pets, tmp_path):
    (pets / "cat" / "gone.jpg").symlink_to(tmp_path / "no such file.jpg")
    with pytest.raises(ValueError, match=r"1 file of 21 cannot be used: .*gone\.jpg \(.*No such"):
        image_folder(pets, size=8)


@pytest.mark.parametrize(
    "clutter",
    ["@eaDir", "#recycle", "$RECYCLE.BIN", "@Recycle", "lost+found", ".Trash-1000", "__MACOSX"],
)
def test_what_drives_keep_beside_photos_is_no_photo_and_no_class(pets, clutter):
    for above in (pets, pets / "cat", pets / "cat" / "summer"):
        (above / clutter / "photo.jpg").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(above / clutter / "photo.jpg" / "small.jpg")
        Image.new("RGB", (9, 9)).save(above / clutter / "other.jpg")
    data = image_folder(pets, size=8)
    assert data.classes == ("cat", "dog")
    assert len(data) == 20


@pytest.mark.parametrize("name", ["#1", "@home", "$", "recycle"])
def test_a_class_may_have_an_odd_name(pets, name):
    (pets / "dog").rename(pets / name)
    assert set(image_folder(pets, size=8).classes) == {"cat", name}


@pytest.mark.parametrize("name", ["photo.CR2", "photo.dng", "photo.nef", "photo.jxl"])
def test_a_photograph_in_a_form_that_cannot_be_read_is_named(pets, name):
    (pets / "cat" / name).write_bytes(b"raw pixels")
    with pytest.raises(ValueError, match=rf"{name} \(no image, or of an unknown format"):
        image_folder(pets, size=8)


@pytest.mark.parametrize("below", ["", "dog", "dog/inside"])
def test_a_folder_that_may_not_be_read_is_named(pets, monkeypatch, below):
    closed, really = pets / below, Path.iterdir
    closed.mkdir(exist_ok=True)

    def iterdir(self):
        if self == closed:
            raise PermissionError(13, "Permission denied", str(self))
        return really(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError, match="may not be read. Change its permissions") as error:
        image_folder(pets, size=8)
    assert str(closed) in str(error.value)


@pytest.fixture
def fruit(tmp_path) -> Path:
    """A set in two parts; the second lacks a class."""
    colours = {"apple": "red", "kiwi": "lime", "plum": "blue"}
    for part, names in (("train", colours), ("test", ("apple", "plum"))):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), colours[name]).save(tmp_path / part / name / "1.png")
    return tmp_path


def test_a_label_means_the_same_in_both_parts_of_a_set(fruit):
    train, test = (image_folder(fruit / part, size=8) for part in ("train", "test"))
    assert test.classes == train.classes == ("apple", "kiwi", "plum")
    assert test.labels.tolist() == [0, 2]
    # The same by hand, wherever the folders lie.
    (fruit / "test").rename(fruit / "from my phone")
    assert image_folder(fruit / "from my phone", size=8).classes == ("apple", "plum")
    data = image_folder(fruit / "from my phone", size=8, classes=train.classes)
    assert (data.classes, data.labels.tolist()) == (train.classes, [0, 2])


def test_classes_in_an_order_of_ones_own(fruit):
    data = image_folder(fruit / "train", size=8, classes=["plum", "apple", "fig", "kiwi"])
    assert data.classes == ("plum", "apple", "fig", "kiwi")
    assert data.labels.tolist() == [0, 1, 3]
    assert data.images[0, 2].min() == 1  # the plum is blue
    with pytest.raises(ValueError, match="different names"):
        image_folder(fruit / "train", size=8, classes=["plum", "plum"])
    with pytest.raises(TypeError, match="a sequence of names, got 'apple'"):
        image_folder(fruit / "train", size=8, classes="apple")


def test_the_other_names_of_the_parts(fruit):
    (fruit / "train").rename(fruit / "Training")
    (fruit / "test").rename(fruit / "VAL")
    assert image_folder(fruit / "VAL", size=8).classes == ("apple", "kiwi", "plum")


def test_a_class_that_the_training_set_lacks(fruit):
    (fruit / "test" / "plum").rename(fruit / "test" / "plums")
    with pytest.raises(
        ValueError,
        match=r"1 sub-folder of no known class: plums\. .*apple, kiwi, plum\. Did you mean 'plum'",
    ):
        image_folder(fruit / "test", size=8)


def test_a_test_of_a_single_class(fruit):
    (fruit / "test" / "plum" / "1.png").unlink()
    with pytest.raises(ValueError, match="1 class of .* without an image: plum"):
        image_folder(fruit / "test", size=8)
    (fruit / "test" / "plum").rmdir()
    assert image_folder(fruit / "test", size=8).labels.tolist() == [0]
    (fruit / "test" / "apple" / "1.png").rename(fruit / "test" / "1.png")
    (fruit / "test" / "apple").rmdir()
    with pytest.raises(ValueError, match="has no sub-folder; it takes one for each class"):
        image_folder(fruit / "test", size=8)


def test_skipping_empties_no_class_of_the_folder_but_others_may_be_absent(fruit):
    (fruit / "test" / "apple" / "2.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match="Going on without 1 file of 3"):
        data = image_folder(fruit / "test", size=8, skip_broken=True)
    assert data.labels.tolist() == [0, 2]


def test_the_middle_square_is_scaled(tmp_path):
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "high.png")
    for name in ("wide.png", "high.png"):
        got = load_image(tmp_path / name, size=20)
        assert (got[0] == 1).all()
        assert (got[1:] == 0).all()


def test_scaling_averages_instead_of_picking(tmp_path):
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    got = load_image(tmp_path / "board.png", size=16)
    assert (got - 0.5).abs().max() < 0.02


@pytest.mark.parametrize(
    ("mode", "colour", "want"),
    [
        ("L", 51, (51, 51, 51)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (255, 0, 0, 128), (255, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 40, (40, 40, 40)),
    ],
)
def test_modes(tmp_path, mode, colour, want):
    Image.new(mode, (40, 30), colour).save(tmp_path / "x.png")
    got = load_image(tmp_path / "x.png", size=8)[:, 4, 4] * 255
    assert (got - torch.tensor(want)).abs().max() <= 1


def test_palettes_and_cmyk_and_floating_point(tmp_path):
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "clear.gif", transparency=1)
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    Image.new("F", (20, 20), 0.2).save(tmp_path / "float.tif")
    Image.new("I", (20, 20), 65535).save(tmp_path / "int.tif")
    for name, want in (
        ("palette.png", (10, 200, 30)),
        ("clear.gif", (255, 255, 255)),
        ("cmyk.jpg", (255, 0, 0)),
        ("float.tif", (51, 51, 51)),
        ("int.tif", (255, 255, 255)),
    ):
        got = load_image(tmp_path / name, size=8)[:, 4, 4] * 255
        assert (got - torch.tensor(want)).abs().max() <= 3, name


def test_orientation_is_honoured(tmp_path):
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:20] = 255  # white above
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: show it turned by 90 degrees clockwise
    upright.rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    got = load_image(tmp_path / "turned.jpg", size=8)
    assert got[:, :3].min() > 0.95
    assert got[:, 5:].max() < 0.05


def test_a_large_jpeg_keeps_its_content(tmp_path):
    ramp = np.linspace(0, 255, 1600).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (1200, 1600)).copy()).save(tmp_path / "l.jpg", quality=95)
    Image.fromarray(np.broadcast_to(ramp, (1200, 1600)).copy()).save(tmp_path / "l.png")
    jpeg, png = (load_image(tmp_path / f"l.{kind}", size=64) for kind in ("jpg", "png"))
    assert (jpeg - png).abs().max() < 0.02


def test_extreme_shapes(tmp_path):
    Image.new("RGB", (9000, 1), "red").save(tmp_path / "line.png")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    for name in ("line.png", "dot.png"):
        assert load_image(tmp_path / name, size=32)[0].min() == 1


def broken(pets: Path) -> list[Path]:
    whole = (pets / "cat" / "2.jpg").read_bytes()
    contents = {
        "cat/empty.jpg": b"",
        "cat/text.png": b"hello",
        "dog/half.jpg": whole[: len(whole) // 2],
    }
    png = (pets / "dog" / "1.png").read_bytes()
    contents |= {"dog/half.png": png[:100], "dog/phone.heic": b"\0\0\0\x18ftypheic"}
    for name, content in contents.items():
        (pets / name).write_bytes(content)
    return [pets / name for name in contents]


def test_broken_files_are_all_named(pets):
    files = broken(pets)
    with pytest.raises(ValueError, match="5 files of 25 cannot be used") as info:
        image_folder(pets, size=8)
    for file in files:
        assert str(file) in str(info.value)
    for text in ("the file is empty", "truncated", "save it as JPEG", "skip_broken=True"):
        assert text in str(info.value)


def test_broken_files_can_be_skipped(pets):
    want = image_folder(pets, size=8)
    broken(pets)
    with pytest.warns(UserWarning, match="Going on without 5 files of 25 .*empty.jpg"):
        got = image_folder(pets, size=8, skip_broken=True)
    assert got.fingerprint() == want.fingerprint()


def test_skipping_does_not_empty_a_class(pets):
    for path in (pets / "cat").glob("[0-9]*"):
        path.write_bytes(b"x")
    with (
        pytest.warns(UserWarning, match="Going on without 10 files"),
        pytest.raises(ValueError, match="No image is left of cat"),
    ):
        image_folder(pets, size=8, skip_broken=True)


def test_a_class_without_images(pets):
    (pets / "horse").mkdir()
    (pets / "horse" / "notes.txt").touch()
    (pets / "fish").mkdir()
    with pytest.raises(ValueError, match=r"2 classes of .* without an image: fish, horse"):
        image_folder(pets)


def test_fewer_than_two_classes(pets, tmp_path):
    with pytest.raises(ValueError, match=r"no sub-folder and 10 images beside it; .* two classes"):
        image_folder(pets / "dog")
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(ValueError, match="has no sub-folder; a classifier needs"):
        image_folder(one)
    (pets / "cat").rename(one / "cat")
    with pytest.raises(ValueError, match="has one sub-folder, 'cat'; a classifier needs"):
        image_folder(one)


def test_one_folder_too_high(pets, tmp_path):
    (tmp_path / "zip").mkdir()
    pets.rename(tmp_path / "zip" / "pets")
    with pytest.raises(ValueError, match=r"a folder of folders, pets, .* for instance '.*pets'"):
        image_folder(tmp_path / "zip")


def test_the_parts_of_a_set_are_no_classes(pets, tmp_path):
    (tmp_path / "set" / "test").mkdir(parents=True)
    pets.rename(tmp_path / "set" / "train")
    (tmp_path / "set" / "test" / "cat").mkdir()
    with pytest.raises(ValueError, match="parts of a set, test, train, and not classes"):
        image_folder(tmp_path / "set")


def test_classes_may_be_called_test_and_train(pets):
    (pets / "cat").rename(pets / "test")
    (pets / "dog").rename(pets / "train")
    assert image_folder(pets, size=8).classes == ("test", "train")


def test_no_such_folder(pets, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no 'pest'\. Did you mean '.*pets'\?"):
        image_folder(tmp_path / "pest")
    with pytest.raises(FileNotFoundError, match=r"has no 'pest'\. Did you mean '.*pets'\?"):
        image_folder(tmp_path / "pest" / "deeper")
    with pytest.raises(FileNotFoundError, match="has no 'qqqq'\\.$"):
        image_folder(tmp_path / "qqqq")
    with pytest.raises(NotADirectoryError, match=r"a file; .* load_image"):
        image_folder(pets / "readme.md")


def test_one_image(pets):
    with pytest.raises(FileNotFoundError, match="path is .* Did you mean"):
        load_image(pets / "cat" / "33.png")
    with pytest.raises(IsADirectoryError, match="a folder; it takes one image file"):
        load_image(pets / "cat")
    with pytest.raises(ValueError, match=r"readme.md cannot be used: the file is empty"):
        load_image(pets / "readme.md")
    assert load_image(pets / "cat" / "0.jpg").shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("size", "error"), [(7, ValueError), (2000, ValueError), (32.0, TypeError), ("224", TypeError)]
)
def test_size_is_checked(pets, size, error):
    for call in (lambda: image_folder(pets, size=size), lambda: load_image(pets / "x", size=size)):
        with pytest.raises(error, match="size must be"):
            call()


def test_paths_are_checked():
    with pytest.raises(TypeError, match="root must be a path, got 3"):
        image_folder(3)
    with pytest.raises(TypeError, match="path must be a path, got None"):
        load_image(None)


def test_more_than_the_memory(pets, monkeypatch):
    sizes = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(module.os, "sysconf", sizes.__getitem__)
    with pytest.raises(
        MemoryError, match="20 images of 64 x 64 pixels take 983 kB, more than half"
    ):
        image_folder(pets, size=64)
