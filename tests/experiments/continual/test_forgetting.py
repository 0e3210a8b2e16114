"""The forgetting experiments on tiny data: who sees what, what is asked, and the rows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from tlcourse.continual import LearningWithoutForgetting, lwf_old_task_loss
from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.continual import forgetting as module
from tlcourse.models import MLP, pretrained_backbone
from tlcourse.training import History

TINY = module.DIGITS | {
    "widths": [32],
    "rate": 1e-2,
    "batch_size": 6,
    "epochs": 1,
    "warm_up_epochs": 1,
}
CIFAR = module.CIFAR10_FULL | TINY | {
    "size": 32,
    "train_per_class": 4,
    "weights": "SqueezeNet 1.0 (random weights)",
}  # fmt: skip
ALL = [(scenario, m) for scenario, methods in module.METHODS.items() for m in methods]


def images(per_class, *, channels=1, size=8, seed=0, name="CIFAR-10 (JPEG)"):
    """Ten classes, each with a bright stripe of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(10 * per_class) % 10
    pixels = 0.1 * torch.rand(len(labels), channels, size, size, generator=generator)
    stripes = torch.zeros(10, size * size)
    for k in range(10):
        stripes[k, k::10] = 0.9
    pixels += stripes[labels].view(-1, 1, size, size)
    return LabelledImages(pixels, labels, tuple("0123456789"), name)


def flat(per_class, seed=0):
    data = images(per_class, seed=seed)
    return TensorDataset(data.images.flatten(1), data.labels)


def matrix(scenario, method, **settings):
    torch.manual_seed(0)
    return module.sequence_matrix(flat(6), flat(2, 1), scenario, method, TINY | settings, 0)


@pytest.mark.parametrize("name", ["forgetting-digits", "forgetting-cifar10"])
def test_a_run_fills_its_table(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        module, "pretrained_backbone", lambda name: pretrained_backbone(name, weights=None)
    )
    cifar = name == "forgetting-cifar10"
    shape = {"channels": 3, "size": 32} if cifar else {}
    data = {"train": images(5, **shape), "test": images(2, seed=1, **shape)}
    experiment = dataclasses.replace(
        get(name), settings={"quick": CIFAR if cifar else TINY}, load=lambda _: data
    )
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    for key, row in result.rows.items():
        low = -100 if key.endswith("forgetting") else 0
        assert low <= row.values[0] <= 100, key
    firsts = {row.values[0] for key, row in result.rows.items() if key.endswith("-1")}
    assert len(firsts) <= 3  # before the second step all but the tuned and the columns are one net


@pytest.mark.parametrize(("scenario", "method"), ALL)
def test_every_method_learns_its_steps_and_is_asked_about_those_so_far(scenario, method):
    R = matrix(scenario, method, epochs=8, warm_up_epochs=2)
    assert torch.equal(R.isnan(), torch.ones(5, 5).triu(1).bool())
    assert bool((R.diagonal() == 1).all())


@pytest.mark.parametrize("method", ["progressive", "separate"])
def test_columns_forget_nothing_where_the_step_is_known(method):
    R = matrix("known", method)
    for j in range(5):
        assert len(R[j:, j].unique()) == 1


def test_fine_tuning_with_one_softmax_forgets_and_joint_training_does_not():
    forgetful, joint = (matrix("all", m, epochs=12)[-1] for m in ("finetune", "joint"))
    assert forgetful[:-1].mean() < 0.3 < 0.9 < joint.mean()


