"""Grown networks on tiny data: what each way adds, what learns, and what is said of the result."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import get
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.finetuning import growing as module
from tlcourse.finetuning import changed, snapshot
from tlcourse.models import MLP

SETTINGS = module.FULL | {"labels_per_class": 2, "photos_per_class": 2, "steps": 3, "extra": 6}
SETTINGS |= {"photo_steps": 3, "batch_size": 10}


@pytest.fixture
def data(images):
    sets = {}
    for seed, name in enumerate(("train", "test")):
        large = images(3, channels=1, n_classes=10, seed=seed)
        small = large.images[:, :, ::2, ::2]
        sets[name] = LabelledImages(small, large.labels, large.classes, large.name)
        sets[f"photos-{name}"] = images(3, channels=1, seed=seed)
    return sets


@pytest.fixture
def source(monkeypatch):
    torch.manual_seed(0)
    model = MLP((256, 512, 256, 256, 7))
    monkeypatch.setattr(module, "reader_of_print", lambda size: model)
    return model


class Pooled(torch.nn.Module):
    n_features = 4

    def forward(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def test_a_run_fills_its_table(tmp_path, data, source, monkeypatch):
    monkeypatch.setattr(module, "imagenet", lambda size: Pooled())
    experiment = dataclasses.replace(
        get("growing"), settings={"quick": SETTINGS}, load=lambda _: data
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == len(module._rows())
    assert all(0 <= row.values[0] <= 100 for row in result.rows.values())


@pytest.mark.parametrize("learns", module.LEARNS)
@pytest.mark.parametrize("way", module.WAYS)
def test_what_each_way_adds_and_trains(data, source, way, learns):
    few = data["train"]
    chosen = {"rate": 0.01} | ({"gamma": 2.0} if way.endswith("scaled") else {})
    model = module.learn(way, learns, few, source, chosen, SETTINGS, 0)
    first = module.learn(way, learns, few, source, chosen | {"rate": 1e-12}, SETTINGS, 0)
    moved = set(changed(model, snapshot(first)))
    old = ".old" if way != "finetune" else ""
    still = [f"backbone.hidden{i}.linear" for i in (1, 2)] + [f"backbone.hidden3{old}.linear"]
    for layer in still[: module.LEARNS[learns][1]]:
        assert not [name for name in moved if name.startswith(layer)]
        assert torch.equal(
            model.get_submodule(layer).weight,
            source.get_submodule(layer.replace(".old", "")).weight,
        )
    for layer in still[module.LEARNS[learns][1] :]:
        assert f"{layer}.weight" in moved
    assert {"head.weight", "head.bias"} <= moved
    if way != "finetune":
        assert "backbone.hidden3.new.linear.weight" in moved
    width = {"finetune": 256, "deep": 6, "wide": 262}[way.partition("-")[0]]
    assert model.head.weight.shape == (10, width)
    scaled = [name for name in moved if name.endswith("gamma")]
    assert len(scaled) == (2 if way.endswith("scaled") else 0)


def test_from_scratch_knows_nothing_of_the_source(data, source):
    chosen = {"rate": 1e-12}
    model = module.learn("finetune", "all", data["train"], None, chosen, SETTINGS, 1)
    ours, theirs = (net.backbone.hidden1.linear.weight for net in (model, source))
    assert not torch.allclose(ours, theirs)


@pytest.mark.parametrize(("way", "n"), [("head", 1), ("deep-rand", 3), ("deep-scaled", 5)])
def test_heads_on_features(way, n):
    features = torch.utils.data.TensorDataset(torch.rand(6, 9), torch.arange(6) % 3)
    chosen = {"rate": 0.01, "gamma": 2.0}
    model = module.on_features(way, features, chosen, SETTINGS, 0)
    assert len(model) == n
    assert model(torch.rand(2, 9)).shape == (2, 3)
    assert all(p.requires_grad for p in model.parameters())


def test_every_way_has_its_settings():
    names = [f"{way}-{learns}" for way in module.WAYS for learns in module.LEARNS]
    names += ["scratch-finetune", "scratch-wide-rand", *(f"photos-{way}" for way in module.DEEP)]
    assert set(module.FULL["chosen"]) == set(names)
    for name, chosen in module.FULL["chosen"].items():
        assert ("gamma" in chosen) == ("scaled" in name)


def test_the_source_reads_print():
    from tlcourse.data import glyphs
    from tlcourse.metrics import accuracy

    assert accuracy(module.reader_of_print(16), glyphs(1, 500, size=16)[1]) > 0.85
