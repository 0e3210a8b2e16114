"""From printed characters to digits, on tiny data: which stages move when."""

from __future__ import annotations

import pytest
from sklearn.linear_model import LogisticRegression

from tlcourse.data import digits, few_per_class
from tlcourse.experiments import load_result
from tlcourse.metrics import interval


def test_staged_digits_move_later_stages_first(tmp_path, fits, tiny):
    experiment = tiny("finetune-digits")
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    moved = {name: {n.split(".")[1] for n in names} for name, names, _ in fits}
    assert moved["staged-1-1"] == {"stage3", "weight", "bias"}  # of the head
    assert moved["staged-1-2"] == {"stage2", "stage3", "weight", "bias"}
    everything = {"stem", "stage1", "stage2", "stage3", "weight", "bias"}
    assert moved["staged-1-3"] == moved["tuned-1"] == moved["scratch-1"] == everything


# --- what the chapter says ------------------------------------------------------------------------


@pytest.mark.claim("claim-finetune-staged")
def test_claim_stage_by_stage_ends_where_all_at_once_ends(claim):
    for n in (1, 5, 20):
        claim.no_difference(
            load_result("finetune-digits"), f"staged-{n}", f"finetuned-{n}", within=1.5
        )


@pytest.mark.claim("claim-finetune-frozen")
def test_claim_the_head_alone_is_ahead_with_few_labels(claim):
    for n in (1, 5):
        claim.better(load_result("finetune-digits"), f"frozen-{n}", f"scratch-{n}")


@pytest.mark.claim("claim-finetune-beyond")
def test_claim_all_layers_add_to_the_head(claim):
    for n in (1, 5, 20):
        claim.better(load_result("finetune-digits"), f"finetuned-{n}", f"frozen-{n}")


@pytest.mark.claim("claim-finetune-frozen-end")
def test_claim_with_twenty_labels_the_head_alone_is_no_better(claim):
    claim.no_difference(load_result("finetune-digits"), "frozen-20", "scratch-20", within=1.0)


@pytest.mark.claim("claim-finetune-scratch")
def test_claim_fine_tuning_is_ahead_of_training_from_scratch(claim):
    for n in (1, 5, 20):
        claim.better(load_result("finetune-digits"), f"finetuned-{n}", f"scratch-{n}")


def test_what_the_chapter_says_of_logistic_regression_on_the_same_images():
    result = load_result("finetune-digits")
    train, test = digits(size=result.record["settings"]["size"])

    def on_pixels(n, seed):
        few = few_per_class(train, n, seed=seed)
        model = LogisticRegression(max_iter=200, tol=1e-3)
        model.fit(few.images.flatten(1).numpy(), few.labels.numpy())
        return 100 * model.score(test.images.flatten(1).numpy(), test.labels.numpy())

    for n in (1, 5, 20):
        pixels = [on_pixels(n, seed) for seed in result.record["seeds"]]

        def against_pixels(way, n=n, pixels=pixels):
            values = result[f"{way}-{n}"].values
            return interval([a - b for a, b in zip(values, pixels, strict=True)])

        assert against_pixels("frozen").low > 0
        assert against_pixels("finetuned").low > 0
        assert (against_pixels("scratch").high < 0) == (n < 20)


def test_what_the_introduction_says_of_more_labels():
    """The lead over training from scratch shrinks with the labels, in each seed."""
    result = load_result("finetune-digits")
    leads = [result.differences(f"finetuned-{n}", f"scratch-{n}") for n in (1, 5, 20)]
    assert all(a > b > c for a, b, c in zip(*leads, strict=True))
