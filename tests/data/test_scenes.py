"""Generated scenes: every answer agrees with the others, and with the image."""

from __future__ import annotations

import pytest
import torch

from tlcourse.data import Scenes, digits, scenes
from tlcourse.data.scenes import BLOCK, CLASSES, MOST
from tlcourse.training import loader


@pytest.fixture(scope="module")
def sets() -> tuple[Scenes, Scenes]:
    return scenes(60, 30, size=48)


def test_shapes_types_and_ranges(sets):
    train, test = sets
    assert (len(train), len(test)) == (60, 30)
    assert train.images.shape == (60, 1, 48, 48)
    assert train.segmentation.shape == (60, 48, 48)
    assert train.instances.shape == (60, 2, 48, 48)
    assert train.inverse_depth.shape == (60, 1, 48, 48)
    assert train.images.dtype == train.instances.dtype == train.inverse_depth.dtype == torch.float32
    assert train.segmentation.dtype == torch.int64
    assert 0 <= train.images.min() < train.images.max() <= 1
    assert 0 < train.inverse_depth.min() < train.inverse_depth.max() <= 1
    assert train.n_classes == len(CLASSES) == 14
    assert train.classes[0] == "background"
    assert train.segmentation.unique().tolist() == list(range(14))


def test_offsets_point_from_every_pixel_of_an_object_to_one_centre(sets):
    """Pixel plus offset is the same place all over an object, and lies in its surroundings."""
    train, _ = sets
    place = torch.arange(48) + 0.5
    for i in range(20):
        centre = torch.stack(
            [train.instances[i, 0] + place, train.instances[i, 1] + place[:, None]]
        )  # (2, H, W)
        ends = centre[:, train.defined[i]].T.mul(1000).round().unique(dim=0)
        assert len(ends) == len(train.labels[i])
        assert ends.min() >= 0
        assert ends.max() <= 48_000
        assert (train.instances[i][:, ~train.defined[i]] == 0).all()


def test_an_object_has_one_class_one_depth_and_one_box(sets):
    train, _ = sets
    place = torch.arange(48) + 0.5
    for i in range(len(train)):
        ends = (train.instances[i, 0] + place, train.instances[i, 1] + place[:, None])
        key = (1000 * ends[0]).round() * 100_000 + (1000 * ends[1]).round()
        found = []
        for one in key[train.defined[i]].unique():
            mask = train.defined[i] & (key == one)
            assert len(train.segmentation[i][mask].unique()) == 1
            assert len(train.inverse_depth[i, 0][mask].unique()) == 1
            rows, columns = mask.nonzero().T
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            found.append((int(train.segmentation[i][mask][0]), *(int(b) for b in box)))
        given = [
            (int(label), *box.int().tolist())
            for label, box in zip(train.labels[i], train.boxes[i], strict=True)
        ]
        assert sorted(found) == sorted(given)


def test_every_scene_has_some_objects_but_not_too_many(sets):
    counts = [len(labels) for labels in sets[0].labels]
    assert 1 <= min(counts) < max(counts) <= MOST


def test_what_is_near_is_larger(sets):
    """Two discs of a scene: the nearer one has the wider box."""
    train, _ = scenes(500, 1, size=40)
    disc, larger, pairs = CLASSES.index("disc"), 0, 0
    for i in range(len(train)):
        discs = train.boxes[i][train.labels[i] == disc]
        whole = [b for b in discs if abs((b[2] - b[0]) - (b[3] - b[1])) <= 1]  # not cut off
        if len(whole) < 2:
            continue
        depths = []
        for left, top, right, bottom in (b.int() for b in whole[:2]):
            box = slice(top, bottom), slice(left, right)
            own = train.inverse_depth[i, 0][box][train.segmentation[i][box] == disc]
            depths.append(own.mode().values.item())
        if max(depths) > 1.25 * min(depths):  # sizes vary by a tenth
            pairs += 1
            wide = [(b[2] - b[0]).item() for b in whole[:2]]
            larger += (wide[0] > wide[1]) == (depths[0] > depths[1])
    assert pairs >= 5
    assert larger == pairs


def test_objects_are_brighter_than_the_ground_around_them(sets):
    train, _ = sets
    assert (
        train.images[:, 0][train.defined].mean() > train.images[:, 0][~train.defined].mean() + 0.2
    )


