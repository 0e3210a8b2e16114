"""Attention transfer between fine-tuned networks, on tiny data: who starts from what."""

from __future__ import annotations

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
from tlcourse.experiments.matching import at_transfer as module

TINY = module.QUICK | {
    "teacher": "SmallResNet-4",
    "student": "SmallResNet-2",
    "n_source": 45,
    "source_epochs": 1,
    "labels_per_class": 2,
    "epochs": 2,
    "batch_size": 4,
}


def images(n, n_classes, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(n, 1, 16, 16, generator=generator)
    names = tuple("abcdefgh"[:n_classes])
    return LabelledImages(pixels, torch.arange(n) % n_classes, names, f"noise {seed}")


DATA = {"source": images(20, 5, 0), "train": images(9, 3, 1), "test": images(6, 3, 2)}


def test_each_network_learns_the_source_first_and_its_backbone_goes_on(tmp_path, monkeypatch):
    seen, real = [], module.train_network

    def spy(model, objective, on, settings, epochs, seed, file):
        before = {name: t.clone() for name, t in model.state_dict().items()}
        real(model, objective, on, settings, epochs, seed, file)
        after = {name: t.clone() for name, t in model.state_dict().items()}
        seen.append((file.stem, on.name, settings["learning_rate"], before, after))

    monkeypatch.setattr(module, "train_network", spy)
    torch.manual_seed(0)
    found = module.run_seed(DATA, TINY, 0, tmp_path)
    assert set(found) == {row.key for row in get("at-transfer").rows}
    assert all(0 <= error <= 100 for error in found.values())

    source, target = "noise 0", "noise 1"
    assert [(name, data, rate) for name, data, rate, *_ in seen] == [
        ("SmallResNet-4-source", source, TINY["learning_rate"]),
        ("teacher", target, TINY["tuning_rate"]),
        ("SmallResNet-2-source", source, TINY["learning_rate"]),
        ("students", target, TINY["tuning_rate"]),
    ]
    (*_, big), (*_, tuned, _), (*_, small), (*_, students, _) = seen
    weight = "net.backbone.stage1.conv1.weight"
    assert torch.equal(big[weight], tuned[weight])
    assert tuned["net.head.weight"].shape == (3, 16)
    for way in TINY["ways"]:
        assert torch.equal(small[weight], students[f"nets.{way}.{weight}"])
        assert students[f"nets.{way}.net.head.weight"].shape == (3, 8)


def test_a_resumed_run_ends_in_the_same_numbers(tmp_path, monkeypatch):
    torch.manual_seed(0)
    whole = module.run_seed(DATA, TINY, 0, tmp_path / "whole")
    real, calls = module.train_network, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as context:
        context.setattr(module, "train_network", killed)
        torch.manual_seed(0)
        with pytest.raises(KeyboardInterrupt):
            module.run_seed(DATA, TINY, 0, tmp_path / "killed")
    torch.manual_seed(0)
    assert module.run_seed(DATA, TINY, 0, tmp_path / "killed") == whole


def test_the_lectures_columns_stand_beside_the_two_targets():
    figures = {name: [row.paper for row in get(name).rows] for name in (
        "at-transfer", "at-transfer-mnist")}  # fmt: skip
    assert figures["at-transfer"] == [28.5, 27.0, 27.0, 26.5]
    assert figures["at-transfer-mnist"] == [28.2, 28.1, 27.1, 26.0]


# --- what the chapter says ------------------------------------------------------------------------


@pytest.mark.claim("claim-at-transfer-teacher")
def test_claim_the_fine_tuned_teacher_is_better(claim):
    claim.better(load_result("at-transfer"), "teacher", "student")


@pytest.mark.claim("claim-at-transfer-none")
def test_claim_attention_transfer_changes_nothing(claim):
    claim.no_difference(load_result("at-transfer"), "at", "student", within=0.5)


@pytest.mark.claim("claim-at-transfer-kd")
def test_claim_the_answers_gain_on_average(claim):
    claim.on_average(load_result("at-transfer"), "kd", "student", seeds=8)


def test_what_the_chapter_says_of_the_five_seeds_on_mnist():
    result = load_result("at-transfer-mnist")
    for way in ("at", "kd"):
        found = result.paired(way, "student")
        assert found.n == 5
        assert found.low < 0 < found.high, way
