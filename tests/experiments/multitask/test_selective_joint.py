"""Selective joint fine-tuning, on tiny data: who starts from what, selections, and resuming."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result, run
from tlcourse.experiments.multitask import _parts as parts
from tlcourse.experiments.multitask import selective_joint as module
from tlcourse.models import SmallResNet
from tlcourse.multitask import JointFineTuning, SelectiveJointFineTuning

SELECTIVE = module.DIGITS | {
    "labels_per_class": 2,
    "epochs": 4,
    "rounds": 2,
    "width": 4,
    "most": 12,
    "bins": 8,
    "retrieval": {"start": 2, "if_wrong": 4, "if_uncertain": 1, "entropy_threshold": 0.1},
}
CIFAR10 = SELECTIVE | {"source_rate": 1e-3, "source_epochs": 1}
NAMES = ("selective-joint", "selective-joint-cifar10")


def images(n_per_class, n_classes, *, channels=1, seed=0):
    """Noise with a brightness of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_per_class * n_classes) % n_classes
    noise = torch.rand(len(labels), channels, 32, 32, generator=generator)
    pixels = 0.6 * noise + 0.4 * labels[:, None, None, None] / n_classes
    return LabelledImages(pixels, labels, tuple("abcdefghij"[:n_classes]), "CIFAR-10 (JPEG)")


@pytest.fixture(autouse=True)
def small_source(monkeypatch, tmp_path):
    def network(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(9)
            return SmallResNet(4, width=4).eval()

    monkeypatch.setattr(module, "glyph_network", network)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))


