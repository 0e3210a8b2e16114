"""Cached features: exact, in order, one batch at a time, and refused where they would be wrong."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from tlcourse.finetuning import changed, extract_features, freeze, snapshot


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    ).train()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(23, 1, 8, 8, generator=generator)
    return TensorDataset(images, torch.arange(23) % 3)


class OneByOne(Dataset):
    """The same samples without tensors in memory, as from files."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, label = self.data[index]
        return image.clone(), int(label)


def counted(module):
    calls = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


@pytest.mark.equation("eq-frozen-features")
def test_linear_head_on_features_equals_the_frozen_model_exactly(backbone, data):
    head = nn.Linear(16, 3)
    model = nn.Sequential(backbone, head)
    freeze(backbone)
    features, labels = extract_features(backbone, data, batch_size=23).tensors
    model.train()
    assert torch.equal(head(features), model(data.tensors[0]))
    assert torch.equal(labels, data.tensors[1])


@pytest.mark.equation("eq-frozen-features")
def test_the_head_gets_the_gradient_and_the_backbone_none(backbone, data):
    head = nn.Linear(16, 3)
    freeze(backbone)
    features, labels = extract_features(backbone, data).tensors
    F.cross_entropy(head(features), labels).backward()
    cached = head.weight.grad.clone()
    head.zero_grad()
    F.cross_entropy(head(backbone(data.tensors[0])), labels).backward()
    torch.testing.assert_close(head.weight.grad, cached, rtol=0, atol=0)
    assert cached.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.equation("eq-frozen-features")
def test_training_the_head_on_features_equals_training_with_the_backbone_in_the_loop(
    backbone, data
):
    freeze(backbone)
    looped = nn.Sequential(backbone, nn.Linear(16, 3))
    cached_head = copy.deepcopy(looped[1])
    cached = extract_features(backbone, data, batch_size=5)
    for model, source in ((looped, data), (cached_head, cached)):
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.5, momentum=0.9
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            model.train()
            for index in torch.randperm(len(data), generator=generator).split(8):
                inputs, labels = source[index]
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    torch.testing.assert_close(cached_head.weight, looped[1].weight, rtol=0, atol=1e-5)


@pytest.mark.equation("eq-caching-cost")
def test_forward_passes_through_the_backbone(backbone, data):
    calls = counted(backbone)
    extract_features(backbone, data, batch_size=8)
    assert calls == [8, 8, 7]  # once through, whatever the number of epochs


@pytest.mark.equation("eq-caching-cost")
@pytest.mark.parametrize("epochs", [1, 4])
def test_cost_in_floating_point_operations(backbone, data, epochs):
    head = nn.Linear(16, 3)
    freeze(backbone)
    images, labels = data.tensors

    def cost(function):
        with FlopCounterMode(display=False) as counter:
            result = function()
        return counter.get_total_flops(), result

    def train(inputs, model):
        for _ in range(epochs):
            F.cross_entropy(model(inputs), labels).backward()

    forward, features = cost(lambda: backbone(images))  # F
    one_head, _ = cost(lambda: F.cross_entropy(head(features), labels).backward())  # H
    in_loop, _ = cost(lambda: train(images, nn.Sequential(backbone, head)))
    extraction, cached = cost(lambda: extract_features(backbone, data, batch_size=8))
    training, _ = cost(lambda: train(cached.tensors[0], head))

    assert forward > 0
    assert one_head > 0
    assert in_loop == epochs * (forward + one_head)
    assert extraction + training == forward + epochs * one_head
    ratio = in_loop / (extraction + training)
    assert ratio == epochs * (forward + one_head) / (forward + epochs * one_head)
    assert 1 <= ratio <= epochs


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
@pytest.mark.parametrize("wrap", [lambda d: d, OneByOne, lambda d: Subset(d, range(23))])
def test_rows_are_in_the_order_of_the_data_set(backbone, data, batch_size, wrap):
    features, labels = extract_features(backbone, wrap(data), batch_size=batch_size).tensors
    expected = backbone.eval()(data.tensors[0])
    torch.testing.assert_close(features, expected.detach(), rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, data.tensors[1])
    assert labels.dtype == torch.int64
    assert not features.requires_grad
    assert not features.is_inference()


def test_everything_after_the_input_is_kept(backbone, data):
    images, labels = data.tensors
    boxes = torch.rand(23, 4)
    out = extract_features(backbone, TensorDataset(images, labels, boxes), batch_size=5)
    assert torch.equal(out.tensors[2], boxes)
    assert len(extract_features(backbone, TensorDataset(images)).tensors) == 1


def test_a_data_set_that_changes_its_tensors_on_the_way_out_is_asked_one_by_one(backbone, data):
    class Inverted(TensorDataset):
        def __getitem__(self, index):
            assert isinstance(index, int)
            image, label = super().__getitem__(index)
            return -image, label

    features, _ = extract_features(backbone, Inverted(*data.tensors)).tensors
    torch.testing.assert_close(features, backbone.eval()(-data.tensors[0]).detach())


def test_backbone_is_left_as_it_was(backbone, data):
    backbone[3].eval()
    modes = [layer.training for layer in backbone.modules()]
    grads = [p.requires_grad for p in backbone.parameters()]
    before = snapshot(backbone)
    extract_features(backbone, data, batch_size=8, device="cpu")
    assert [layer.training for layer in backbone.modules()] == modes
    assert [p.requires_grad for p in backbone.parameters()] == grads
    assert changed(backbone, before) == ()


