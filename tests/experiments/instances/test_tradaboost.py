"""tradaboost on embedded data: its table, its shares, and what was recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.instances import _parts as parts
from tlcourse.experiments.instances import tradaboost as module

TINY = module.FULL | {"real": False, "source": 40, "shares": [1, 50], "shown": [1], "long": 11}


@pytest.fixture(scope="module")
def recorded():
    return load_result("tradaboost")


def test_a_run_fills_its_table(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    full = get("tradaboost")
    rows = tuple(
        row
        for row in full.rows
        if row.key.endswith("-1") or (row.key.endswith("-50") and ">" not in row.key)
    )
    experiment = dataclasses.replace(full, rows=rows, settings={"quick": TINY}, load=lambda _: data)
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    value = {key: row.values[0] for key, row in result.rows.items()}
    for way in module.WAYS:
        every = [value[f"{way}-{key}-1"] for key in module.KINDS["digits"]]
        assert value[f"{way}-digits-1"] == pytest.approx(np.mean(every))
    # With one sample of each class the SVM makes no error, so that boosting stops after a round.
    assert value["adaboost-digits-1"] == pytest.approx(value["svm-digits-1"], abs=5)


def test_printed_digits_are_in_no_pair():
    assert len(module.KINDS["digits"]) == 6
    assert len(module.KINDS["sensors"]) == 5
    assert not any("printed" in key for key in module.CHOSEN)


def test_aux_with_weight_1_is_both_alike_and_with_0_the_target_alone(data):
    pair = parts.pairs(data, TINY, 0)["scanned>usps"]
    known = parts.balanced(pair.pool, 9, np.random.default_rng(0))
    alike = module.errors(pair, known, TINY | {"aux": 1.0})
    assert alike["aux"] == alike["svmt"]
    alone = module.errors(pair, known, TINY | {"aux": 1e-9})
    assert alone["aux"] == pytest.approx(alone["svm"], abs=7)


@pytest.mark.claim("claim-instances-boost-few")
def test_claim_with_one_per_cent_tradaboost_is_ahead(claim, recorded):
    for way in ("svm", "svmt"):
        claim.better(recorded, "tradaboost-digits-1", f"{way}-digits-1")


@pytest.mark.claim("claim-instances-boost-many")
def test_claim_from_five_per_cent_on_the_target_alone_is_ahead(claim, recorded):
    for share in (5, 10, 20, 50):
        claim.better(recorded, f"svm-digits-{share}", f"tradaboost-digits-{share}")


@pytest.mark.claim("claim-instances-aux")
def test_claim_one_weight_for_all_is_ahead_everywhere(claim, recorded):
    for kind in module.KINDS:
        for share in module.FULL["shares"]:
            claim.better(recorded, f"aux-{kind}-{share}", f"tradaboost-{kind}-{share}")


@pytest.mark.claim("claim-instances-rounds")
def test_claim_more_rounds_change_little(claim, recorded):
    for share in module.FULL["shares"]:
        claim.no_difference(
            recorded, f"tradaboost-long-digits-{share}", f"tradaboost-digits-{share}", within=3
        )
