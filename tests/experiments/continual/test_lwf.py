"""The lwf experiments on tiny data: what each method trains, sees and keeps."""

from __future__ import annotations

import dataclasses
import types

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from tlcourse.continual import LearningWithoutForgetting, less_forgetting_loss
from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.continual import lwf as module
from tlcourse.finetuning import changed, snapshot
from tlcourse.models import SmallResNet

TINY = module.DIGITS | {
    "labels_per_class": 2,
    "hidden": 4,
    "warm_up": 1,
    "epochs": 2,
    "long_epochs": 2,
    "batch_size": 4,
}


def images(n, n_classes, *, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    pixels = torch.rand(n, 1, size, size, generator=generator)
    return LabelledImages(pixels, labels, tuple("abcdefgh"[:n_classes]), f"noise {seed}")


NEW, OLD = images(6, 3), images(12, 5, seed=1)


@pytest.fixture(autouse=True)
def random_network(monkeypatch, tmp_path):
    def glyphs(*, progress):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return SmallResNet(5, width=2).eval()

    monkeypatch.setattr(module, "glyph_network", glyphs)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))


def learn(method, **settings):
    torch.manual_seed(0)
    return module.learn(method, NEW, OLD, TINY | settings, 0)


@pytest.mark.parametrize("name", ["lwf", "lwf-mnist"])
def test_a_run_fills_its_table(name, tmp_path):
    data = {
        "new-train": NEW,
        "new-test": images(6, 3, seed=2),
        "old-train": OLD,
        "old-test": images(5, 5, seed=3),
    }
    experiment = dataclasses.replace(get(name), settings={"quick": TINY}, load=lambda _: data)
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert len(result.rows) == 13
    before = module.per_cent(module.glyph_network(progress=False), data["old-test"])
    assert result["extraction-old"].values == (before,)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("lwf", {"0.stem", "0.stage1", "0.stage2", "0.stage3", "1"}),
        ("joint", {"0.stem", "0.stage1", "0.stage2", "0.stage3", "1"}),
        ("finetune", {"0.stem", "0.stage1", "0.stage2", "0.stage3"}),
        ("lfl", {"0.stem", "0.stage1", "0.stage2", "0.stage3"}),
        ("finetune-fc", {"0.stage3"}),
        ("extraction", set()),
    ],
)
def test_what_moves_of_the_old_network(method, expected):
    """The shared layers as the method says; the old head only with a loss of its own."""
    old, new = learn(method)
    source = module.glyph_network(progress=False)
    before = torch.nn.Sequential(source.backbone, source.head)
    names = changed(old, snapshot(before))
    moved = {".".join(name.split(".")[:2]) if name[0] == "0" else "1" for name in names}
    assert moved == expected
    assert not any("running" in name or "tracked" in name for name in names)
    assert new(NEW.images).shape == (6, 3)


def test_only_joint_training_sees_old_images(monkeypatch):
    asked = []
    monkeypatch.setattr(
        LabelledImages, "__getitem__", lambda self, i: (asked.append(self.name),
                                                        TensorDataset.__getitem__(self, i))[1]
    )  # fmt: skip
    for method in module.METHODS:
        asked.clear()
        learn(method)
        assert (OLD.name in asked) == (method == "joint"), method
        assert NEW.name in asked


def test_the_joint_loss_has_half_of_each():
    net = LearningWithoutForgetting(module.glyph_network(progress=False))
    net.new_task(NEW, 3)
    batch = NEW[[0, 1, 2, 3]]
    generator = torch.Generator().manual_seed(7)
    old_x, old_y = OLD[torch.randint(12, (4,), generator=generator)]
    expected = F.cross_entropy(net(batch[0], 1), batch[1]) + F.cross_entropy(net(old_x, 0), old_y)
    torch.testing.assert_close(module._joint(OLD, 7)(net, batch), expected)


def test_each_process_draws_its_own_old_images(monkeypatch):
    net = LearningWithoutForgetting(module.glyph_network(progress=False))
    net.new_task(NEW, 3)
    losses = []
    for index in range(3):
        process = types.SimpleNamespace(process_index=index)
        monkeypatch.setattr(module, "accelerator", lambda process=process: process)
        losses.append(module._joint(OLD, 7)(net, NEW[[0, 1]]).item())
    assert len(set(losses)) == 3


def test_the_lfl_objective_holds_features_and_not_answers():
    net = LearningWithoutForgetting(module.glyph_network(progress=False))
    features = net.new_task(NEW, 3).features.tensors[0]
    x, y = NEW.tensors
    expected = F.cross_entropy(net(x), y) + 0.5 * less_forgetting_loss(
        net.backbone(x), features + 1
    )
    torch.testing.assert_close(module._lfl(0.5)(net, (x, y, features + 1)), expected)


