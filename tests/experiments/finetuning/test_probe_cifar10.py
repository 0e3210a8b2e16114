"""The probe on tiny data: where fine-tuning starts, and what a seed draws."""

from __future__ import annotations

import torch

from tlcourse.data import few_per_class
from tlcourse.experiments.finetuning import _parts as parts


def test_fine_tuning_starts_at_the_head_of_the_probe(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(parts, "fit", lambda *_, **__: None)
    experiment = tiny("probe-cifar10")
    found = experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    assert found["finetune-2"] == found["probe-2"]
    assert found["finetune-5"] == found["probe-5"]


def test_a_seed_draws_its_own_images_and_never_test_images(tmp_path, monkeypatch, tiny):
    seen = []
    monkeypatch.setattr(parts, "fit", lambda *a, **_: seen.append(a[2]))
    experiment = tiny("probe-cifar10")
    data = experiment.load({})
    for seed in (0, 1):
        experiment.run_seed(data, experiment.settings["quick"], seed, tmp_path)
    for i, seed in ((0, 0), (4, 1)):  # four trainings a seed, with 2 and with 5 a class
        for j, n in ((0, 2), (1, 2), (2, 5), (3, 5)):
            expected = few_per_class(data["train"], n, seed=seed)
            assert torch.equal(seen[i + j].images, expected.images)
    assert not torch.equal(seen[0].images, seen[4].images)
