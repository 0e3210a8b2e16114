"""Adapters and averages on tiny data: what each way trains, what is averaged, who is asked."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.experiments import _digits, get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.finetuning import adapters_averages as module
from tlcourse.finetuning import changed, snapshot
from tlcourse.metrics import predict

SETTINGS = module.FULL | {"labels_per_class": 2, "steps": 4, "batch_size": 10}


@pytest.fixture
def data(images):
    return {
        name: images(3, channels=1, n_classes=10, seed=seed)
        for seed, name in enumerate(("train", "test", "printed"))
    }


def test_a_run_fills_its_table(tmp_path, data):
    experiment = dataclasses.replace(
        get("adapters-averages"), settings={"quick": SETTINGS}, load=lambda _: data
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == 2 * len(module.LABELS | module.AVERAGES)
    assert all(0 <= row.values[0] <= 100 for row in result.rows.values())


def test_the_start_answers_for_the_first_ten_characters(data):
    torch.manual_seed(0)
    source, start = _digits.glyph_network(progress=False), module.digit_reader()
    images = data["printed"].images
    torch.testing.assert_close(start(images), source(images)[:, :10])


@pytest.mark.parametrize("way", module.WAYS)
def test_what_each_way_changes(data, way):
    few, start = data["train"], module.digit_reader()
    model = module.learn(way, few, 0.01, SETTINGS, 0)
    moved = set(changed(model, snapshot(start)))
    weights = {n for n, p in start.named_parameters() if p.ndim > 1 and n.startswith("backbone")}
    head = {"head.weight", "head.bias"}
    if way == "all":
        assert {name for name, _ in start.named_parameters()} <= moved
        assert any("running" in name for name in moved)
    else:
        assert moved == head | (set() if way == "head" else weights)
    if way == "rank-1":
        for name in weights:
            change = model.state_dict()[name] - start.state_dict()[name]
            assert torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) == 1
    assert not model.training


def test_the_averages(data):
    few, start = data["train"], module.digit_reader()
    runs = [module.learn("all", few, rate, SETTINGS, 0) for rate in (0.01, 0.02)]
    found = module.averaged(start, runs, few)
    assert set(found) == {k for k in module.AVERAGES if k.startswith(("soup", "line"))}
    weight = "backbone.stage2.conv1.weight"
    values = [run.state_dict()[weight] for run in runs]
    torch.testing.assert_close(found["soup"].state_dict()[weight], (values[0] + values[1]) / 2)
    line = 0.75 * start.state_dict()[weight] + 0.25 * values[0]
    torch.testing.assert_close(found["line-0.25"].state_dict()[weight], line)
    for way in ("soup", "line-0.5"):
        moved = changed(found[way], snapshot(found[f"{way}-as-is"]))
        assert moved
        assert all("running" in name or "num_batches" in name for name in moved)


def test_who_is_asked_and_what_an_ensemble_is(data, monkeypatch):
    made = []
    real = module.learn

    def learn(way, few, rate, settings, seed, *, shift=0):
        made.append((way, rate, shift, seed, real(way, few, rate, settings, seed, shift=shift)))
        return made[-1][-1]

    monkeypatch.setattr(module, "learn", learn)
    found = module.run_seed(data, SETTINGS, 3, None)
    rate = module.FULL["rates"]["all"]
    runs = [(r / rate, shift, seed) for way, r, shift, seed, _ in made if way == "all"]
    assert runs == [(1, 0, 3), (0.5, 0, 3), (2, 0, 3), (1, 0, 1_003), (1, 2, 2_003)]
    networks = [network for way, *_, network in made if way == "all"]
    for task, exam in (("new", data["test"]), ("old", data["printed"])):
        mean = sum(predict(network, exam).softmax(1) for network in networks) / 5
        right = (mean.argmax(1) == exam.labels).double().mean().item()
        assert found[f"ensemble-{task}"] == pytest.approx(100 * right)
    assert {way: rate for way, rate, *_ in made[:5]} == module.FULL["rates"]


def test_the_data():
    data = module.load(module.FULL | {"n_printed": 300})
    assert data["printed"].labels.max() < 10
    assert data["printed"].n_classes == 10
    assert len(data["test"]) == 797


# --- what the chapter says of the recorded result -------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return load_result("adapters-averages")


@pytest.mark.claim("claim-adapters-new")
def test_claim_fine_tuning_learns_more_than_adapters(claim, recorded):
    for rank in (1, 4, 16):
        claim.better(recorded, "all-new", f"rank-{rank}-new")


@pytest.mark.claim("claim-adapters-old")
def test_claim_adapters_keep_more(claim, recorded):
    for rank in (4, 16):
        claim.better(recorded, f"rank-{rank}-old", "all-old")
    claim.on_average(recorded, "rank-1-old", "all-old")


@pytest.mark.claim("claim-adapters-head")
def test_claim_only_rank_16_learns_more_than_the_head(claim, recorded):
    claim.better(recorded, "rank-16-new", "head-new")
    for rank in (1, 4):
        claim.no_difference(recorded, f"rank-{rank}-new", "head-new", within=2)


@pytest.mark.claim("claim-adapters-head-old")
def test_claim_rank_4_keeps_more_than_the_head(claim, recorded):
    claim.better(recorded, "rank-4-old", "head-old")


@pytest.mark.claim("claim-soup-better")
def test_claim_the_soup_is_ahead_of_its_members(claim, recorded):
    for task in ("new", "old"):
        claim.better(recorded, f"soup-{task}", f"mean-of-five-{task}")


@pytest.mark.claim("claim-soup-ensemble")
def test_claim_the_soup_is_near_the_ensemble(claim, recorded):
    claim.no_difference(recorded, "soup-new", "ensemble-new", within=1)
    claim.no_difference(recorded, "soup-old", "ensemble-old", within=2)


@pytest.mark.claim("claim-soup-statistics")
def test_claim_new_statistics_change_little(claim, recorded):
    for task in ("new", "old"):
        claim.no_difference(recorded, f"soup-{task}", f"soup-as-is-{task}", within=1.5)


@pytest.mark.claim("claim-line-three-quarters")
def test_claim_three_quarters_of_the_way(claim, recorded):
    claim.better(recorded, "line-0.75-as-is-old", "all-old")
    claim.no_difference(recorded, "line-0.75-as-is-new", "all-new", within=1)


@pytest.mark.claim("claim-line-half")
def test_claim_half_of_the_way(claim, recorded):
    claim.better(recorded, "line-0.5-as-is-old", "all-old")
    claim.better(recorded, "all-new", "line-0.5-as-is-new")


@pytest.mark.claim("claim-line-statistics")
def test_claim_statistics_of_the_new_data_cost_the_old_task(claim, recorded):
    for alpha in (0.5, 0.75):
        claim.better(recorded, f"line-{alpha}-as-is-old", f"line-{alpha}-old")
