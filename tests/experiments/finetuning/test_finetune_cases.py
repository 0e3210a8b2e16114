"""The four cases on tiny data: what each way trains and starts from, and what the settings say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import few_per_class
from tlcourse.experiments import get
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