def test_one_seed_one_draw(sets):
    train, test = sets
    again, _ = scenes(60, 1, size=48)
    other, _ = scenes(60, 1, size=48, seed=1)
    assert again.fingerprint() == train.fingerprint()
    assert other.fingerprint() != train.fingerprint()
    assert not torch.equal(train.images[:30], test.images)


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    few, _ = scenes(3, 1, size=24)
    more, _ = scenes(BLOCK + 2, 1, size=24)
    assert torch.equal(few.images, more.images[:3])
    assert torch.equal(few.boxes[2], more.boxes[2])


def test_no_handwriting_is_in_both_sets():
    """The test scenes are drawn from the digits of the test set alone."""
    import importlib

    module = importlib.import_module("tlcourse.data.scenes")
    train, test = digits(size=module.SPRITE)
    for part, handwritten in enumerate((train, test)):
        sprites, classes = module._objects(part)
        assert len(sprites) == len(handwritten) + 3
        assert torch.equal(classes[:-3], handwritten.labels + 1)
        assert [CLASSES[k] for k in classes[-3:]] == ["disc", "square", "triangle"]


def test_the_training_loop_can_index_batches(sets):
    train, _ = sets
    assert len(train.tensors) == 4
    batch = next(iter(loader(train, 16, shuffle=False)))
    for got, tensor in zip(batch, train.tensors, strict=True):
        assert torch.equal(got, tensor[:16])


def test_subset(sets):
    train, _ = sets
    part = train.subset([5, 2])
    assert torch.equal(part.images, train.images[[5, 2]])
    assert torch.equal(part.boxes[0], train.boxes[5])
    assert torch.equal(part.labels[1], train.labels[2])
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 59\]"):
        train.subset([60])


def test_coarse_classes(sets):
    train, _ = sets
    coarse = train.coarse()
    assert coarse.classes == ("background", "digit", "disc", "square", "triangle")
    for fine, name in enumerate(CLASSES):
        at = coarse.classes.index("digit" if name.isdigit() else name)
        assert (coarse.segmentation[train.segmentation == fine] == at).all()
    for few, many in zip(coarse.labels, train.labels, strict=True):
        names = ["digit" if CLASSES[k].isdigit() else CLASSES[k] for k in many]
        assert [coarse.classes[k] for k in few] == names
    assert torch.equal(coarse.images, train.images)
    assert coarse.fingerprint() != train.fingerprint()
    assert coarse.coarse() is coarse
    assert coarse.subset([3]).classes == coarse.classes


def test_only_the_classes_of_scenes_can_be_made_coarse(sets):
    few = sets[0].subset(range(2))
    tensors = (*few.tensors, few._boxes, few._labels)
    other = Scenes(*tensors, classes=(*CLASSES[:-1], "star"))
    with pytest.raises(ValueError, match=r"coarse takes scenes of the 14 classes .* square, star"):
        other.coarse()


@pytest.mark.parametrize("part", range(6))
def test_the_fingerprint_sees_every_tensor(sets, part):
    train, _ = sets
    few = train.subset(range(5))
    tensors = [t.clone() for t in (*few.tensors, few._boxes, few._labels)]
    assert Scenes(*tensors).fingerprint() == few.fingerprint()
    tensors[part].flatten()[7] += 1
    assert Scenes(*tensors).fingerprint() != few.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_train": 0}, ValueError, "n_train must be at least 1, got 0"),
        ({"n_test": 1.5}, TypeError, "n_test must be an integer"),
        ({"size": 16}, ValueError, r"size must be in \[24, 256\], got 16"),
        ({"seed": -1}, ValueError, "seed must be in"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        scenes(**arguments)


def test_bad_tensors(sets):
    few = sets[0].subset(range(3))
    tensors = [*few.tensors, few._boxes, few._labels]
    with pytest.raises(TypeError, match=r"segmentation must have dtype torch.int64"):
        Scenes(tensors[0], tensors[1].float(), *tensors[2:])
    with pytest.raises(ValueError, match=r"instances must have shape \(3, 2, 48, 48\), got"):
        Scenes(*tensors[:2], tensors[2][:, :1], *tensors[3:])
    with pytest.raises(TypeError, match="images must be a torch.Tensor, got list"):
        Scenes([1], *tensors[1:])
    with pytest.raises(ValueError, match=r"segmentation must lie in \[0, 1\] for 2 classes"):
        Scenes(*tensors, classes=("background", "disc"))
    beyond = tensors[5].clone()
    beyond[0, 0] = 14
    with pytest.raises(ValueError, match=r"labels must lie in \[-1, 13\] .* to 14"):
        Scenes(*tensors[:5], beyond)
