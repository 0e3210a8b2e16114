"""The spottune experiments on tiny data: what each way trains, what it sees, what it decides."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from tlcourse.adaptive import SpotTune
from tlcourse.data import imu
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptive import spottune as module
from tlcourse.finetuning import changed, snapshot
from tlcourse.metrics import interval

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
    epochs = itertools.count(1)
    monkeypatch.setattr(module, "_accuracy_on", lambda _: lambda _: {"test": 10.0 * next(epochs)})
    experiment = dataclasses.replace(get(name), settings={"quick": TINY}, load=lambda _: data)
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == len(experiment.rows)
    after = [result[f"scratch-epoch-{e}"].values[0] for e in module.EARLY]
    assert [value - after[0] for value in after] == [0.0, 10.0, 30.0]  # epochs 1, 2 and 4
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
    assert half == target.people[::2]  # on the others the settings were chosen
    for seed in range(3):
        _, train, test = module.parts(data, HOW, seed)
        assert sorted((*train.people, *test.people)) == list(half)
        assert len(test.people) == 1


def test_sets_are_matched_and_standardised_or_as_they_are(data):
    source, train, _ = module.parts(data, HOW, 0)
    assert (source.rate, train.rate) == (25, 25)
    assert source.units == train.units == ("sd",) * 6
    flat = train.windows.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(0, correction=0), torch.ones(6))  # not by the test's
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
    assert model.backbone.pool == (1 if way == "steps" else HOW["pool"])


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
        lean = model.agent(train.windows).unflatten(1, (-1, 2)).diff(dim=2)
        assert lean.mean().item() == pytest.approx(math.log(9), abs=0.5)  # tuned with p = 0.9
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


def test_decisions_are_forced_to_one_or_the_other(nets):
    net, agent, _, test = nets
    model = module.make("spottune", net, agent, 6, HOW, 0).eval()

    def classify(_, decisions):  # right where all is tuned, class 0 where all is frozen
        answer = test.labels * decisions[:, 0].long()
        return torch.nn.functional.one_hot(answer, 6).float()

    model.classify = classify
    found = module.policy(model, test)
    assert (found["all-tuned"], found["all-frozen"]) == pytest.approx((100, 100 / 6))


def test_the_loss_is_that_of_the_labels(data):
    test = data["target-matched"]
    sure = torch.nn.functional.one_hot(test.labels, 6).float()
    answers = torch.nn.Module()
    answers.forward = lambda x: 3 * sure[: len(x)]
    expected = math.log(math.e**3 + 5) - 3
    assert module.log_loss(answers, test) == pytest.approx(expected, rel=1e-5)


def test_simple_features():
    t = torch.arange(125) / 125
    window = torch.stack([2 + torch.sin(2 * torch.pi * 3 * t), torch.zeros(125)], dim=1)[None]
    features = torch.from_numpy(module.simple_features(window)).view(27, 2)
    torch.testing.assert_close(features[0], torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(features[1, 0], window[0, :, 0].std())
    assert features[2:, 0].argmax() == 2  # the third line: three turns in a window
    assert features[2:, 0].max() == pytest.approx(62.5, rel=1e-3)
    assert features[:, 1].abs().max() == 0


# --- what the chapter says of the recorded result -------------------------------------------------


@pytest.fixture(scope="module")
def har():
    return load_result("spottune-har")


@pytest.mark.claim("claim-spottune-begun")
def test_claim_one_epoch_is_beyond_the_reports_baseline(claim, har):
    report = har["scratch-report-short"].paper
    claim.beyond(har, "scratch-epoch-1", report, of="the report's baseline after 10 epochs")
    claim.better(har, "scratch-report-long", "scratch-report-short")


@pytest.mark.claim("claim-spottune-few")
def test_claim_transfer_pays_with_few_windows(claim, har):
    claim.better(har, "finetune-few-long", "scratch-few-long")


@pytest.mark.claim("claim-spottune-many")
def test_claim_with_many_windows_it_does_not(claim, har):
    claim.no_difference(har, "finetune-many-long", "scratch-many-long", within=3)


@pytest.mark.claim("claim-spottune-frozen")
def test_claim_feature_extraction_stays_behind(claim, har):
    claim.better(har, "finetune-few-long", "extraction-few-long")
    claim.better(har, "finetune-many-long", "extraction-many-long")


@pytest.mark.claim("claim-spottune-rates")
def test_claim_slower_earlier_layers_need_time(claim, har):
    claim.better(har, "finetune-many-short", "rates-many-short")
    claim.no_difference(har, "rates-many-long", "finetune-many-long", within=4)


@pytest.mark.claim("claim-spottune-finetune")
def test_claim_spottune_ends_where_fine_tuning_ends(claim, har):
    claim.no_difference(har, "spottune-few-long", "finetune-few-long", within=5)
    claim.no_difference(har, "spottune-many-long", "finetune-many-long", within=2)


@pytest.mark.claim("claim-spottune-behind")
def test_claim_after_ten_epochs_it_is_behind(claim, har):
    claim.better(har, "finetune-many-short", "spottune-many-short")


@pytest.mark.claim("claim-spottune-forest")
def test_claim_the_forest_beats_every_network_with_many_windows(claim, har):
    networks = har.record["settings"]["cases"]["many"]["ways"]
    assert len(networks) == 9
    for way in networks:
        claim.better(har, "forest-many", f"{way}-many-long")


@pytest.mark.claim("claim-spottune-forest-few")
def test_claim_the_forest_beats_fine_tuning_with_few_windows(claim, har):
    claim.better(har, "forest-few", "finetune-few-long")


@pytest.mark.claim("claim-spottune-reversed")
def test_claim_the_reports_order_is_reversed(claim, har):
    claim.better(har, "spottune-report-short", "scratch-report-short")
    claim.better(har, "finetune-report-short", "scratch-report-short")


@pytest.mark.claim("claim-spottune-report-end")
def test_claim_at_the_plateau_nothing_is_left_of_the_order(claim, har):
    claim.on_average(har, "spottune-report-long", "scratch-report-long", seeds=10)
    claim.no_difference(har, "spottune-report-long", "scratch-report-long", within=4)


@pytest.mark.claim("claim-spottune-matched")
def test_claim_matched_sets_are_learnt_better(claim, har):
    claim.better(har, "scratch-many-short", "scratch-report-short")
    claim.better(har, "finetune-many-short", "finetune-report-short")


@pytest.mark.claim("claim-spottune-matched-frozen")
def test_claim_a_frozen_layer_gains_more_than_a_tuned_one(claim, har):
    claim.better(har, "extraction-many-short", "extraction-report-short")
    gains = {
        way: har.differences(f"{way}-many-short", f"{way}-report-short")
        for way in ("extraction", "finetune")
    }
    more = [a - b for a, b in zip(gains["extraction"], gains["finetune"], strict=True)]
    assert interval(more).low > 0


def test_the_policy_tunes_every_layer_for_every_window(har):
    for name in module.LSTMS:
        assert set(har[f"spottune-tuned-{name}"].values) == {100.0}
    differences = har.differences("spottune-all-tuned", "spottune-many-long")
    assert differences == pytest.approx([0] * 10, abs=1e-4)
    off = har["warm-paths"].values
    assert sum(share == 0 for share in off) == 7
    assert max(off) < 25


@pytest.mark.claim("claim-spottune-agent")
def test_claim_after_ten_epochs_a_warm_agent_is_better_on_average(claim, har):
    claim.on_average(har, "warm-many-short", "spottune-many-short")


@pytest.mark.claim("claim-spottune-agent-end")
def test_claim_at_the_plateau_a_warm_agent_makes_no_difference(claim, har):
    claim.no_difference(har, "warm-many-long", "spottune-many-long", within=2)


@pytest.mark.claim("claim-spottune-gates")
def test_claim_finer_decisions_help(claim, har):
    claim.better(har, "gates-many-short", "spottune-many-short")
    claim.better(har, "gates-few-long", "spottune-few-long")


@pytest.mark.claim("claim-spottune-gates-end")
def test_claim_elsewhere_finer_decisions_help_or_cost_on_average(claim, har):
    claim.on_average(har, "gates-many-long", "spottune-many-long", seeds=10)
    claim.on_average(har, "spottune-few-short", "gates-few-short", seeds=10)


@pytest.mark.claim("claim-spottune-steps")
def test_claim_to_read_every_step_is_above_fine_tuning_after_ten_epochs(claim, har):
    claim.better(har, "steps-many-short", "finetune-many-short")
    claim.no_difference(har, "steps-many-short", "gates-many-short", within=3)


@pytest.mark.claim("claim-spottune-gates-imu")
def test_claim_finer_decisions_do_not_help_on_the_simulated_pair(claim):
    claim.on_average(load_result("spottune-imu"), "spottune-many-short", "gates-many-short")


@pytest.mark.claim("claim-spottune-gates-finetune")
def test_claim_finer_decisions_are_beyond_fine_tuning(claim, har):
    claim.better(har, "gates-many-long", "finetune-many-long")


@pytest.mark.claim("claim-spottune-states")
def test_claim_memories_apart_make_no_difference(claim, har):
    claim.no_difference(har, "states-many-short", "spottune-many-short", within=4)
    claim.no_difference(har, "states-many-long", "spottune-many-long", within=4)
