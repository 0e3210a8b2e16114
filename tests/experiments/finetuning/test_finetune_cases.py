"""The four cases on tiny data: what each way trains and starts from, and what the settings say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import few_per_class
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.finetuning import _two_targets as two
from tlcourse.experiments.finetuning import finetune_cases as module
from tlcourse.finetuning import changed, snapshot

SETTINGS = module.FULL | {
    "labels_per_class": {"small": 2, "large": 4},
    "steps": {"few": 2, "many": 4},
    "batch_size": 3,
}


@pytest.fixture
def data(images):
    return {
        f"{target}-{part}": images(4, channels=1, seed=seed)
        for target in module.TARGETS
        for part, seed in (("train", 0), ("test", 1))
    }


def start_of(data, n=2):
    few = few_per_class(data["similar-train"], n, seed=0)
    return few, module.probed(few, 1.0)


def learn(way, few, start, steps=2, how=(0.01, 0)):
    return module.learn(way, few, start, steps, list(how), 3, 5)


def test_a_run_fills_its_table(tmp_path, data):
    experiment = dataclasses.replace(
        get("finetune-cases"), settings={"quick": SETTINGS}, load=lambda _: data
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == 4 * (2 + 2 * len(module.LEARN) + 1)
    assert all(0 <= row.values[0] <= 100 for row in result.rows.values())


@pytest.mark.parametrize(
    ("way", "moves"),
    [
        ("last-1", {"stage3"}),
        ("last-2", {"stage2", "stage3"}),
        ("all-d1", {"stem", "stage1", "stage2", "stage3"}),
        ("all-d3", {"stem", "stage1", "stage2", "stage3"}),
        ("all-d10", {"stem", "stage1", "stage2", "stage3"}),
        ("new-later", {"stage2", "stage3"}),
    ],
)
def test_what_each_way_keeps_of_the_source(data, way, moves):
    few, start = start_of(data)
    before = snapshot(start)
    model = learn(way, few, start)
    moved = changed(model, before)
    assert {name.split(".")[1] for name in moved if name.startswith("backbone")} == moves
    assert "head.weight" in moved
    assert changed(start, before) == ()
    assert not model.training


def test_where_each_way_starts(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        module, "train_steps", lambda model, groups, *_: seen.update({way: (model, groups)})
    )
    few, start = start_of(data)
    for way in module.LEARN:
        learn(way, few, start)
    for way, (model, groups) in seen.items():
        same = set(snapshot(start)) - set(changed(model, snapshot(start)))
        early = any(name.startswith("backbone.stem.0") for name in same)
        late = any(name.startswith("backbone.stage3.conv1") for name in same)
        assert early == (way != "scratch")
        assert late == (way not in ("scratch", "new-later"))
        assert ("head.weight" in same) == late
        ratio = groups[-1]["lr"] / groups[0]["lr"]
        expected = {"all-d3": 27, "all-d10": 1000}.get(way, 1)
        assert ratio == pytest.approx(expected)
    torch.manual_seed(5)  # learn's
    fresh = module.SmallResNet(few.n_classes)
    for way in ("scratch", "new-later"):
        new = seen[way][0].backbone.stage3.conv1.weight
        assert torch.equal(new, fresh.backbone.stage3.conv1.weight)


def test_all_have_the_same_number_of_steps(data, monkeypatch):
    seen = []
    monkeypatch.setattr(two, "fit", lambda *_, **how: seen.append(how))
    few, start = start_of(data)  # 6 images: two steps an epoch
    for way in module.LEARN:
        learn(way, few, start, steps=8, how=(0.01, 2))
    assert {(how["epochs"], how["batch_size"]) for how in seen} == {(4, 3)}
    assert {how["augment"].keywords["pixels"] for how in seen} == {2}
    learn("scratch", few, start, how=(0.01, 0))
    assert seen[-1]["augment"] is None


def test_a_seed_draws_its_own_few_images_and_large_takes_them_all(data, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "learn", lambda way, few, *_: seen.append(few) or few)
    monkeypatch.setattr(module, "per_cent", lambda *_: 0.0)
    for seed in (0, 1):
        module.run_seed(data, SETTINGS, seed, None)
    per_case = 2 * len(module.LEARN) + 1
    small, large = seen[0], seen[per_case]
    assert torch.equal(small.images, few_per_class(data["similar-train"], 2, seed=0).images)
    assert large is data["similar-train"]
    assert not torch.equal(seen[4 * per_case].images, small.images)


def test_both_targets_hold_the_same_pixels_in_another_order():
    data = module.load_two_targets({"size": 32})
    for part in ("train", "test"):
        similar, different = data[f"similar-{part}"], data[f"different-{part}"]
        assert torch.equal(similar.labels, different.labels)
        assert not torch.equal(similar.images, different.images)
        pixels = [d.images[:50].flatten(1).sort(1).values for d in (similar, different)]
        assert torch.equal(*pixels)


def test_every_way_was_chosen_for_in_every_case():
    cases = [f"{t}-{size}" for t in module.TARGETS for size in module.SIZES]
    assert set(module.CHOSEN) == {f"{case}-{b}" for case in cases for b in module.FULL["steps"]}
    for ways in module.CHOSEN.values():
        assert list(ways) == list(module.LEARN)
        assert all(
            rate in (1e-3, 3e-3, 1e-2, 3e-2, 0.1) and s in (0, 2) for rate, s in ways.values()
        )
    assert set(module.STRENGTHS) == set(cases)


# --- what the chapter says of the recorded result -------------------------------------------------


CASES = ("similar-small", "different-small", "similar-large", "different-large")
ADVICE = {
    "similar-small": "head-similar-small",
    "different-small": "new-later-different-small",
    "similar-large": "all-d3-similar-large",
    "different-large": "all-d1-different-large",
}


@pytest.fixture(scope="module")
def recorded():
    return load_result("finetune-cases")


def advised(case, budget):
    return ADVICE[case] if ADVICE[case].startswith("head") else f"{ADVICE[case]}-{budget}"


@pytest.mark.claim("claim-rates-ten")
def test_claim_a_decay_of_ten_is_too_slow(claim, recorded):
    for case in ("similar-small", "different-small", "different-large"):
        claim.better(recorded, f"all-d1-{case}-many", f"all-d10-{case}-many")
    claim.no_difference(
        recorded, "all-d1-similar-large-many", "all-d10-similar-large-many", within=1
    )


@pytest.mark.claim("claim-rates-three")
def test_claim_one_rate_and_a_decay_of_three_are_near(claim, recorded):
    for case in ("similar-large", "different-large"):
        claim.no_difference(recorded, f"all-d1-{case}-many", f"all-d3-{case}-many", within=1)


@pytest.mark.claim("claim-rates-three-behind")
def test_claim_one_rate_is_ahead_on_the_small_and_similar_target(claim, recorded):
    claim.better(recorded, "all-d1-similar-small-many", "all-d3-similar-small-many")


def test_the_largest_rate_on_offer_was_chosen_for_a_decay_of_ten():
    assert {module.CHOSEN[f"{case}-many"]["all-d10"][0] for case in CASES} == {0.03}


@pytest.mark.claim("claim-depth-stage3")
def test_claim_the_last_stage_is_worth_training(claim, recorded):
    for case in CASES:
        claim.better(recorded, f"last-1-{case}-many", f"head-{case}")


@pytest.mark.claim("claim-depth-all")
def test_claim_all_layers_are_ahead_of_the_last_stage(claim, recorded):
    for case in CASES:
        claim.better(recorded, f"all-d1-{case}-many", f"last-1-{case}-many")


def test_all_layers_add_less_to_the_last_stage_than_that_to_the_head_in_each_seed(recorded):
    for case in CASES:
        first = recorded.differences(f"last-1-{case}-many", f"head-{case}")
        rest = recorded.differences(f"all-d1-{case}-many", f"last-1-{case}-many")
        assert all(a > b for a, b in zip(first, rest, strict=True)), case


@pytest.mark.claim("claim-depth-two")
def test_claim_two_stages_are_nearly_all(claim, recorded):
    for case in CASES:
        claim.no_difference(recorded, f"all-d1-{case}-many", f"last-2-{case}-many", within=2)


@pytest.mark.claim("claim-depth-ceiling")
def test_claim_the_head_alone_is_behind_the_pixels_on_tiles(claim, recorded):
    for size in ("small", "large"):
        claim.better(recorded, f"pixels-different-{size}", f"head-different-{size}")


@pytest.mark.claim("claim-cases-few")
def test_claim_transfer_saves_steps(claim, recorded):
    for case in CASES:
        claim.better(recorded, advised(case, "few"), f"scratch-{case}-few")


@pytest.mark.claim("claim-cases-few-pixels")
def test_claim_after_few_steps_the_pixels_are_ahead_on_tiles(claim, recorded):
    claim.better(recorded, "pixels-different-large", advised("different-large", "few"))
    claim.on_average(recorded, "pixels-different-small", advised("different-small", "few"))


@pytest.mark.claim("claim-cases-plateau")
def test_claim_the_plateau_is_one(claim, recorded):
    for case in CASES:
        claim.no_difference(recorded, f"scratch-{case}-twice", f"scratch-{case}-many", within=2)


@pytest.mark.claim("claim-cases-small-similar")
def test_claim_small_and_similar(claim, recorded):
    for other in ("head-similar-small", "scratch-similar-small-many", "pixels-similar-small"):
        claim.better(recorded, "all-d1-similar-small-many", other)
    claim.better(recorded, "scratch-similar-small-many", "head-similar-small")


@pytest.mark.claim("claim-cases-small-different")
def test_claim_small_and_different(claim, recorded):
    for other in ("head-different-small", "scratch-different-small-many"):
        claim.better(recorded, "new-later-different-small-many", other)


@pytest.mark.claim("claim-cases-small-different-twice")
def test_claim_small_and_different_with_twice_the_steps_from_scratch(claim, recorded):
    new = "new-later-different-small-many"
    claim.on_average(recorded, new, "scratch-different-small-twice", seeds=8)


@pytest.mark.claim("claim-cases-small-different-pixels")
def test_claim_small_and_different_is_no_more_than_the_pixels(claim, recorded):
    new = "new-later-different-small-many"
    claim.no_difference(recorded, new, "pixels-different-small", within=2.5)


@pytest.mark.claim("claim-cases-large-similar")
def test_claim_large_and_similar(claim, recorded):
    claim.better(recorded, "all-d3-similar-large-many", "head-similar-large")


@pytest.mark.claim("claim-cases-large-similar-scratch")
def test_claim_large_and_similar_is_no_more_than_from_scratch(claim, recorded):
    claim.no_difference(
        recorded, "all-d3-similar-large-many", "scratch-similar-large-many", within=1
    )


@pytest.mark.claim("claim-cases-large-similar-twice")
def test_claim_large_and_similar_with_twice_the_steps_from_scratch(claim, recorded):
    scratch, all_layers = "scratch-similar-large-twice", "all-d3-similar-large-many"
    claim.better(recorded, scratch, all_layers)
    claim.no_difference(recorded, scratch, all_layers, within=0.5)


def test_with_many_labels_no_way_with_transfer_is_ahead_of_training_from_scratch(recorded):
    for case in ("similar-large", "different-large"):
        trained = [f"{way}-{case}-many" for way in module.LEARN if way != "scratch"]
        for way in (f"head-{case}", *trained):
            assert recorded.paired(way, f"scratch-{case}-many").low < 0, way


@pytest.mark.claim("claim-cases-large-different")
def test_claim_large_and_different(claim, recorded):
    for way in ("scratch", "new-later"):
        claim.better(recorded, f"{way}-different-large-many", "all-d1-different-large-many")