def test_mode_comes_back_after_an_error(data):
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        extract_features(model, data)
    assert all(layer.training for layer in model.modules())


@pytest.mark.parametrize("in_memory", [True, False])
def test_no_batch_outlives_its_turn(data, in_memory):
    seen = []

    def nothing_is_held():
        return not [ref for ref in seen if ref() is not None]

    class Watched(nn.Module):
        def forward(self, x):
            assert nothing_is_held(), "an earlier batch lives on while the next one is run"
            out = x.flatten(1) * 2
            seen.extend((weakref.ref(x), weakref.ref(out)))
            return out

    class Loaded(OneByOne):
        def __getitem__(self, index):
            assert nothing_is_held(), "a batch lives on while the next one is loaded"
            return super().__getitem__(index)

    extract_features(Watched(), data if in_memory else Loaded(data), batch_size=5)
    assert len(seen) == 10


def test_random_augmentation_is_refused(backbone, data):
    class Jittered(OneByOne):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + 0.1 * torch.randn(()), label

    calls = counted(backbone)
    with pytest.raises(ValueError, match="random augmentation.*plain data set"):
        extract_features(backbone, Jittered(data))
    assert calls == []


def test_augmentation_that_spares_most_pictures_is_refused(backbone, data):
    class SometimesFlipped(OneByOne):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return (image.flip(-1) if torch.rand(()) < 0.2 else image), label

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="random augmentation"):
        extract_features(backbone, SometimesFlipped(data))


def test_feature_maps_are_not_flattened_in_silence(backbone, data):
    with pytest.raises(
        ValueError, match=r"\(23, D\), got \(23, 4, 2, 2\).*AdaptiveAvgPool2d.*D = 4"
    ):
        extract_features(backbone[:-1], data)


def test_features_are_plain_tensors_in_inference_mode_too(backbone, data):
    with torch.inference_mode():
        for given in (
            data,
            OneByOne(data),
            TensorDataset(data.tensors[0] * 1, data.tensors[1] + 0),
        ):
            features, labels = extract_features(backbone, given).tensors
            assert not features.is_inference()
            assert not labels.is_inference()
    F.cross_entropy(nn.Linear(16, 3)(features), labels).backward()


def test_a_backbone_that_works_in_place_leaves_the_images_as_they_are(data):
    class Halve(nn.Module):
        def forward(self, x):
            return x.mul_(0.5).flatten(1)

    images = data.tensors[0].clone()
    random = torch.get_rng_state()
    for given in (data, OneByOne(data)):
        features, _ = extract_features(Halve(), given).tensors
        assert torch.equal(data.tensors[0], images)
        assert torch.equal(features, images.flatten(1) / 2)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_backbone_on_several_devices_is_not_brought_to_one(data):
    split = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 2, device="meta"))
    with pytest.raises(ValueError, match="on 2 devices, cpu, meta.*Leave device out"):
        extract_features(split, data, device="cpu")
    assert split[2].weight.is_meta


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.sum(dim=(1, 2, 3)), ValueError, r"shape \(23, D\), got \(23,\)"),
        (lambda x: x.flatten(1)[:5], ValueError, r"map 23 samples.*got \(5, 64\)"),
        (lambda x: x.flatten(1) / 0, ValueError, "features of samples 0 to 22 contains infinite"),
        (lambda x: x.flatten(1) * float("nan"), ValueError, "samples 0 to 22 contains NaN"),
        (lambda x: (x, x), TypeError, "must give a tensor, got tuple"),
    ],
)
def test_bad_backbone_output(data, function, error, message):
    with pytest.raises(error, match=message):
        extract_features(Returns(function), data)


def test_bad_data(backbone, data):
    images, _ = data.tensors
    with pytest.raises(ValueError, match="dataset is empty"):
        extract_features(backbone, TensorDataset(images[:0]))
    with pytest.raises(ValueError, match="no length"):
        extract_features(backbone, iter([images]))
    with pytest.raises(TypeError, match="tuples with the input first.*gives Tensor"):
        extract_features(backbone, list(images))
    with pytest.raises(TypeError, match="item 1 of its tuples comes as"):
        extract_features(backbone, [(image, "a") for image in images])
    with pytest.raises(TypeError, match="gives str as the input of sample 0"):
        extract_features(backbone, [("cat.png", 0)])


def test_bad_settings(backbone, data):
    with pytest.raises(TypeError, match="backbone must be a torch.nn.Module, got function"):
        extract_features(lambda x: x, data)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        extract_features(backbone, data, batch_size=0)
    with pytest.raises(TypeError, match="batch_size must be an integer"):
        extract_features(backbone, data, batch_size=2.5)
    with pytest.raises(RuntimeError, match="device"):
        extract_features(backbone, data, device="gpu")


@pytest.mark.parametrize(("side", "largest"), [(8, 256), (64, 42), (224, 3), (1000, 1)])
def test_without_a_batch_size_a_cpu_runs_few_large_images_at_a_time(side, largest):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes = []

        def forward(self, x):
            self.sizes.append(len(x))
            return x.mean((2, 3))

    n = largest + 2
    images, pooled = torch.zeros(1, 3, side, side).expand(n, -1, -1, -1), Pooled()
    extract_features(pooled, TensorDataset(images, torch.zeros(n).long()))
    assert pooled.sizes[0] == largest
    assert sum(pooled.sizes) == n