def tiny(name):
    channels = 3 if name.endswith("cifar10") else 1
    data = {
        "source": images(10, 4, channels=channels),
        "train": images(5, 3, channels=channels, seed=1),
        "test": images(4, 3, channels=channels, seed=2),
    }
    settings = CIFAR10 if name.endswith("cifar10") else SELECTIVE
    return dataclasses.replace(get(name), settings={"quick": settings}, load=lambda _: data)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_fills_its_table(name, tmp_path):
    result = run(tiny(name), profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    for row in result.rows.values():
        hits = row.values[0] / 100 * 12
        assert hits == pytest.approx(round(hits)), row.key
        assert hits >= 0


def test_a_killed_run_ends_in_the_same_numbers(tmp_path, monkeypatch):
    experiment = tiny("selective-joint")
    undisturbed = run(experiment, profile="quick", seeds=[3], out=tmp_path / "a", say=lambda _: 0)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "other"))
    real, calls = parts.fit, []

    def killed(*arguments, **how):
        calls.append(how["checkpoint"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **how)

    monkeypatch.setattr(parts, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run(
            experiment,
            profile="quick",
            seeds=[3],
            out=tmp_path / "b",
            say=lambda _: None,
        )
    monkeypatch.setattr(parts, "fit", real)
    resumed = run(experiment, profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert resumed.record["runs"][0]["resumed"]
    assert {k: row.values for k, row in resumed.rows.items()} == {
        k: row.values for k, row in undisturbed.rows.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_training_has_a_checkpoint_of_its_own(name, tmp_path, monkeypatch):
    files, real = [], parts.fit
    monkeypatch.setattr(
        parts, "fit", lambda *a, **how: files.append(how["checkpoint"]) or real(*a, **how)
    )
    experiment = tiny(name)
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    assert len(set(files)) == len(files)


@pytest.fixture
def source_heads():
    """Return what `rows` fills in: the first weights of every row's source head."""
    return {}


@pytest.fixture
def rows(monkeypatch, tmp_path, source_heads):
    """Return every row's model with what it had selected before and after its training."""
    found = {}
    real = module.train

    def spy(model, few, settings, rate, seed, files, augment, *, iterate):
        before = getattr(model, "selected", None)
        weight = model.backbone.stage2.conv1.weight.detach().clone()
        if isinstance(model, JointFineTuning):
            source_heads[files.name] = model.source_head.weight.detach().clone()
        real(model, few, settings, rate, seed, files, augment, iterate=iterate)
        found[files.name] = (model, before, getattr(model, "selected", None), weight, rate)

    monkeypatch.setattr(module, "train", spy)
    experiment = tiny("selective-joint")
    experiment.run_seed(experiment.load({}), SELECTIVE, 0, tmp_path)
    return found


def test_which_source_images_each_row_sees(rows):
    trained = {row.key for row in get("selective-joint").rows} - {"fusion"}
    assert set(rows) == trained
    for name in ("selective", "gabor", "selective-scratch", "val"):
        model, before, after, *_ = rows[name]
        assert isinstance(model, SelectiveJointFineTuning)
        assert set(before.tolist()) < set(after.tolist()), name
    assert torch.equal(rows["once"][1], rows["once"][2])
    assert torch.equal(rows["once"][1], rows["selective"][1])
    assert not torch.equal(rows["gabor"][1], rows["selective"][1])
    assert len(rows["all"][2]) == 40
    assert len(rows["random"][2]) == len(rows["selective"][2])
    for name in ("finetune", "scratch"):
        assert not isinstance(rows[name][0], JointFineTuning)


def test_which_weights_each_row_starts_from(rows):
    source = module.glyph_network(progress=False).backbone.stage2.conv1.weight
    for name, (_, _, _, weight, rate) in rows.items():
        from_scratch = name in ("scratch", "selective-scratch")
        assert torch.equal(weight, source) != from_scratch, name
        assert rate == SELECTIVE["scratch_rate" if from_scratch else "rate"]
    assert torch.equal(rows["scratch"][3], rows["selective-scratch"][3])


def test_joint_rows_start_with_the_source_network_s_head(rows, source_heads):
    head = module.glyph_network(progress=False).head.weight
    assert set(source_heads) == set(rows) - {"scratch", "finetune"}
    for name, weight in source_heads.items():
        assert torch.equal(weight, head) == (name != "selective-scratch"), name


def test_rounds_change_nothing_for_a_row_that_retrieves_nothing(tmp_path):
    """One cosine over all rounds, one optimiser: only the order of the samples is another."""
    of_cosine = [parts._part_of_cosine(i, 4, t) for i in range(4) for t in (0.0, 0.5)]
    assert of_cosine == [parts.cosine_decay(i / 8) for i in range(8)]


def test_classes_of_cifar10_are_divided_between_source_and_target():
    data = images(4, 6)
    target = module.only(data, ["e", "b"])
    assert target.classes == ("e", "b")
    assert torch.equal(target.images[target.labels == 0], data.images[data.labels == 4])
    assert torch.equal(target.images[target.labels == 1], data.images[data.labels == 1])


def test_the_lecture_s_rows_stand_in_its_order():
    flowers, dogs = ([row.paper for row in get(name).rows] for name in NAMES)
    assert flowers == [58.2, 80.6, 92.3, 93.4, 93.2, 94.2, 93.8, 94.7, 95.8, 97.0]
    assert dogs == [53.8, 83.4, 80.4, 85.6, 85.5, 88.3, 87.5, 90.2, 90.3, None]


def test_fusion_is_the_mean_of_probabilities():
    x = torch.rand(3, 1, 32, 32)
    models = [SmallResNet(4, width=2).eval() for _ in range(2)]
    expected = sum(model(x).exp() / model(x).exp().sum(1, keepdim=True) for model in models) / 2
    torch.testing.assert_close(module.Fusion(models)(x), expected)


def test_the_fused_are_the_two_banks_and_a_validation_set_doubles_the_target(tmp_path, monkeypatch):
    experiment = tiny("selective-joint")
    data, seen, measured = experiment.load({}), {}, []
    real_train, real_per_cent = module.train, module.per_cent

    def train(model, few, settings, rate, seed, files, augment, *, iterate):
        seen[files.name] = model, few
        real_train(model, few, settings, rate, seed, files, augment, iterate=iterate)

    def per_cent(model, test):
        assert test is data["test"]
        measured.append(model)
        return real_per_cent(model, test)

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "per_cent", per_cent)
    experiment.run_seed(data, SELECTIVE, 0, tmp_path)
    (fusion,) = [model for model in measured if isinstance(model, module.Fusion)]
    assert list(fusion.models) == [seen["selective"][0], seen["gabor"][0]]
    (_, few), (_, twice) = seen["selective"], seen["val"]
    assert len(twice) == 2 * len(few)
    assert torch.equal(twice.images[: len(few)], few.images)
    assert all(part is few for name, (_, part) in seen.items() if name != "val")


def test_every_row_takes_as_many_steps(tmp_path, monkeypatch):
    steps, real = {}, parts.fit

    def fit(model, objective, on, *, epochs, batch_size, checkpoint, **how):
        name = checkpoint.stem.rpartition("-")[0]
        steps[name] = steps.get(name, 0) + epochs * -(-len(on) // batch_size)
        how |= {"epochs": epochs, "batch_size": batch_size, "checkpoint": checkpoint}
        return real(model, objective, on, **how)

    monkeypatch.setattr(parts, "fit", fit)
    experiment = tiny("selective-joint")
    settings = SELECTIVE | {"batch_size": 3}
    experiment.run_seed(experiment.load({}), settings, 0, tmp_path)
    assert len(steps) == 9
    assert len(set(steps.values())) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_settings_fit(name, profile):
    experiment = get(name)
    settings = experiment.settings[profile]
    assert experiment.seeds["full"] >= 3
    assert settings["epochs"] % (2 * settings["rounds"]) == 0
    assert settings["retrieval"]["start"] <= settings["most"]


# --- what the chapter says ------------------------------------------------------------------------


CHOOSING = ("all", "random", "once", "gabor", "selective")


@pytest.mark.claim("claim-selective-finetune")
def test_claim_the_source_network_helps(claim):
    claim.better(load_result("selective-joint"), "finetune", "scratch")


@pytest.mark.claim("claim-selective-source")
def test_claim_the_source_beside_it_adds_nothing(claim):
    claim.no_difference(load_result("selective-joint"), "selective", "finetune", within=1)


@pytest.mark.claim("claim-selective-random")
def test_claim_it_does_not_matter_which_source_images_take_part(claim):
    for other in ("random", "all"):
        claim.no_difference(load_result("selective-joint"), "selective", other, within=1)


@pytest.mark.claim("claim-selective-parts")
def test_claim_rounds_bank_and_fusion_change_nothing(claim):
    for other in ("once", "gabor", "fusion"):
        claim.no_difference(load_result("selective-joint"), "selective", other, within=0.5)


@pytest.mark.claim("claim-selective-scratch")
def test_claim_from_scratch_the_source_costs_on_average(claim):
    claim.on_average(load_result("selective-joint"), "scratch", "selective-scratch", seeds=8)


@pytest.mark.claim("claim-selective-labels")
def test_claim_twice_the_labels_help(claim):
    for other in ("selective", "finetune"):
        claim.better(load_result("selective-joint"), "val", other)


@pytest.mark.parametrize("name", ["selective-joint", "selective-joint-cifar10"])
def test_what_the_chapter_says_of_the_papers_steps(name):
    paper = {row.key: row.paper for row in load_result(name).rows.values()}
    steps = [paper[row] for row in ("finetune", "all", "once", "selective", "fusion")]
    assert steps == sorted(set(steps))  # each adds something
    assert paper["selective-scratch"] - paper["scratch"] > paper["selective"] - paper["finetune"]


def test_what_the_chapter_says_of_the_recorded_photographs():
    result = load_result("selective-joint-cifar10")
    means = [result[row].interval.mean for row in ("finetune", *CHOOSING, "fusion")]
    assert max(means) - min(means) < 1
    assert max(means) < 50
    assert min(result.differences("finetune", "scratch")) > 0
    assert _holds_zero(result.paired("finetune", "scratch"))
    assert result["val"].paper is None


def _holds_zero(found):
    return found.low < 0 < found.high
