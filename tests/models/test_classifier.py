from __future__ import annotations

import pytest
import torch
from torch import nn

from tlcourse.models import MLP, Classifier, SmallResNet, WideResNet, pretrained_backbone


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (MLP((12, 5, 4, 3)), (2, 1, 3, 4)),
        (SmallResNet(3, width=4), (2, 1, 32, 32)),
        (SmallResNet(3, in_channels=3, width=4), (2, 3, 28, 28)),
        (WideResNet(10, 1, 3), (2, 3, 32, 32)),
        (Classifier(pretrained_backbone(weights=None), 3), (2, 3, 64, 64)),
    ],
)
def test_every_classifier_is_a_head_on_a_backbone(model, shape):
    model.eval()
    x = torch.rand(shape)
    features = model.backbone(x)
    assert features.shape == (2, model.backbone.n_features)
    assert isinstance(model.head, nn.Linear)
    assert torch.equal(model(x), model.head(features))
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize(
    "model",
    [
        MLP((12, 5, 4, 3)),
        SmallResNet(3),
        WideResNet(10, 1, 3),
        Classifier(pretrained_backbone("resnet18", weights=None), 3),
    ],
)
def test_layers_hold_every_parameter_once(model):
    named = [
        f"{layer}.{name}"
        for layer in model.layers
        for name, _ in model.get_submodule(layer).named_parameters()
    ]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    assert model.layers[-1] == "head"


def test_the_backbone_is_shared_and_the_head_is_fresh():
    source = SmallResNet(5, width=2)
    model = Classifier(source.backbone, 7)
    assert model.backbone is source.backbone
    assert model.head.weight.shape == (7, 8)


def test_a_backbone_without_layers_is_one_layer():
    backbone = nn.Linear(3, 2)
    backbone.n_features = 2
    assert Classifier(backbone, 2).layers == ("backbone", "head")


def test_what_is_no_backbone_is_refused():
    with pytest.raises(TypeError, match=r"backbone must be a torch.nn.Module, got str"):
        Classifier("resnet18", 10)
    with pytest.raises(TypeError, match=r"n_features.*Linear has None.*\.backbone of a classifier"):
        Classifier(nn.Linear(3, 2), 10)


@pytest.mark.parametrize("n_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(n_classes):
    with pytest.raises(ValueError, match=f"n_classes must be at least 2, got {n_classes}"):
        SmallResNet(n_classes)


def test_a_class_count_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match="n_classes must be an integer"):
        SmallResNet(10.0)
