"""Logistic regression on pixels: the images that probe-cifar10 has, and no others."""

from __future__ import annotations

import torch

from tlcourse.data import LabelledImages, few_per_class
from tlcourse.experiments import get, load_result
from tlcourse.experiments.finetuning import pixels_cifar10 as module

SETTINGS = module.FULL | {"labels_per_class": [2, 5], "strengths": [0.01, 1.0]}


def images(n, seed, brightness=1.0):
    """Noise with a brightness of its own for each of three classes."""
    noise = torch.rand(3 * n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(3 * n) % 3
    pixels = 0.2 * noise + brightness * 0.4 * labels[:, None, None, None]
    return LabelledImages(pixels, labels, ("a", "b", "c"), "noise")


def test_it_reads_what_pixels_tell_and_nothing_else(tmp_path):
    for brightness, expected in ((1.0, [100.0]), (0.0, [0.0, 80.0])):
        data = {"train": images(9, 0, brightness), "test": images(10, 1, brightness)}
        found = module.run_seed(data, SETTINGS, 0, tmp_path)
        assert set(found) == {"pixels-2", "pixels-5"}
        for value in found.values():
            assert expected[0] <= value <= expected[-1]


def test_a_seed_draws_what_probe_cifar10_draws(tmp_path, monkeypatch):
    seen = []
    head = module.linear_head
    monkeypatch.setattr(module, "linear_head", lambda f, s: seen.append(f) or head(f, s))
    data = {"train": images(9, 0), "test": images(3, 1)}
    for seed in (0, 1):
        module.run_seed(data, SETTINGS, seed, tmp_path)
    for i, (seed, n) in enumerate(((0, 2), (0, 5), (1, 2), (1, 5))):
        expected = few_per_class(data["train"], n, seed=seed)
        assert torch.equal(seen[i].tensors[0], expected.images.flatten(1))
    assert not torch.equal(seen[0].tensors[0], seen[2].tensors[0])


def test_its_settings_are_those_of_the_probe():
    ours, probe = get("pixels-cifar10").settings["full"], get("probe-cifar10").settings["full"]
    for name in ("data", "test_per_class", "labels_per_class"):
        assert ours[name] == probe[name]


def test_a_network_from_scratch_is_ahead_of_the_pixels_in_each_seed():
    pixels, probe = load_result("pixels-cifar10"), load_result("probe-cifar10")
    assert pixels.record["seeds"] == probe.record["seeds"]
    for n in module.FULL["labels_per_class"]:
        pairs = zip(probe[f"scratch-{n}"].values, pixels[f"pixels-{n}"].values, strict=True)
        assert all(scratch > linear for scratch, linear in pairs), n
