"""spottune-digits on tiny data: what each way trains, and what is done to the policy."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy, nll_loss

from tlcourse.adaptive import SpotTuneResNet, global_k_loss
from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptive import spottune_digits as module
from tlcourse.finetuning import changed, snapshot
from tlcourse.models import Classifier, SmallResNet

TINY = module.FULL | {"labels_per_class": [2, 3], "epochs": [2, 1], "batch_size": 6, "shift": 1}


def images(n, seed=0):
    pixels = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return LabelledImages(pixels, torch.arange(n) % 3, ("a", "b", "c"), "noise")


FEW, TEST = images(12), images(9, seed=1)


@pytest.fixture(autouse=True)
def random_network(monkeypatch):
    def glyphs(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SmallResNet(5, width=4).eval()

    monkeypatch.setattr(module, "glyph_network", glyphs)
    monkeypatch.setattr(module, "SmallResNet", lambda K: SmallResNet(K, width=4))


def test_a_run_fills_its_table(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    full = get("spottune-digits")
    rows = tuple(
        dataclasses.replace(row, key=row.key.replace("-40", "-3").replace("-5", "-2"))
        for row in full.rows
    )
    experiment = dataclasses.replace(
        full, rows=rows, settings={"quick": TINY}, load=lambda _: {"train": FEW, "test": TEST}
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == len(full.rows)
    for row in result.rows.values():
        assert 0 <= row.values[0] <= (4 if row.unit == "of 4" else 100)


@pytest.mark.parametrize(
    ("way", "blocks"),
    [
        ("scratch", {"stem", "stage1", "stage2", "stage3"}),
        ("extraction", set()),
        ("last-1", {"stage3"}),
        ("last-2", {"stage2", "stage3"}),
        ("last-3", {"stage1", "stage2", "stage3"}),
        ("finetune", {"stem", "stage1", "stage2", "stage3"}),
        ("l2-sp", {"stem", "stage1", "stage2", "stage3"}),
    ],
)
def test_what_each_way_tunes(way, blocks):
    torch.manual_seed(0)
    source = SmallResNet(3, width=4) if way == "scratch" else module.glyph_network(progress=False)
    before = snapshot(source.backbone)
    model = module.learn(way, FEW, TINY, 2, 0)
    assert {name.split(".")[0] for name in changed(model.backbone, before)} == blocks
    assert not model.training


@pytest.mark.parametrize("way", ["random", "spottune", "global-k"])
def test_spottunes_frozen_copies_stay_and_the_random_policys_agent_too(way):
    torch.manual_seed(0)
    fresh = SpotTuneResNet.from_pretrained(module.glyph_network(progress=False), 3)
    model = module.learn(way, FEW, TINY, 2, 0)
    moved = changed(model, snapshot(fresh))
    assert any(".tuned." in name for name in moved)
    assert not any(".frozen." in name for name in moved)
    assert any(name.startswith("agent.") for name in moved) == (way != "random")


def test_only_learning_from_scratch_sees_shifted_images(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "fit", lambda *_, augment, **__: seen.append(augment))
    for way in ("scratch", "finetune", "spottune"):
        module.learn(way, FEW, TINY, 1, 0)
    assert seen[0].keywords == {"pixels": 1}
    assert seen[1:] == [None, None]


def test_feature_extraction_has_a_rate_of_its_own(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        module, "fit", lambda *_, optimizer, **__: seen.update(lr=optimizer.param_groups[0]["lr"])
    )
    for way in ("extraction", "finetune", "l2-sp", "spottune", "random", "scratch"):
        module.learn(way, FEW, TINY, 1, 0)
        assert seen["lr"] == (0.01 if way == "extraction" else 0.03)


def test_l2_sp_stands_in_the_place_of_weight_decay(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        module,
        "fit",
        lambda *_, optimizer, **__: seen.update(
            decays=[group["weight_decay"] for group in optimizer.param_groups]
        ),
    )
    for way, decays in (("l2-sp", [5e-4, 0]), ("finetune", [5e-4, 5e-4])):  # head, backbone
        module.learn(way, FEW, TINY, 1, 0)
        assert seen["decays"] == decays


def test_l2_sp_pulls_the_backbone_to_the_source_and_not_the_head():
    model = Classifier(module.glyph_network(progress=False).backbone, 3)
    objective = module.l2_sp(model, 0.5)
    batch = FEW[[0, 1, 2]]
    plain = cross_entropy(model.eval()(batch[0]), batch[1])
    torch.testing.assert_close(objective(model, batch), plain)
    with torch.no_grad():
        model.backbone.stem[0].weight.add_(0.1)
        model.head.weight.add_(1.0)
    n = model.backbone.stem[0].weight.numel()
    plain = cross_entropy(model(batch[0]), batch[1])
    torch.testing.assert_close(objective(model, batch), plain + 0.25 * n * 0.01)


def test_the_objectives_of_a_policy():
    torch.manual_seed(0)
    model = SpotTuneResNet.from_pretrained(module.glyph_network(progress=False), 3)
    batch = FEW[[0, 1, 2, 3]]
    torch.manual_seed(1)
    log_probs, decisions = model(batch[0])
    expected = nll_loss(log_probs, batch[1]) + global_k_loss(decisions, 2)
    torch.manual_seed(1)
    torch.testing.assert_close(module.global_k(2)(model, batch), expected)

    coins = torch.stack([module.coin_flips(batch[0]) for _ in range(500)])
    assert set(coins.unique().tolist()) == {0, 1}
    assert coins.mean((0, 1)) == pytest.approx(torch.full((4,), 0.5), abs=0.06)


def test_decisions_can_be_forced():
    model = SpotTuneResNet.from_pretrained(module.glyph_network(progress=False), 3).eval()
    decisions = module.decided(model, TEST)
    assert decisions.shape == (9, 4)
    right = (model(TEST.images)[0].argmax(1) == TEST.labels).double().mean().item()
    assert module.routed(model, TEST, decisions) == pytest.approx(100 * right)
    frozen = model.classify(TEST.images, torch.zeros(9, 4)).argmax(1) == TEST.labels
    assert module.routed(model, TEST, torch.zeros(9, 4)) == pytest.approx(
        100 * frozen.double().mean().item()
    )


def test_which_decisions_a_trained_policy_is_tested_with(monkeypatch):
    rows = torch.arange(9).clamp(max=6)  # the last three take one path
    own = (rows[:, None] // torch.tensor([1, 2, 4, 8]) % 2).float()  # (9, 4)
    asked = []
    monkeypatch.setattr(module, "learn", lambda way, *_: way)
    monkeypatch.setattr(module, "per_cent", lambda *_: 0.0)
    monkeypatch.setattr(module, "decided", lambda *_: own)
    monkeypatch.setattr(
        module, "routed", lambda model, _, decisions: asked.append((model, decisions)) or 0.0
    )
    settings = TINY | {"labels_per_class": [2], "epochs": [1]}
    found = module.run_seed({"train": FEW, "test": TEST}, settings, 0, None)
    assert [model for model, _ in asked] == ["random", "global-k", *["spottune"] * 4]
    coins, same, spottune, ones, zeros, others = (decisions for _, decisions in asked)
    assert set(coins.unique().tolist()) == {0, 1}
    assert torch.equal(same, own)
    assert torch.equal(spottune, own)
    assert (ones == 1).all()
    assert (zeros == 0).all()
    assert not torch.equal(others, own)
    assert sorted(others.tolist()) == sorted(own.tolist())
    assert found["share-stem-2"] == pytest.approx(100 * 3 / 9)
    assert found["one-path-2"] == pytest.approx(100 * 3 / 9)


def test_logistic_regression_on_pixels():
    bright = LabelledImages(
        torch.stack([torch.full((1, 8, 8), float(k % 2)) for k in range(8)]),
        torch.arange(8) % 2,
        ("dark", "bright"),
        "even",
    )
    assert module.on_pixels(bright, bright, 1.0) == 100


# --- what the chapter says of the recorded result -------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return load_result("spottune-digits")


@pytest.mark.claim("claim-spottune-digits-transfer")
def test_claim_fine_tuning_is_beyond_both_baselines(claim, recorded):
    for n in (5, 40):
        claim.better(recorded, f"finetune-{n}", f"scratch-{n}")
        claim.better(recorded, f"finetune-{n}", f"pixels-{n}")


@pytest.mark.claim("claim-spottune-digits-behind")
def test_claim_spottune_stays_behind_fine_tuning_with_forty_labels(claim, recorded):
    claim.better(recorded, "finetune-40", "spottune-40")
    claim.no_difference(recorded, "finetune-5", "spottune-5", within=2)


@pytest.mark.claim("claim-spottune-digits-random")
def test_claim_coins_do_as_well(claim, recorded):
    for n in (5, 40):
        claim.no_difference(recorded, f"spottune-{n}", f"random-{n}", within=2)


@pytest.mark.claim("claim-spottune-digits-simple")
def test_claim_simpler_ways_are_no_different_from_fine_tuning(claim, recorded):
    for n in (5, 40):
        for way in ("l2-sp", "last-2"):
            claim.no_difference(recorded, f"{way}-{n}", f"finetune-{n}", within=1)


@pytest.mark.claim("claim-spottune-digits-others")
def test_claim_another_images_decisions_do_as_well(claim, recorded):
    for n in (5, 40):
        claim.no_difference(recorded, f"others-{n}", f"spottune-{n}", within=0.5)


@pytest.mark.claim("claim-spottune-digits-all")
def test_claim_to_tune_everything_is_better_than_to_ask(claim, recorded):
    claim.better(recorded, "all-tuned-40", "spottune-40")


@pytest.mark.claim("claim-spottune-digits-global")
def test_claim_the_same_blocks_for_all_are_better(claim, recorded):
    for n in (5, 40):
        claim.better(recorded, f"global-k-{n}", f"spottune-{n}")
        claim.no_difference(recorded, f"global-k-{n}", f"finetune-{n}", within=1.5)


def test_what_is_tuned_differs_from_run_to_run(recorded):
    for n in (5, 40):
        shares = recorded[f"share-stem-{n}"].values
        assert min(shares) == 0
        assert max(shares) > 90
