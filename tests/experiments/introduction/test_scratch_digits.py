"""scratch-digits on tiny data: where each way starts, how it trains, when it is measured."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import _digits, get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.introduction import scratch_digits as module
from tlcourse.metrics import accuracy
from tlcourse.models import SmallResNet

TINY = module.FULL | {
    "labels_per_class": [2, 4],
    "tuned_with": 4,
    "measured": [0, 2, 4],
    "chosen": {
        "scratch": {"rate": 0.02, "batch_size": 6, "shift": 1, "batchnorm_momentum": 0.3},
        "transfer": {"rate": 0.001, "batch_size": 12, "shift": 0, "batchnorm_momentum": 0.2},
    },
    "strengths": {"2": 1.0, "4": 1.0},
}


def images(n, seed=0):
    pixels = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return LabelledImages(pixels, torch.arange(n) % 3, ("a", "b", "c"), "noise")


ENDS = {"transfer": "-160", "scratch": "-160", "pixels": ""}
FEW, TEST = images(12), images(9, seed=1)


@pytest.fixture(autouse=True)
def random_network(monkeypatch):
    def glyphs(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SmallResNet(5, width=4).eval()

    monkeypatch.setattr(_digits, "glyph_network", glyphs)
    monkeypatch.setitem(module.START, "scratch", lambda K: SmallResNet(K, width=4))


def test_a_run_fills_its_table(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "FULL", TINY)
    experiment = dataclasses.replace(
        get("scratch-digits"),
        rows=tuple(module._rows()),
        settings={"quick": TINY},
        load=lambda _: {"train": FEW, "test": TEST},
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == 2 * (1 + 2 * 3) + 3 + 1
    assert all(0 <= row.values[0] <= 100 for row in result.rows.values())


def test_transfer_starts_as_the_source_sees_the_first_classes():
    source = _digits.glyph_network(progress=False)
    with torch.no_grad():
        found = module.digit_reader(3).eval()(TEST.images)
        torch.testing.assert_close(found, source(TEST.images)[:, :3])


def test_wrong_names_say_the_next_one():
    with torch.no_grad():
        right = module.digit_reader(3).eval()(TEST.images)
        wrong = module.with_wrong_names(3).eval()(TEST.images)
    torch.testing.assert_close(wrong[:, [1, 2, 0]], right)


@pytest.mark.parametrize("way", ["scratch", "transfer", "wrong"])
def test_each_way_trains_as_was_chosen_for_it(way, monkeypatch):
    seen = {}
    fit = module.fit

    def spy(model, objective, data, **settings):
        momenta = {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        seen.update(settings, momenta=momenta)
        return fit(model, objective, data, **settings)

    monkeypatch.setattr(module, "fit", spy)
    module.learning_curve(way, FEW, TEST, [0, 2, 4], TINY, 0)
    how = TINY["chosen"]["scratch" if way == "scratch" else "transfer"]
    assert seen["optimizer"].param_groups[0]["lr"] == how["rate"]
    assert seen["batch_size"] == how["batch_size"]
    assert seen["momenta"] == {how["batchnorm_momentum"]}
    assert seen["augment"].keywords == {"pixels": how["shift"]}
    assert seen["epochs"] == 4 * how["batch_size"] // len(FEW)  # four steps


def test_it_is_measured_before_training_and_after_so_many_steps(monkeypatch):
    counted = []
    fit, per_cent = module.fit, module.per_cent
    monkeypatch.setattr(
        module,
        "cross_entropy",
        lambda model, batch: (
            counted.append(0) or torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        ),
    )
    at = []
    monkeypatch.setattr(module, "per_cent", lambda *a: at.append(len(counted)) or per_cent(*a))
    ended = []

    def spy(model, *arguments, **settings):
        ended.append(model)
        return fit(model, *arguments, **settings)

    monkeypatch.setattr(module, "fit", spy)
    curve = module.learning_curve("scratch", FEW, TEST, [0, 2, 8], TINY, 0)
    assert at == [0, 2, 8]
    assert len(curve) == 3
    assert curve[-1] == pytest.approx(100 * accuracy(ended[0], TEST))


def test_the_second_run_from_scratch_is_twice_as_long(monkeypatch):
    asked = []

    def curve(way, few, test, measured, settings, seed):
        asked.append((way, len(few), measured))
        return [0.0] * len(measured)

    monkeypatch.setattr(module, "learning_curve", curve)
    module.run_seed({"train": FEW, "test": TEST}, TINY, 0, None)
    assert asked == [
        ("scratch", 6, [0, 2, 4]),
        ("transfer", 6, [0, 2, 4]),
        ("scratch", 12, [0, 2, 4]),
        ("transfer", 12, [0, 2, 4]),
        ("wrong", 12, [0, 2, 4]),
        ("scratch", 12, [8]),
    ]


def test_steps_are_whole_epochs_with_every_number_of_labels():
    for n in module.FULL["labels_per_class"]:
        for how in module.FULL["chosen"].values():
            steps = -(-10 * n // how["batch_size"])
            assert all(step % steps == 0 for step in module.FULL["measured"])


# --- what the chapter says of the recorded result -------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return load_result("scratch-digits")


@pytest.mark.claim("claim-intro-start")
def test_claim_transfer_starts_higher(claim, recorded):
    for n in (1, 5, 20):
        claim.better(recorded, f"transfer-{n}-0", f"scratch-{n}-0")


@pytest.mark.claim("claim-intro-asymptote")
def test_claim_transfer_ends_higher_than_both_baselines(claim, recorded):
    for other in ("scratch-5-160", "scratch-5-twice", "pixels-5"):
        claim.better(recorded, "transfer-5-160", other)


@pytest.mark.claim("claim-intro-plateau")
def test_claim_twice_the_steps_change_little(claim, recorded):
    claim.no_difference(recorded, "scratch-5-twice", "scratch-5-160", within=1.5)


@pytest.mark.claim("claim-intro-baseline")
def test_claim_with_five_labels_the_network_from_scratch_is_a_baseline(claim, recorded):
    claim.on_average(recorded, "scratch-5-160", "pixels-5")
    claim.better(recorded, "scratch-5-twice", "pixels-5")


@pytest.mark.claim("claim-intro-pixels")
def test_claim_with_one_label_the_pixels_are_ahead_of_it(claim, recorded):
    claim.better(recorded, "pixels-1", "scratch-1-160")


@pytest.mark.claim("claim-intro-one-label")
def test_claim_with_one_label_transfer_is_beyond_the_pixels(claim, recorded):
    claim.better(recorded, "transfer-1-160", "pixels-1")


@pytest.mark.claim("claim-intro-twenty-labels")
def test_claim_with_twenty_labels_little_is_left(claim, recorded):
    claim.better(recorded, "transfer-20-160", "scratch-20-160")
    claim.no_difference(recorded, "transfer-20-160", "scratch-20-160", within=2.5)


def test_the_lead_shrinks_with_the_labels_in_each_seed(recorded):
    leads = [
        [
            transfer - max(baselines)
            for transfer, *baselines in zip(
                *(recorded[f"{way}-{n}{end}"].values for way, end in ENDS.items()), strict=True
            )
        ]
        for n in (1, 5, 20)
    ]
    for one, five, twenty in zip(*leads, strict=True):
        assert one > five > twenty


def test_less_than_a_quarter_of_the_gap_after_16_steps_is_left_in_each_seed(recorded):
    early = recorded.differences("transfer-5-16", "scratch-5-16")
    late = recorded.differences("transfer-5-160", "scratch-5-160")
    assert all(0 < end < start / 4 for start, end in zip(early, late, strict=True))


@pytest.mark.claim("claim-intro-wrong-start")
def test_claim_wrong_names_start_below_random_weights(claim, recorded):
    claim.better(recorded, "scratch-5-0", "wrong-5-0")


@pytest.mark.claim("claim-intro-wrong-sooner")
def test_claim_wrong_names_are_unlearnt_sooner_than_features_are_learnt(claim, recorded):
    for step in (16, 40):
        claim.better(recorded, f"wrong-5-{step}", f"scratch-5-{step}")


@pytest.mark.claim("claim-intro-wrong-caught")
def test_claim_training_from_scratch_catches_up_with_wrong_names(claim, recorded):
    claim.no_difference(recorded, "wrong-5-160", "scratch-5-160", within=4)
    claim.on_average(recorded, "wrong-5-160", "scratch-5-160")


@pytest.mark.claim("claim-intro-wrong-end")
def test_claim_right_names_end_higher_than_wrong_ones(claim, recorded):
    claim.better(recorded, "transfer-5-160", "wrong-5-160")
