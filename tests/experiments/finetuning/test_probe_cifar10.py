"""The probe on tiny data: where fine-tuning starts, and what a seed draws."""

from __future__ import annotations

import torch

from tlcourse.data import few_per_class
from tlcourse.experiments import load_result
from tlcourse.experiments.finetuning import _parts as parts


def test_fine_tuning_starts_at_the_head_of_the_probe(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(parts, "fit", lambda *_, **__: None)
    experiment = tiny("probe-cifar10")
    found = experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    for key in parts.NETWORKS:
        assert found[f"{key}-finetune-2"] == found[f"{key}-probe-2"]
        assert found[f"{key}-finetune-5"] == found[f"{key}-probe-5"]


def test_a_seed_draws_its_own_images_and_never_test_images(tmp_path, monkeypatch, tiny):
    seen = []
    monkeypatch.setattr(parts, "fit", lambda *a, **_: seen.append(a[2]))
    experiment = tiny("probe-cifar10")
    data = experiment.load({})
    for seed in (0, 1):
        experiment.run_seed(data, experiment.settings["quick"], seed, tmp_path)
    for i, seed in ((0, 0), (6, 1)):  # six trainings a seed, with 2 and with 5 a class
        for j, n in enumerate((2, 5, 2, 5, 2, 5)):
            expected = few_per_class(data["train"], n, seed=seed)
            assert torch.equal(seen[i + j].images, expected.images)
    assert not torch.equal(seen[0].images, seen[6].images)


def test_all_of_a_network_is_fine_tuned_but_its_batchnorm(tmp_path, fits, tiny):
    experiment = tiny("probe-cifar10")
    experiment.run_seed(experiment.load({}), experiment.settings["quick"], 0, tmp_path)
    for key in parts.NETWORKS:
        ((moved, model),) = [(m, net) for name, m, net in fits if name == f"{key}-5"]
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        statistics = {id(t) for m in norms for t in m.state_dict(keep_vars=True).values()}
        fixed = {n for n, t in model.state_dict(keep_vars=True).items() if id(t) in statistics}
        assert moved == set(model.state_dict()) - fixed
        assert bool(norms) == (key == "lite0")


# --- what the chapter says ------------------------------------------------------------------------


def test_what_the_chapter_says_of_the_five_seeds():
    result = load_result("probe-cifar10")
    amounts = result.record["settings"]["labels_per_class"]
    for key in parts.NETWORKS:
        for n in amounts:
            assert min(result.differences(f"{key}-probe-{n}", f"scratch-{n}")) > 0
            assert min(result.differences(f"{key}-finetune-{n}", f"scratch-{n}")) > 0
            assert min(result.differences(f"{key}-finetune-{n}", f"{key}-probe-{n}")) > 0
            gain = result.paired(f"{key}-finetune-{n}", f"{key}-probe-{n}")
            assert (gain.low < 0) == (n == amounts[0])


def test_what_the_chapter_says_of_the_gain_with_more_labels():
    result = load_result("probe-cifar10")

    def grows(key):
        few, many = (
            result.differences(f"{key}-finetune-{n}", f"{key}-probe-{n}") for n in (50, 500)
        )
        return sum(b > a for a, b in zip(few, many, strict=True))

    assert grows("lite0") == 4
    assert 1 < grows("squeezenet") < 4
