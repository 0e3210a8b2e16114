"""Grown networks on tiny data: what each way adds, what learns, and what is said of the result."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
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


# --- what the chapter says of the recorded result -------------------------------------------------

GROWN = [way for way in module.WAYS if way != "finetune"]
LATER = [learns for learns in module.LEARNS if learns != "new"]


@pytest.fixture(scope="module")
def recorded():
    return load_result("growing")


@pytest.mark.claim("claim-grow-new")
def test_claim_grown_networks_are_ahead_of_a_new_head(claim, recorded):
    for way in GROWN:
        claim.better(recorded, f"{way}-new", "finetune-new")


@pytest.mark.claim("claim-grow-scaled")
def test_claim_scaled_is_the_best_of_the_wider_ones(claim, recorded):
    for way in ("wide-rand", "wide-copy"):
        claim.better(recorded, "wide-scaled-new", f"{way}-new")


@pytest.mark.claim("claim-grow-more")
def test_claim_little_is_left_once_old_layers_learn(claim, recorded):
    for way in GROWN:
        for learns in LATER:
            claim.no_difference(recorded, f"{way}-{learns}", f"finetune-{learns}", within=2)


@pytest.mark.claim("claim-grow-behind")
def test_claim_new_random_parts_are_behind_with_two_layers(claim, recorded):
    for way in ("deep-rand", "wide-rand", "wide-scaled"):
        claim.better(recorded, "finetune-two", f"{way}-two")


@pytest.mark.claim("claim-grow-ahead")
def test_claim_the_deeper_scaled_network_alone_is_ahead_with_all_layers(claim, recorded):
    claim.better(recorded, "deep-scaled-all", "finetune-all")
    others = {(way, learns) for way in GROWN for learns in LATER} - {("deep-scaled", "all")}
    for way, learns in sorted(others):
        assert recorded.paired(f"{way}-{learns}", f"finetune-{learns}").low <= 0


@pytest.mark.claim("claim-grow-deep")
def test_claim_scaling_helps_the_deeper_network(claim, recorded):
    for learns in LATER:
        claim.better(recorded, f"deep-scaled-{learns}", f"deep-rand-{learns}")


@pytest.mark.claim("claim-grow-copies")
def test_claim_copies_make_no_difference(claim, recorded):
    for learns in module.LEARNS:
        claim.no_difference(recorded, f"wide-copy-{learns}", f"wide-rand-{learns}", within=1.5)


@pytest.mark.claim("claim-grow-scratch")
def test_claim_transfer_is_ahead_of_scratch(claim, recorded):
    for way in module.WAYS:
        scratch = "wide-rand" if way.startswith("wide") else "finetune"
        for learns in LATER:
            claim.better(recorded, f"{way}-{learns}", f"scratch-{scratch}")


@pytest.mark.claim("claim-grow-pixels")
def test_claim_nothing_is_beyond_the_pixels(claim, recorded):
    for way in module.WAYS:
        for learns in module.LEARNS:
            key = f"{way}-{learns}"
            found = recorded.paired(key, "pixels")
            if found.mean > 0:
                claim.on_average(recorded, key, "pixels")
            elif found.high >= 0:
                claim.on_average(recorded, "pixels", key)
            else:
                claim.better(recorded, "pixels", key)


@pytest.mark.claim("claim-grow-size")
def test_claim_size_alone_makes_little_difference(claim, recorded):
    claim.no_difference(recorded, "scratch-wide-rand", "scratch-finetune", within=2)


@pytest.mark.claim("claim-grow-photos")
def test_claim_a_new_layer_on_features_makes_little_difference(claim, recorded):
    for way in ("deep-rand", "deep-scaled"):
        claim.no_difference(recorded, f"photos-{way}", "photos-head", within=3)


@pytest.mark.claim("claim-grow-logistic")
def test_claim_logistic_regression_is_behind_the_head(claim, recorded):
    claim.better(recorded, "photos-head", "photos-logistic")
