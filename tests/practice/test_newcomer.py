"""A newcomer with twenty small pictures in two folders: the steps of classifier-in-minutes."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlcourse.data import LabelledImages, digits, image_folder, load_image
from tlcourse.finetuning import (
    UnfreezeSchedule,
    changed,
    extract_features,
    freeze,
    layerwise_parameter_groups,
    snapshot,
)
from tlcourse.metrics import accuracy, confusion, predict
from tlcourse.models import Classifier
from tlcourse.source import glyph_network
from tlcourse.training import fit, load_model, save_model

SIZE = 32
CLASSES = {"three": 3, "nine": 9}


def draw(folder: Path, images: Tensor, first: int = 0) -> None:
    """Write dark ink on pale paper, one file an image, in sizes and formats that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    for i, image in enumerate(images, start=first):
        side = int(rng.integers(40, 90))
        ink = F.interpolate(image[None], (side, side), mode="bilinear")[0, 0].numpy()
        page = np.zeros((side, side + int(rng.integers(0, 30))))
        page[:, :side] = ink
        page = np.roll(page, (page.shape[1] - side) // 2, axis=1)
        grey = rng.uniform(0.75, 0.95) * (1 - 0.8 * page) + rng.normal(0, 0.02, page.shape)
        picture = Image.fromarray((255 * grey).clip(0, 255).astype("uint8"))
        if i % 3 == 0:
            picture.save(folder / f"scan {i:02}.png")  # grey
        else:
            picture.convert("RGB").save(folder / f"IMG_{i:04}.JPG", format="JPEG", quality=85)


def prepare(images: Tensor) -> Tensor:
    grey = images.mean(1, keepdim=True)  # (N, 3, H, W) -> (N, 1, H, W)
    pale = grey.mean((2, 3), keepdim=True) > 0.5
    return torch.where(pale, 1 - grey, grey)


def inputs_of(photos: LabelledImages) -> TensorDataset:
    return TensorDataset(prepare(photos.images), photos.labels)


def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def learn_head(features: TensorDataset, n_classes: int) -> nn.Linear:
    torch.manual_seed(0)
    head = nn.Linear(features.tensors[0].shape[1], n_classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.1)
    fit(head, objective, features, optimizer=optimizer, epochs=60, progress=False)
    return head


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_arguments, **_settings):
        raise AssertionError("the newcomer has no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="module")
def source():
    return glyph_network(progress=False)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Twenty pictures to learn from, and sixty that are kept aside."""
    root = tmp_path_factory.mktemp("newcomer")
    (train, test), rest = digits(size=32), root / "rest"
    for name, digit in CLASSES.items():
        draw(root / "numerals" / name, train.images[train.labels == digit][:10])
        draw(rest / name, test.images[test.labels == digit][:30], first=100)
    (root / "numerals" / "notes.txt").write_text("three and nine")
    (root / "numerals" / "nine" / "notes.txt").write_text("from the kitchen")
    return root / "numerals", rest


@pytest.fixture
def copy_of(tmp_path):
    def copy(root: Path) -> Path:
        return Path(shutil.copytree(root, tmp_path / root.name))

    return copy


@pytest.fixture(scope="module")
def newcomer(source, twenty):
    """The model that twenty pictures give: frozen base, head trained on cached features."""
    photos = image_folder(twenty[0], size=SIZE)
    model = Classifier(source.backbone, photos.n_classes)
    freeze(model.backbone)
    before = snapshot(model.backbone)
    features = extract_features(model.backbone, inputs_of(photos))
    model.head.load_state_dict(learn_head(features, photos.n_classes).state_dict())
    assert changed(model.backbone, before) == ()
    return photos, model


def test_the_folder_is_read_without_its_text_files(newcomer):
    photos, _ = newcomer
    assert photos.images.shape == (20, 3, SIZE, SIZE)
    assert photos.classes == ("nine", "three")
    assert photos.labels.bincount().tolist() == [10, 10]


def test_twenty_pictures_make_a_classifier_that_works_on_others(newcomer, twenty):
    _, model = newcomer
    others = inputs_of(image_folder(twenty[1], size=SIZE))
    assert len(others) == 60
    assert accuracy(model, others) >= 0.85  # a guess is right in half of the cases
    counts = confusion(model, others)
    assert counts.sum(1).tolist() == [30, 30]
    assert counts.diagonal().min() >= 20  # neither class is sacrificed to the other


def test_later_layers_can_be_trained_too_and_the_earlier_stay(source, twenty):
    photos = image_folder(twenty[0], size=SIZE)
    data = inputs_of(photos)
    model = Classifier(glyph_network(progress=False).backbone, photos.n_classes)
    head = learn_head(extract_features(model.backbone, data), photos.n_classes)
    model.head.load_state_dict(head.state_dict())
    later = model.layers[-2]
    UnfreezeSchedule(model, ["head", later]).advance()
    groups = layerwise_parameter_groups(model, [later, "head"], lr=1e-3, decay=10)
    before = snapshot(model)
    optimizer = torch.optim.Adam(groups)
    fit(model, objective, data, optimizer=optimizer, epochs=6, batch_size=16, progress=False)
    moved = changed(model, before)
    assert moved
    assert all(name.startswith((later, "head")) for name in moved)
    assert any(name.startswith(later) for name in moved)
    assert accuracy(model, inputs_of(image_folder(twenty[1], size=SIZE))) >= 0.85


def test_it_is_kept_loaded_and_asked_about_one_picture(newcomer, source, twenty, tmp_path):
    photos, model = newcomer
    saved = tmp_path / "numerals.safetensors"
    save_model(model, saved)
    again = load_model(Classifier(glyph_network(progress=False).backbone, 2), saved)
    data = inputs_of(photos)
    assert torch.equal(predict(again, data), predict(model, data))

    path = next(iter(sorted((twenty[0] / "three").glob("*.JPG"))))
    logits = predict(again, TensorDataset(prepare(load_image(path, size=SIZE)[None])))
    assert logits.shape == (1, 2)
    # The picture goes the same way alone as it does within its folder.
    order = [p.name for p in sorted((twenty[0] / "three").iterdir()) if p.suffix != ".txt"]
    row = 10 + order.index(path.name)
    torch.testing.assert_close(logits[0], predict(model, data)[row], rtol=0, atol=1e-4)


def test_a_classifier_of_another_number_of_classes_is_refused(newcomer, source, tmp_path):
    _, model = newcomer
    saved = tmp_path / "numerals.safetensors"
    save_model(model, saved)
    with pytest.raises(ValueError, match=r"holds another model .*head\.weight"):
        load_model(Classifier(glyph_network(progress=False).backbone, 3), saved)


def test_a_broken_file_is_named_and_can_be_skipped(twenty, copy_of):
    root = copy_of(twenty[0])
    whole = next(iter(sorted((root / "nine").glob("*.JPG"))))
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"1 file of 20 .*{whole.name}.*skip_broken=True"):
        image_folder(root, size=SIZE)
    with pytest.warns(UserWarning, match=whole.name):
        photos = image_folder(root, size=SIZE, skip_broken=True)
    assert photos.labels.bincount().tolist() == [9, 10]
    with pytest.raises(ValueError, match=rf"{whole.name} cannot be used"):
        load_image(whole, size=SIZE)


def test_a_class_without_a_picture_is_named(twenty, copy_of):
    root = copy_of(twenty[0])
    (root / "seven").mkdir()
    (root / "seven" / "todo.txt").write_text("take some")
    with pytest.raises(ValueError, match="without an image: seven"):
        image_folder(root, size=SIZE)


def test_a_single_folder_is_not_two_classes(twenty, copy_of):
    root = copy_of(twenty[0])
    shutil.rmtree(root / "nine")
    with pytest.raises(ValueError, match="at least two classes"):
        image_folder(root, size=SIZE)


def test_colour_pictures_do_not_go_into_the_grey_network_unprepared(newcomer):
    photos, model = newcomer
    with pytest.raises(ValueError, match=r"shape \(N, 1, H, W\), got \(20, 3, 32, 32\)"):
        predict(model, photos)
