"""The spottune experiments on tiny data: what each way trains, what it sees, what it decides."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.adaptive import SpotTune
from tlcourse.data import imu
from tlcourse.experiments import get
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptive import spottune as module
from tlcourse.finetuning import changed, snapshot

TINY = module.FULL | {
    "cases": {
        case: how
        | {
            "epochs": {"short": 4, "long": 1},
            "batch_size": 48,
            "labels_per_class": how["labels_per_class"] and 2,
        }
        for case, how in module.FULL["cases"].items()
    },
    "width": 8,
    "agent_width": 4,
    "pool": 25,
    "source_epochs": 1,
    "trees": 5,
    "people": 10,
    "windows": 2,
}
HOW = TINY | TINY["cases"]["many"]


@pytest.fixture(scope="module")
def data():
    return module.load_imu(TINY)


@pytest.fixture
def nets(data, tmp_path):
    source, train, test = module.parts(data, HOW, 0)
    return (*module.source_networks(source, HOW, 0, tmp_path), train, test)


@pytest.mark.parametrize("name", ["spottune-imu", "spottune-har"])
def test_a_run_fills_its_table(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    experiment = dataclasses.replace(get(name), settings={"quick": TINY}, load=lambda _: data)
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == len(experiment.rows)
    for way in module.POLICIES:
        (share,) = result[f"{way}-tuned-lstm1"].values
        of_activity = [result[f"{way}-tuned-lstm1-{k}"].values[0] for k in range(6)]
        assert share == pytest.approx(sum(of_activity) / 6)  # there are as many of each


def test_the_figures_of_the_report():
    rows = {row.key: row.paper for row in get("spottune-har").rows if row.paper is not None}
    assert rows["spottune-report-short"] / rows["scratch-report-short"] == pytest.approx(
        0.92, abs=0.005
    )
    assert rows["loss-spottune"] / rows["loss-scratch"] == pytest.approx(1.236, abs=0.001)
    assert len(rows) == 4


def test_nobody_is_in_training_and_in_the_test(data):
    half = data["target-matched"].people
    _, target = imu(10, 2)
    assert len(half) == len(target.people) / 2
    for seed in range(3):
        _, train, test = module.parts(data, HOW, seed)
        assert sorted((*train.people, *test.people)) == list(half)
        assert len(test.people) == 1


def test_sets_are_matched_and_standardised_or_as_they_are(data):
    source, train, _ = module.parts(data, HOW, 0)
    assert (source.rate, train.rate) == (25, 25)
    assert source.units == train.units == ("sd",) * 6
    source, train, _ = module.parts(data, TINY | TINY["cases"]["report"], 0)
    assert (source.rate, train.rate) == (25, 50)
    assert (source.units[0], train.units[0]) == ("m/s^2", "g")


def test_few_are_as_many_of_every_activity(data):
    how = TINY | TINY["cases"]["few"] | {"labels_per_class": 3}
    _, train, _ = module.parts(data, how, 0)
    assert torch.bincount(train.labels).tolist() == [3] * 6


LSTM = {"backbone.lstm1", "backbone.lstm2", "backbone.lstm3"}
LINEAR = {"backbone.hidden", "head"}


@pytest.mark.parametrize(
    ("way", "moves"),
    [
        ("scratch", LSTM | LINEAR),
        ("finetune", LSTM | LINEAR),
        ("rates", LSTM | LINEAR),
        ("extraction", LINEAR),
        ("steps", LSTM | LINEAR),
    ],
)
def test_what_each_way_trains(way, moves, nets, tmp_path):
    net, agent, train, _ = nets
    model = module.make(way, net, agent, 6, HOW, 0)
    known = torch.equal(model.backbone.lstm1.weight_ih_l0, net.backbone.lstm1.weight_ih_l0)
    assert known == (way in ("finetune", "rates", "extraction"))
    before = snapshot(model)
    module.learn(model, way, train, 1, HOW, 0, tmp_path / way)
    parts = [name.rsplit(".", 1)[0] for name in changed(model, before)]
    assert set(parts) == moves


@pytest.mark.parametrize(
    ("way", "groups"), [("spottune", 1), ("warm", 1), ("states", 2), ("gates", 4)]
)
def test_what_spottune_trains(way, groups, nets, tmp_path):
    net, agent, train, _ = nets
    model = module.make(way, net, agent, 6, HOW, 0)
    assert model.n_decisions == 3 * groups
    known = [torch.equal(p, q) for p, q in zip(model.agent.backbone.parameters(),
                                               agent.backbone.parameters(), strict=True)
             if p.shape == q.shape]  # fmt: skip
    assert (known != [] and all(known)) == (way == "warm")
    if way == "warm":
        model.eval()
        assert model.decide(train.windows).mean() > 0.9
    before = snapshot(model)
    # In the first step both copies are the same, and no decision has a gradient.
    module.learn(model, way, train, 2, HOW, 0, tmp_path / way)
    moved = changed(model, before)
    assert moved
    assert not any(".frozen." in name for name in moved)
    assert any(name.startswith("agent.") for name in moved)
    assert isinstance(model, SpotTune)
    assert not model.training


def test_earlier_layers_are_slower(nets, tmp_path, monkeypatch):
    net, agent, train, _ = nets
    seen = {}
    monkeypatch.setattr(module, "fit", lambda model, *_, optimizer, **__: seen.update(
        rates=[g["lr"] for g in optimizer.param_groups]))  # fmt: skip
    for way in ("rates", "spottune"):
        module.learn(module.make(way, net, agent, 6, HOW, 0), way, train, 1, HOW, 0, tmp_path / way)
        expected = {"rates": [0.003 / 2**i for i in (4, 3, 2, 1, 0)], "spottune": [0.003, 0.001]}
        assert seen["rates"] == pytest.approx(expected[way])


def test_the_policy_is_counted_by_layer_activity_and_person(nets):
    net, agent, _, test = nets
    model = module.make("spottune", net, agent, 6, HOW, 0).eval()
    lying = (test.labels == 5).float()
    decisions = torch.stack([lying, torch.ones(len(test)), torch.zeros(len(test))], dim=1)
    model.decide = lambda x: decisions[: len(x)]
    found = module.policy(model, test)
    assert (found["tuned-lstm1"], found["tuned-lstm2"], found["tuned-lstm3"]) == pytest.approx(
        (100 / 6, 100, 0)
    )
    assert [found[f"tuned-lstm1-{k}"] for k in range(6)] == [0, 0, 0, 0, 0, 100]
    assert found["paths"] == pytest.approx(100 / 6)
    assert found["people-lstm1"] == 0  # one person
    forced = model.classify(test.windows, torch.ones(len(test), 3)).argmax(1)
    assert found["all-tuned"] == pytest.approx(100 * (forced == test.labels).float().mean().item())


def test_simple_features():
    t = torch.arange(125) / 125
    window = torch.stack([2 + torch.sin(2 * torch.pi * 3 * t), torch.zeros(125)], dim=1)[None]
    features = torch.from_numpy(module.simple_features(window)).view(27, 2)
    torch.testing.assert_close(features[0], torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(features[1, 0], window[0, :, 0].std())
    assert features[2:, 0].argmax() == 2  # the third line: three turns in a window
    assert features[2:, 0].max() == pytest.approx(62.5, rel=1e-3)
    assert features[:, 1].abs().max() == 0