@pytest.mark.parametrize(("scenario", "method"), ALL)
def test_only_joint_training_sees_images_of_earlier_steps(scenario, method, monkeypatch):
    seen = []

    def spy(model, objective, data, **how):
        x = torch.stack([data[i][0] for i in range(len(data))])
        seen.append((type(model).__name__, x))
        return History()

    monkeypatch.setattr(module._parts, "fit", spy)
    matrix(scenario, method)
    train = flat(6)
    x, y = train.tensors
    of_images = [s for name, s in seen if name != "Linear"]  # a head's warm-up is on features
    if method == "tuned":
        assert torch.equal(of_images.pop(0), x)
    assert len(of_images) == 5
    for i, given in enumerate(of_images):
        first = 0 if method == "joint" else i
        expected = x[(y // 2 >= first) & (y // 2 <= i)]
        assert torch.equal(given, expected)


def test_one_softmax_is_over_all_classes_and_holds_the_old_ones_together():
    torch.manual_seed(0)
    net = LearningWithoutForgetting(MLP((4, 6, 2)), old_weight=3.0)
    data = TensorDataset(torch.rand(8, 4), torch.arange(8) % 2)
    net.new_task(data, 2)
    batch = net.new_task(data, 2).answers.tensors
    x, y, first, second = batch
    z = torch.cat(net.logits(x), 1)
    expected = F.cross_entropy(z, y + 4) + 3.0 * lwf_old_task_loss(
        z[:, :4], torch.cat([first, second], 1), temperature=2.0
    )
    torch.testing.assert_close(module._one_softmax_loss(net, batch), expected)
    net.old_weight = 0.0
    torch.testing.assert_close(module._one_softmax_loss(net, batch), F.cross_entropy(z, y + 4))


def test_joint_training_with_known_steps_asks_each_head_about_its_own_step():
    joint = module._Joint([flat(2)], (64, 8), module._Go(TINY, 0, one_softmax=False))
    joint.n_classes = 4
    z = torch.tensor([[1.0, 0.0, 9.0, 9.0] + [7.0] * 6, [5.0, 5.0, 0.0, 2.0] + [7.0] * 6])
    net, labels = nn.Identity(), torch.tensor([0, 3])
    expected = F.cross_entropy(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(joint._loss(net, (z, labels)), expected)
    joint.go = module._Go(TINY, 0, one_softmax=True)
    torch.testing.assert_close(joint._loss(net, (z, labels)), F.cross_entropy(z[:, :4], labels))


def test_features_are_scaled_by_the_first_step_s_training_images_alone():
    x = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)) * 20
    y = torch.arange(30) % 10
    train, test = TensorDataset(x, y), TensorDataset(x + 1, y)
    mean, sd = x[y < 2].mean(0), x[y < 2].std(0)
    assert bool((sd > 1).all())
    scaled_train, scaled_test = module._standardised(train, test)
    torch.testing.assert_close(scaled_train.tensors[0], (x - mean) / sd)
    torch.testing.assert_close(scaled_test.tensors[0], (x + 1 - mean) / sd)
    x[y >= 2] *= 50  # later steps change nothing
    again, _ = module._standardised(train, test)
    torch.testing.assert_close(again.tensors[0][y < 2], scaled_train.tensors[0][y < 2])


@pytest.mark.parametrize("name", ["forgetting-digits", "forgetting-cifar10"])
def test_the_table(name):
    experiment = get(name)
    keys = [row.key for row in experiment.rows]
    for method in module.METHODS["all"]:
        assert [k for k in keys if k.startswith(f"all-{method}-") and k[-1].isdigit()
                and k.count("-") == method.count("-") + 2] == [
            f"all-{method}-{i}" for i in range(1, 6)]  # fmt: skip
    assert experiment.seeds["full"] >= 3
    assert all(row.paper is None for row in experiment.rows)
    assert experiment.settings["full"]["old_weight"] == 1.0


# --- what the chapter says ------------------------------------------------------------------------


def test_what_the_chapter_says_of_plain_training():
    assert min(load_result("forgetting-digits")["all-finetune-forgetting"].values) > 99


def test_what_the_chapter_says_of_the_three_seeds_on_photographs():
    result = load_result("forgetting-cifar10")
    assert max(result["known-finetune-forgetting"].values) < 2  # little to forget
    kept = result.differences("all-tuned-5", "all-finetune-5")
    assert min(kept) > load_result("forgetting-digits").paired("all-tuned-5", "all-finetune-5").high


@pytest.mark.claim("claim-forgetting-own")
def test_claim_a_network_for_each_step_does_as_well_as_columns(claim):
    claim.no_difference(
        load_result("forgetting-digits"), "known-separate", "known-progressive", within=0.5
    )


@pytest.mark.claim("claim-forgetting-tuned")
def test_claim_to_have_known_all_classes_slows_the_fall(claim):
    for step in (2, 3, 4):
        claim.better(load_result("forgetting-digits"), f"all-tuned-{step}", f"all-finetune-{step}")


@pytest.mark.claim("claim-forgetting-tuned-end")
def test_claim_to_have_known_all_classes_does_not_stop_the_fall(claim):
    claim.no_difference(
        load_result("forgetting-digits"), "all-tuned-5", "all-finetune-5", within=1.0
    )


@pytest.mark.claim("claim-forgetting-one-head")
def test_claim_lwf_with_one_head_ends_near_fine_tuning(claim):
    claim.no_difference(load_result("forgetting-digits"), "all-lwf-5", "all-finetune-5", within=1.0)


@pytest.mark.claim("claim-forgetting-heads")
def test_claim_heads_and_columns_do_better_than_one_head(claim):
    for row in ("all-lwf-heads-5", "all-progressive-5"):
        claim.better(load_result("forgetting-digits"), row, "all-lwf-5")


@pytest.mark.claim("claim-forgetting-joint")
def test_claim_heads_and_columns_stay_below_joint_training(claim):
    for row in ("all-lwf-heads-5", "all-progressive-5"):
        claim.better(load_result("forgetting-digits"), "all-joint-5", row)
        assert load_result("forgetting-digits").paired("all-joint-5", row).low > 30  # far below


@pytest.mark.claim("claim-forgetting-known-lwf")
def test_claim_lwf_is_ahead_of_fine_tuning_with_the_step_known(claim):
    claim.better(load_result("forgetting-digits"), "known-lwf", "known-finetune")


@pytest.mark.claim("claim-forgetting-known-progressive")
def test_claim_columns_are_ahead_of_lwf_with_the_step_known(claim):
    claim.better(load_result("forgetting-digits"), "known-progressive", "known-lwf")
