"""The progressive experiment on tiny data: what each baseline starts from, trains and keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tlcourse.continual import transfer_score
from tlcourse.data import LabelledImages, digits, few_per_class
from tlcourse.experiments import get
from tlcourse.experiments._engine.results import load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.continual import _parts as parts
from tlcourse.experiments.continual import progressive as module
from tlcourse.metrics import interval

TINY = module.SETTINGS | {
    "labels_per_class": 2,
    "widths": [4, 6],
    "source_batch_size": 4,
    "source_epochs": 1,
    "batch_size": 3,
    "epochs": 2,
}


def images(n, n_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(n, 1, 16, 16, generator=generator)
    names = tuple("abcdefgh"[:n_classes])
    return LabelledImages(pixels, torch.arange(n) % n_classes, names, f"noise {seed}")


DATA = {
    "train": images(9, 3),
    "test": images(6, 3, seed=1),
    "upper": images(8, 4, seed=2),
    "upper-test": images(8, 4, seed=3),
    "lower": images(10, 5, seed=4),
}


@pytest.fixture
def fits(monkeypatch):
    """Return a record of every training: the network before and after, and its data."""
    done, real = [], parts.fit

    def spy(net, objective, data, **how):
        before = {name: t.clone() for name, t in net.state_dict().items()}
        history = real(net, objective, data, **how)
        done.append((before, {name: t.clone() for name, t in net.state_dict().items()}, data))
        return history

    monkeypatch.setattr(parts, "fit", spy)
    return done


def test_a_run_fills_its_table(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    experiment = dataclasses.replace(
        get("progressive"), settings={"quick": TINY}, load=lambda _: DATA
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert result["baseline1-score"].values == (100.0,)


def test_what_each_row_starts_from_and_trains(tmp_path, fits):
    module.run_seed(DATA, TINY, 0, tmp_path)
    order = [data.name for _, _, data in fits]
    upper, digits, lower = DATA["upper"].name, DATA["train"].name, DATA["lower"].name
    assert order == [upper, lower, lower, lower, *[digits] * 10]
    source = fits[0][1]
    rows = dict(zip(module.METHODS, fits[4:], strict=True))

    def layers(state, column=0):
        start = f"columns.{column}.layers"
        return {n: t for n, t in state.items() if n.startswith(start)}

    def same(a, b):
        return all(torch.equal(a[n], b[n]) for n in a)

    progressive = [name for name in rows if "-" in name]
    from_source = ("baseline2", "baseline3", *progressive)
    for name, (before, after, _) in rows.items():
        assert same(layers(before), layers(source)) == (name in from_source), name
        # The first column learns where it is the only one, and is not frozen.
        assert same(layers(before), layers(after)) == (name not in ("baseline1", "baseline3")), name
        columns = {n.split(".")[1] for n in before}
        assert len(columns) == {"4": 2, "2": 2, "3": 3}.get(name[-1], 1) or "baseline" in name
    for name in ("linear-2", "mlp-3"):
        assert rows[name][0].keys() == rows[name][1].keys()
    for name in ("linear-3", "mlp-3", "alpha-3"):
        before, after, _ = rows[name]
        assert same(layers(before, 1), layers(after, 1))
        assert any("columns.2" in n and "adapter" in n for n in before)
    assert any("alpha" in n for n in rows["mlp-2"][0])
    assert not any("alpha" in n for n in rows["linear-2"][0])
    for number in "23":  # the one difference is where the newest column's alphas begin
        small, one = rows[f"mlp-{number}"][0], rows[f"alpha-{number}"][0]
        newest = [n for n in small if f"columns.{int(number) - 1}" in n and "alpha" in n]
        assert newest
        assert all((one[n] == 1).all() and (small[n] < 0.2).all() for n in newest)
        others = set(small) - set(newest)
        assert all(torch.equal(small[n], one[n]) for n in others)
    assert rows["baseline4"][0].keys() == rows["mlp-2"][0].keys()  # of the same size


def test_scores_are_areas_relative_to_baseline_1(tmp_path, monkeypatch):
    curves = {name: [0.1 * (i + 1), 0.5] for i, name in enumerate(module.METHODS)}
    given = iter(curves.values())
    monkeypatch.setattr(module, "_curve", lambda *_: next(given))
    found = module.run_seed(DATA, TINY, 0, tmp_path)
    for name, curve in curves.items():
        expected = 100 * transfer_score(curve, curves["baseline1"])
        assert found[f"{name}-score"] == pytest.approx(expected)
        assert found[f"{name}-accuracy"] == 50.0


def test_the_old_column_is_read_with_its_own_output(tmp_path, monkeypatch):
    """Without training on the target, both read letters as the source column does."""
    real = module.train

    def only_sources(net, *arguments, **how):
        if how.get("epochs") == "source_epochs":
            return real(net, *arguments, **how)
        net.eval()
        return [{"accuracy": 0.5}]

    monkeypatch.setattr(module, "train", only_sources)
    found = module.run_seed(DATA, TINY | {"source_epochs": 3}, 0, tmp_path)
    assert found["finetuned-old"] == found["progressive-old"]


def test_letters_are_numbered_anew_and_the_rest_left_out():
    classes = ("0", "A", "b", "C")
    data = LabelledImages(torch.rand(8, 1, 8, 8), torch.arange(8) % 4, classes, "mixed")
    upper, lower = (module._letters(data, which) for which in (str.isupper, str.islower))
    assert (upper.classes, lower.classes) == (("A", "C"), ("b",))
    assert upper.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(upper.images, data.images[[1, 3, 5, 7]])
    assert torch.equal(lower.images, data.images[[2, 6]])


def test_the_table():
    experiment = get("progressive")
    assert len(experiment.rows) == 2 * len(module.METHODS) + 2
    assert all(row.paper is None for row in experiment.rows)
    assert experiment.seeds["full"] >= 3


KINDS = ("linear", "mlp", "alpha")
COLUMNS = [f"{kind}-{number}" for kind in KINDS for number in "23"]


@pytest.mark.claim("claim-progressive-knowledge")
def test_claim_what_is_transferred_is_knowledge(claim):
    for name in COLUMNS:
        claim.better(load_result("progressive"), f"{name}-score", "baseline4-score")


@pytest.mark.claim("claim-progressive-size")
def test_claim_size_alone_gains_little(claim):
    claim.no_difference(
        load_result("progressive"), "baseline4-score", "baseline1-score", within=6.0
    )


@pytest.mark.claim("claim-progressive-ends")
def test_claim_transfer_ends_above_training_from_scratch(claim):
    for name in ("baseline3", *COLUMNS):
        claim.better(load_result("progressive"), f"{name}-accuracy", "baseline1-accuracy")


@pytest.mark.claim("claim-progressive-two")
def test_claim_two_columns_end_level_with_fine_tuning(claim):
    for kind in KINDS:
        claim.no_difference(
            load_result("progressive"), f"{kind}-2-accuracy", "baseline3-accuracy", within=2.5
        )


@pytest.mark.claim("claim-progressive-three")
def test_claim_three_columns_end_above_fine_tuning(claim):
    claim.better(load_result("progressive"), "linear-3-accuracy", "baseline3-accuracy")


@pytest.mark.claim("claim-progressive-sooner")
def test_claim_fine_tuning_learns_sooner_than_all_but_three_linear_columns(claim):
    for name in COLUMNS:
        if name != "linear-3":
            claim.better(load_result("progressive"), "baseline3-score", f"{name}-score")


@pytest.mark.claim("claim-progressive-old")
def test_claim_the_capitals_are_still_read(claim):
    claim.better(load_result("progressive"), "progressive-old", "finetuned-old")


@pytest.mark.claim("claim-progressive-third")
def test_claim_a_third_column_adds_to_the_score(claim):
    for kind in ("linear", "mlp"):
        claim.better(load_result("progressive"), f"{kind}-3-score", f"{kind}-2-score")


@pytest.mark.claim("claim-progressive-late")
def test_claim_mlp_adapters_score_below_linear_ones(claim):
    for number in "23":
        claim.better(load_result("progressive"), f"linear-{number}-score", f"mlp-{number}-score")


@pytest.mark.claim("claim-progressive-alpha")
def test_claim_alpha_from_1_scores_higher(claim):
    for number in "23":
        claim.better(load_result("progressive"), f"alpha-{number}-score", f"mlp-{number}-score")


@pytest.mark.claim("claim-progressive-left")
def test_claim_what_alpha_from_1_lacks_is_beyond_the_spread_with_three_columns_alone(claim):
    claim.on_average(load_result("progressive"), "linear-2-score", "alpha-2-score", seeds=8)
    claim.better(load_result("progressive"), "linear-3-score", "alpha-3-score")


def test_what_the_chapter_says_of_logistic_regression_on_the_same_images():
    result = load_result("progressive")
    settings = result.record["settings"]
    train, test = digits(size=settings["size"])
    scores = []
    for seed in result.record["seeds"]:
        few = few_per_class(train, settings["labels_per_class"], seed=seed)
        model = LogisticRegression(max_iter=1000)
        model.fit(few.images.flatten(1).numpy(), few.labels.numpy())
        scores.append(100 * model.score(test.images.flatten(1).numpy(), test.labels.numpy()))
    for name in module.METHODS:
        pairs = zip(result[f"{name}-accuracy"].values, scores, strict=True)
        assert interval([a - b for a, b in pairs]).mean < 0, name
