"""Why selection wins nothing, on tiny data: what is near, what is known, what each row sees."""

from __future__ import annotations

import pytest
import torch

from tlcourse.experiments import get, load_result
from tlcourse.experiments.multitask import selective_joint_why as module
from tlcourse.multitask import JointFineTuning

TINY = module.QUICK | {
    "n_source": 225,
    "width": 4,
    "epochs": 4,
    "rounds": 2,
    "most": 12,
    "bins": 8,
    "retrieval": {"start": 2, "if_wrong": 4, "if_uncertain": 1, "entropy_threshold": 0.1},
}


@pytest.fixture(scope="module")
def characters():
    return module.load_characters_and_digits(TINY)


def test_what_is_near_and_what_is_far(characters):
    letters, near, far = (characters[name] for name in ("letters", "near", "far"))
    assert [len(letters), len(near), len(far)] == [175, 50, 150]
    assert letters.classes == near.classes == far.classes
    assert len(far.classes) == 10 + 35 + 35
    assert near.labels.max() < 10 <= letters.labels.min()
    assert letters.labels.max() < 45 <= far.labels.min()
    names = {far.classes[k] for k in far.labels.tolist()}
    assert all(name.endswith(", negative") for name in names)
    assert far.images.mean() > 0.5 > letters.images.mean()  # dark ink on bright ground
    mixed = module.together(near, far)
    assert sorted(mixed.labels.tolist()) == sorted([*near.labels.tolist(), *far.labels.tolist()])
    assert (mixed.labels[:50] < 10).float().mean() < 0.5  # shuffled
    i = int((mixed.labels == far.labels[0]).nonzero()[0])
    assert any(torch.equal(mixed.images[i], image) for image in far.images)


def test_each_row_starts_and_sees_what_it_says(characters, tmp_path, monkeypatch):
    seen, learned = {}, {}
    real_train, real_pretrain = module.train, module.pretrain

    def train(model, few, settings, rate, seed, files, augment, *, iterate):
        seen[files.name] = model, model.backbone.stage2.conv1.weight.detach().clone(), iterate
        real_train(model, few, settings, rate, seed, files, augment, iterate=iterate)

    def pretrain(network, data, settings, seed, file, augment, *, batch_size):
        real_pretrain(network, data, settings, seed, file, augment, batch_size=batch_size)
        learned[file.stem] = set(data.labels.tolist()), network.backbone.stage2.conv1.weight.clone()

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "pretrain", pretrain)
    found = module.run_seed(characters, TINY, 0, tmp_path)
    experiment = get("selective-joint-why")
    assert set(found) == {row.key for row in experiment.rows}
    assert learned["new"][0] == set(range(10, 45))  # letters alone
    assert learned["known"][0] == set(range(80))
    for name, (model, weight, iterate) in seen.items():
        known, *rest = name.split("-")
        assert torch.equal(weight, learned[known][1]), name
        assert iterate == name.endswith("selective")
        assert isinstance(model, JointFineTuning) == (rest != ["finetune"])
        if rest[0] in ("near", "mixed"):
            assert len(model.source) == {"near": 50, "mixed": 200}[rest[0]]
    for case in ("known-near", "known-mixed", "new-near", "new-mixed"):
        models = {way: seen[f"{case}-{way}"][0] for way in module.WAYS}
        assert len(models["random"].selected) == len(models["selective"].selected)
        assert len(models["all"].selected) == len(models["all"].source)
    chosen = seen["new-mixed-selective"][0]
    near = (chosen.source.labels[chosen.selected] < 10).sum()
    assert found["new-mixed-share"] == pytest.approx(100 * float(near) / len(chosen.selected))


# --- what the chapter says ------------------------------------------------------------------------


@pytest.mark.claim("claim-why-harm")
def test_claim_a_new_source_that_is_partly_far_off_does_harm(claim):
    for way in ("all", "random"):
        claim.better(load_result("selective-joint-why"), "new-finetune", f"new-mixed-{way}")


@pytest.mark.claim("claim-why-selection")
def test_claim_selection_undoes_the_harm(claim):
    for way in ("all", "random"):
        claim.better(load_result("selective-joint-why"), "new-mixed-selective", f"new-mixed-{way}")


@pytest.mark.claim("claim-why-none")
def test_claim_selection_gains_on_average_on_no_source(claim):
    why = load_result("selective-joint-why")
    claim.on_average(why, "new-mixed-selective", "new-finetune", seeds=8)


@pytest.mark.claim("claim-why-rest")
def test_claim_the_source_changes_little_in_the_other_cases(claim):
    why = load_result("selective-joint-why")
    for case in ("known-near", "known-mixed", "new-near"):
        for way in ("all", "random", "selective"):
            without = f"{case.partition('-')[0]}-finetune"
            claim.no_difference(why, f"{case}-{way}", without, within=2.5)


@pytest.mark.claim("claim-why-near")
def test_claim_selection_costs_where_all_of_a_new_source_is_near(claim):
    claim.better(load_result("selective-joint-why"), "new-near-all", "new-near-selective")


def test_what_the_chapter_says_of_what_was_selected():
    why = load_result("selective-joint-why")
    assert all(why[f"{known}-mixed-share"].interval.mean > 95 for known in ("known", "new"))
