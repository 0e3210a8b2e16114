"""l2t-pairs on tiny data: what a pair is, what a transfer is, and what the strategies do."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.adaptive import LearningToTransfer
from tlcourse.data import LabelledImages, imu
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptive import l2t_pairs as module

TINY = module.FULL | {
    "past": 4,
    "new": 3,
    "n_features": 5,
    "n_components": 2,
    "source_per_class": 6,
    "target_per_class": 9,
    "draws": 2,
    "n_samples": 10,
}


def images(seed):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(80) % 4
    pixels = torch.rand(80, 1, 4, 4, generator=g) + labels.view(-1, 1, 1, 1) / 2
    return LabelledImages(pixels / 3, labels, ("0", "1", "2", "3"), f"noise {seed}")


@pytest.fixture(scope="module")
def data():
    a, b = imu(people=6, windows=9, matched=True)
    return {"printed": images(0), "scanned": images(1), "sensor a": a, "sensor b": b}


@pytest.fixture(scope="module")
def world(data):
    return module.past_and_new(data, 5, torch.Generator().manual_seed(0))["past"]


def draw(world, seed=0):
    return module.draw_pair(world, torch.Generator().manual_seed(seed), TINY)


def test_a_run_fills_its_table(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    experiment = dataclasses.replace(
        get("l2t-pairs"), settings={"quick": TINY}, load=lambda _: data
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    value = {key: row.values[0] for key, row in result.rows.items()}
    assert len(value) == 15
    for strategy in ("never", "always", "choose", "whether", "shuffled"):
        assert value[strategy] <= value["hindsight"] + 1e-9
    assert value["hurt"] <= value["risks"]
    assert value["missed"] <= 100 - value["risks"] + 1e-9


def test_the_domains_are_sets_of_images_and_single_people(world):
    assert [d.kind for d in world].count("images") == 2
    assert [d.kind for d in world].count("sensors") == 6  # half of twelve people
    shapes = {x.shape[1] for d in world for x in d.samples.values()}
    assert shapes == {5}
    of_b = next(d for d in world if d.name.startswith("sensor b"))
    of_a = next(d for d in world if d.name.startswith("sensor a"))
    assert {"walking", "lying", "standing"} <= set(of_a.samples) & set(of_b.samples)


def test_new_pairs_are_of_other_images_and_people(data):
    worlds = module.past_and_new(data, 5, torch.Generator().manual_seed(1))
    people = {
        when: {d.name for d in world if d.kind == "sensors"} for when, world in worlds.items()
    }
    assert people["past"].isdisjoint(people["new"])
    assert len(people["past"]) == len(people["new"]) == 6
    for name in ("printed", "scanned"):
        past, new = (
            torch.cat([x for d in world if d.name == name for x in d.samples.values()])
            for world in worlds.values()
        )
        assert len(past) + len(new) == 80
        assert torch.cdist(past, new).min() > 1e-6


def test_the_features_are_those_of_the_past(data):
    worlds = module.past_and_new(data, 5, torch.Generator().manual_seed(1))
    moved = {**data, "printed": images(7)}
    others = module.past_and_new(moved, 5, torch.Generator().manual_seed(1))
    for world in (worlds, others):
        past = torch.cat(
            [x for d in world["past"] if d.kind == "images" for x in d.samples.values()]
        )
        assert past.mean(0).abs().max() < 1e-6
        assert past.var(0).sum() == pytest.approx(1)


def test_a_pair_is_two_domains_and_three_classes_of_both(world):
    for seed in range(20):
        pair = draw(world, seed)
        assert torch.bincount(pair.labels).tolist() == [6, 6, 6]
        assert all(7 <= len(x) <= 9 for x in pair.target)
        assert pair.source.shape == (18, 5)
        assert not any(torch.equal(s, t) for s in pair.source for t in torch.cat(pair.target))


def test_domains_without_three_classes_in_common_are_named(world):
    settings = {**TINY, "labels_per_class": 100}
    with pytest.raises(ValueError, match="No two domains of (images|sensors) have three classes"):
        module.draw_pair(world, torch.Generator().manual_seed(0), settings)


def test_every_way_gives_orthonormal_directions_without_labels(world):
    pair = draw(world)
    turned = module.Pair(pair.source, pair.labels.roll(6), pair.target[::-1])
    Ws = module.ways(pair, 2)
    for way, W in Ws.items():
        torch.testing.assert_close(W.T @ W, torch.eye(2, dtype=W.dtype))
        other = module.ways(turned, 2)[way]
        torch.testing.assert_close(W @ W.T, other @ other.T)


def test_one_way_avoids_the_direction_in_which_the_means_differ():
    g = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 0.7, 0.1], dtype=torch.float64)
    x = torch.randn(60, 3, generator=g, dtype=torch.float64) * spread
    shift = torch.tensor([5.0, 0.0, 0.0], dtype=torch.float64)
    pair = module.Pair(x[:30], torch.arange(30) % 3, list((x[30:] + shift).split(10)))
    Ws = module.ways(pair, 1)
    assert Ws["both"][0].abs() > 0.9
    assert Ws["mean"][0].abs() < 0.3


def test_the_nearest_mean_of_source_and_target():
    source = torch.tensor([[0.0], [0.0], [1.0], [1.0], [2.0], [2.0]], dtype=torch.float64)
    target = [torch.full((5, 1), float(k), dtype=torch.float64) for k in range(3)]
    pair = module.Pair(source, torch.tensor([0, 0, 1, 1, 2, 2]), target)
    W = torch.ones(1, 1, dtype=torch.float64)
    assert module.accuracy(pair, W, TINY) == 1
    assert module.accuracy(pair, None, TINY) == 1
    wrong = module.Pair(-4 * source, pair.labels, target)  # the means come in the opposite order
    assert module.accuracy(wrong, W, TINY) < 1
    assert module.accuracy(wrong, None, TINY) == 1


def test_the_nearest_sample():
    known = [torch.tensor([[0.0], [10.0]]), torch.tensor([[4.0]])]
    x = torch.tensor([[1.0], [9.0], [3.0]])
    assert module.nearest(known, x).tolist() == [0, 0, 1]
    assert module.nearest_mean(known, x).tolist() == [1, 0, 1]


def test_the_choice_is_the_largest_prediction_or_none():
    assert module._best_or_never({"both": 1.2, "target": 1.3}) == "target"
    assert module._best_or_never({"both": 0.9, "target": 0.8}) == "never"


def test_shuffled_experiences_have_the_same_pairs_in_another_order(data, monkeypatch):
    fits = []

    def fit(self, experiences):
        fits.append(experiences)
        return original(self, experiences)

    original = LearningToTransfer.fit
    monkeypatch.setattr(LearningToTransfer, "fit", fit)
    module.run_seed(data, TINY, 0, None)
    right, shuffled = fits
    assert len(right) == 4 * 4
    assert all(a.W is b.W for a, b in zip(right, shuffled, strict=True))
    before, after = ([e.improvement for e in es] for es in (right, shuffled))
    assert before != after
    assert sorted(before) == sorted(after)


def test_the_strategies(monkeypatch):
    """Two past pairs say that way a is the best; of two new ones it helps the first alone."""
    x = torch.zeros(4, 2, dtype=torch.float64)
    pairs = [module.Pair(x + i, torch.zeros(4), [x + i]) for i in range(4)]
    Ws = {way: torch.eye(2, dtype=torch.float64) for way in ("a", "b")}
    lived = [
        {"never": 0.5, "a": 0.6, "b": 0.2},
        {"never": 0.5, "a": 0.4, "b": 0.3},
        {"never": 0.5, "a": 0.7, "b": 0.8},
        {"never": 0.5, "a": 0.4, "b": 0.1},
    ]
    said = {2: {"a": 1.1, "b": 1.2, "own": 0.9}, 3: {"a": 1.3, "b": 0.7, "own": 1.1}}

    class Knows(LearningToTransfer):
        made = 0

        def fit(self, experiences):
            self.shuffled, Knows.made = Knows.made == 1, Knows.made + 1
            return self

        def infer(self, *_, **__):
            return Ws["a"]

    def predictions(l2t, pair, Ws):
        return {w: 0.5 if l2t.shuffled else said[int(pair.source[0, 0])][w] for w in Ws}

    draws = iter(pairs)
    monkeypatch.setattr(module, "LearningToTransfer", Knows)
    monkeypatch.setattr(module, "past_and_new", lambda *_: {"past": [], "new": []})
    monkeypatch.setattr(module, "draw_pair", lambda *_: next(draws))
    monkeypatch.setattr(module, "_lived", lambda pair, _: (pair, Ws, lived[int(pair.source[0, 0])]))
    monkeypatch.setattr(module, "_predictions", predictions)
    monkeypatch.setattr(
        module,
        "accuracy",
        lambda pair, W, settings, classify=module.nearest_mean: (
            0.9 if classify is module.nearest else 0.3
        ),
    )
    found = module.run_seed({}, {**TINY, "past": 2, "new": 2}, 0, None)
    expected = {
        "never": 50,
        "pooled": 30,
        "neighbour": 90,
        "always": 55,  # 70 and 40
        "choose": 60,  # b: 80, then a: 40
        "whether": 55,  # a both times
        "search": 40,  # not the first time, and 30 the second
        "shuffled": 50,  # never
        "hindsight": 65,  # 80, and 50 without transfer
        "risks": 50,
        "hurt": 50,
        "missed": 0,
        "said": 1.0,
        "true": 0.6,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["rank"] == pytest.approx(0.4)  # ranks 2 3 4 1 and 3 4 2 1


def test_window_features():
    t = torch.arange(125) / 125
    x = torch.stack([3 + torch.sin(2 * torch.pi * 10 * t), torch.zeros(125)], dim=1)[None]
    f = module.window_features(x).view(5, 2)
    assert f[0].tolist() == pytest.approx([3, 0], abs=1e-6)
    assert f[1, 0].exp() == pytest.approx(0.5**0.5, rel=0.01)
    assert f[2:, 0].argmax() == 1  # 10 turns: the second of the three bands
    assert f[2:, 1].exp().tolist() == pytest.approx([1e-3] * 3)


# --- what the chapter says of the recorded result -------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return load_result("l2t-pairs")


@pytest.mark.claim("claim-l2t-never")
def test_claim_to_decide_is_no_different_from_never(claim, recorded):
    claim.no_difference(recorded, "whether", "never", within=0.1)


@pytest.mark.claim("claim-l2t-shuffled")
def test_claim_shuffled_experiences_do_the_same(claim, recorded):
    claim.no_difference(recorded, "shuffled", "never", within=0.1)


@pytest.mark.claim("claim-l2t-always")
def test_claim_to_decide_is_ahead_of_always_on_average(claim, recorded):
    claim.on_average(recorded, "whether", "always", seeds=8)


@pytest.mark.claim("claim-l2t-search")
def test_claim_the_searched_w_is_behind_never_on_average(claim, recorded):
    claim.on_average(recorded, "never", "search", seeds=8)


@pytest.mark.claim("claim-l2t-room")
def test_claim_hindsight_is_ahead(claim, recorded):
    for strategy in ("never", "always", "whether", "choose", "search"):
        claim.better(recorded, "hindsight", strategy)


@pytest.mark.claim("claim-l2t-neighbour")
def test_claim_the_nearest_neighbour_is_better(claim, recorded):
    for strategy in ("never", "whether", "choose", "search", "shuffled"):
        claim.better(recorded, "neighbour", strategy)


@pytest.mark.claim("claim-l2t-pooled")
def test_claim_the_nearest_mean_of_both_is_worse_than_never(claim, recorded):
    claim.better(recorded, "never", "pooled")


def test_its_mistakes_are_of_one_kind(recorded):
    assert set(recorded["hurt"].values) == {0.0}
    assert min(recorded["missed"].values) > 0
    used = zip(recorded["risks"].values, recorded["missed"].values, strict=True)
    assert max(100 - risks - missed for risks, missed in used) < 5  # it hurts nowhere
    assert min(recorded["rank"].values) > 0
    assert 0.2 < recorded["rank"].interval.mean < 0.3