def test_a_large_weight_keeps_the_old_answers():
    x = NEW.images
    source = module.glyph_network(progress=False)
    before = torch.softmax(source(x), 1)
    moved = []
    for method, weights in (
        ("finetune", {}),
        ("lwf", {"old_weight": 100.0}),
        ("lfl", {"feature_weight": 100.0}),
    ):
        old, _ = learn(method, epochs=20, **weights)
        moved.append((torch.softmax(old(x), 1) - before).abs().mean().item())
    assert moved[1] < moved[0] / 2
    assert moved[2] < moved[0] / 2


def test_mnist_gets_a_border_and_the_old_task_comes_along(monkeypatch):
    small = images(6, 3, size=28)
    monkeypatch.setattr(module, "load_mnist", lambda _: {"train": small, "test": small})
    monkeypatch.setattr(module, "glyphs", lambda n, m, *, seed: (OLD, OLD))
    data = module.load_old_and_mnist(TINY | {"test_per_class": 1})
    assert set(data) == {"new-train", "new-test", "old-train", "old-test"}
    assert data["new-train"].images.shape == (6, 1, 32, 32)
    assert torch.equal(data["new-train"].images[:, :, 2:-2, 2:-2], small.images)
    assert len(data["new-test"]) == 3


def test_the_paper_s_column_is_lwf_plus_the_difference():
    paper = {row.key: row.paper for row in get("lwf-mnist").rows}
    assert paper == {
        "lwf-old": 49.8, "lwf-new": 99.3, "finetune-old": 47.0, "finetune-new": 99.3,
        "lfl-old": 46.9, "lfl-new": 98.7, "finetune-fc-old": 56.8, "finetune-fc-new": 99.1,
        "extraction-old": 57.1, "extraction-new": 98.5, "joint-old": 57.0, "joint-new": 99.3,
        "scratch-new": None,
    }  # fmt: skip
    assert all(row.paper is None for row in get("lwf").rows)
    for name in ("lwf", "lwf-mnist"):
        settings = get(name).settings["full"]
        assert (settings["temperature"], settings["old_weight"]) == (2.0, 1.0)
        assert get(name).seeds["full"] >= 3


# --- what the chapter says ------------------------------------------------------------------------


BOTH = ("lwf", "lwf-mnist")  # what the chapter claims of the digits, it claims of MNIST


def test_what_the_chapter_says_of_the_paper_s_column():
    result = load_result("lwf-mnist")
    assert result["lwf-old"].paper < result["joint-old"].paper - 5  # far below, in the paper


@pytest.mark.claim("claim-finetune-forgets")
def test_claim_fine_tuning_forgets_most(claim):
    for name in BOTH:
        for method in ("lwf", "lfl", "finetune-fc", "extraction", "joint"):
            claim.better(load_result(name), f"{method}-old", "finetune-old")


@pytest.mark.claim("claim-lfl-new")
def test_claim_lfl_learns_more_of_the_new_task_than_lwf(claim):
    for name in BOTH:
        claim.better(load_result(name), "lfl-new", "lwf-new")


@pytest.mark.claim("claim-lfl-old")
def test_claim_lfl_keeps_less_of_the_old_task_than_lwf(claim):
    for name in BOTH:
        claim.better(load_result(name), "lwf-old", "lfl-old")


@pytest.mark.claim("claim-finetune-above-joint")
def test_claim_joint_training_is_no_upper_bound_on_the_new_task(claim):
    for name in BOTH:
        claim.better(load_result(name), "finetune-new", "joint-new")


@pytest.mark.claim("claim-lwf-scratch")
def test_claim_lwf_is_ahead_of_training_from_scratch(claim):
    for name in BOTH:
        claim.better(load_result(name), "lwf-new", "scratch-new")


@pytest.mark.claim("claim-lwf-keeps-old")
def test_claim_lwf_keeps_more_of_the_old_task_than_fine_tuning(claim):
    for name in BOTH:
        claim.better(load_result(name), "lwf-old", "finetune-old")


@pytest.mark.claim("claim-lwf-pays-new")
def test_claim_lwf_learns_less_of_the_new_task(claim):
    for name in BOTH:
        claim.better(load_result(name), "finetune-new", "lwf-new")


@pytest.mark.claim("claim-lwf-near-joint")
def test_claim_lwf_keeps_the_old_task_as_well_as_joint_training(claim):
    for name in BOTH:
        claim.no_difference(load_result(name), "lwf-old", "joint-old", within=1.0)
