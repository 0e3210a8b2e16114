"""negative-transfer on embedded data: what a pair is, what each way sees, and what was recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tlcourse.data import imu
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.instances import _parts as parts
from tlcourse.experiments.instances import negative_transfer as module

COUNTS = module.FULL["labels_per_class"]
TINY = module.FULL | {"real": False, "source": 30, "labels_per_class": [2], "sizes": [50]}


@pytest.fixture(scope="module")
def pairs(data):
    return parts.pairs(data, TINY, 0)


@pytest.fixture(scope="module")
def recorded():
    return load_result("negative-transfer")


def test_a_run_fills_its_table(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    full = get("negative-transfer")

    def kept(key):
        if key.startswith("size-"):
            return key.endswith("-50")
        return key.endswith("-2") or key in {f"source-{pair}" for pair in module.PAIRS}

    rows = tuple(row for row in full.rows if kept(row.key))
    experiment = dataclasses.replace(full, rows=rows, settings={"quick": TINY}, load=lambda _: data)
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    value = {key: row.values[0] for key, row in result.rows.items()}
    gains = [value[f"gain-{key}-2"] for key in module.PAIRS]
    assert np.mean(gains) == pytest.approx(value["both-2"] - value["target-2"])
    assert np.mean(np.maximum(0, -np.array(gains))) == pytest.approx(value["harm-both-2"])
    assert -1 <= value["rank-leep-2"] <= 1
    assert len(full.rows) > len(COUNTS) * len(module.PAIRS)


def test_the_pairs_are_all_of_digits_and_five_of_people(pairs):
    assert list(pairs) == list(module.PAIRS)
    assert len(module.OF_DIGITS) == 12
    for pair in pairs.values():
        assert pair.source[0].shape[1] == pair.pool[0].shape[1] == pair.test[0].shape[1]
        assert len(pair.source[1]) <= 30


def test_nobody_is_in_training_and_test(pairs):
    for key in ("torso>leg", "leg>torso", "waist>torso", "torso>waist", "one>many"):
        pair = pairs[key]
        apart = np.abs(pair.pool[0][:, None] - pair.test[0][None]).max(-1)
        assert apart.min() > 1e-9
    one = np.abs(pairs["one>many"].source[0][:, None] - pairs["one>many"].pool[0][None])
    assert one.max(-1).min() > 1e-9


def test_two_sensors_share_the_activities_that_both_have(pairs):
    assert set(pairs["waist>torso"].source[1]) == set(pairs["torso>waist"].pool[1])
    assert len(set(pairs["waist>torso"].source[1])) < len(set(pairs["torso>leg"].source[1]))


def test_fewer_labels_are_among_more_and_are_balanced(pairs):
    pool = pairs["scanned>usps"].pool
    few, many = (parts.balanced(pool, n, np.random.default_rng(3)) for n in (6, 12))
    assert np.bincount(few[1]).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(many[0][:6], few[0])
    assert len(parts.balanced(pool, 1, np.random.default_rng(3))[1]) == 3  # one of each at least


def test_the_features_of_a_window():
    torso, _ = imu(people=1, windows=1, matched=True)
    found = parts.window_features(torso.windows)
    assert found.shape == (6, 30)
    np.testing.assert_allclose(found[:, :6], torso.windows.double().mean(1), atol=1e-9)


def test_no_way_sees_the_test(pairs):
    pair = pairs["mnist>usps"]
    known = module._labelled(pair, 2, 0)
    model = LogisticRegression(max_iter=2_000).fit(*pair.source)
    turned = dataclasses.replace(pair, test=(pair.test[0], (pair.test[1] + 1) % 3))
    seen, other = (module.ways(p, known, model, TINY) for p in (pair, turned))
    assert all(seen[way] + other[way] <= 100 + 1e-9 for way in seen)
    assert len(seen) == 8


# --- what the chapter says ------------------------------------------------------------------------


@pytest.mark.claim("claim-instances-few")
def test_claim_five_sources_help_two_labels(claim, recorded):
    for key in ("mnist>usps", "usps>mnist", "scanned>printed", "waist>torso", "one>many"):
        claim.beyond(recorded, f"gain-{key}-2", 0.0, of="no gain")


@pytest.mark.claim("claim-instances-pooled")
def test_claim_both_alike_cost_at_every_count(claim, recorded):
    for n in COUNTS:
        claim.better(recorded, f"target-{n}", f"both-{n}")


@pytest.mark.claim("claim-instances-fades")
def test_claim_a_gain_fades_with_labels(claim, recorded):
    claim.better(recorded, "gain-mnist>usps-2", "gain-mnist>usps-20")


@pytest.mark.claim("claim-instances-size")
def test_claim_more_of_an_unlike_source_hurts_more(claim, recorded):
    for key in ("scanned>mnist", "mnist>scanned"):
        claim.better(recorded, f"size-{key}-50", f"size-{key}-1000")


@pytest.mark.claim("claim-instances-pull")
def test_claim_the_chosen_pull_gains_with_few_labels_and_costs_little_with_many(claim, recorded):
    for n in (2, 3, 4):
        claim.better(recorded, f"pull-{n}", f"target-{n}")
    for n in COUNTS[4:]:
        claim.no_difference(recorded, f"pull-{n}", f"target-{n}", within=1)


@pytest.mark.claim("claim-instances-pull-both")
def test_claim_the_chosen_pull_is_ahead_of_both_alike(claim, recorded):
    for n in COUNTS:
        claim.better(recorded, f"pull-{n}", f"both-{n}")


@pytest.mark.claim("claim-instances-pull-chosen")
def test_claim_choosing_the_pull_is_better_than_a_full_one(claim, recorded):
    for n in COUNTS[:8]:
        claim.better(recorded, f"pull-{n}", f"towards-{n}")


@pytest.mark.claim("claim-instances-reject")
def test_claim_rejecting_samples_neither_harms_nor_gains_much(claim, recorded):
    for n in COUNTS:
        claim.no_difference(recorded, f"reject-{n}", f"target-{n}", within=1.5)


@pytest.mark.claim("claim-instances-whether")
def test_claim_this_source_or_none_is_worse_than_never(claim, recorded):
    for n in COUNTS[1:9]:
        claim.better(recorded, f"target-{n}", f"whether-{n}")


@pytest.mark.claim("claim-instances-resolution")
def test_claim_coarse_solutions_add_nothing_to_the_pull(claim, recorded):
    for n in COUNTS:
        claim.no_difference(recorded, f"resolution-{n}", f"pull-{n}", within=2)


@pytest.mark.claim("claim-instances-tradaboost")
def test_claim_tradaboost_is_between_both_alike_and_the_target_alone(claim, recorded):
    for n in COUNTS[:8]:
        claim.better(recorded, f"tradaboost-{n}", f"both-{n}")
    for n in COUNTS[1:]:
        claim.better(recorded, f"target-{n}", f"tradaboost-{n}")


@pytest.mark.claim("claim-instances-rank")
def test_claim_with_twenty_labels_all_estimates_rank(claim, recorded):
    for estimate in module.ESTIMATES:
        claim.beyond(recorded, f"rank-{estimate}-20", 0.0, of="no correlation")


@pytest.mark.claim("claim-instances-rank-few")
def test_claim_with_two_labels_trying_ranks_better_than_leep(claim, recorded):
    claim.better(recorded, "rank-validated-2", "rank-leep-2")


@pytest.mark.claim("claim-instances-rank-accuracy")
def test_claim_with_twenty_labels_accuracy_ranks_better_than_leep(claim, recorded):
    claim.better(recorded, "rank-accuracy-20", "rank-leep-20")
