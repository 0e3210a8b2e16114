"""Jacobian matching with few images, on tiny data: who sees what, and the losses of the rows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tlcourse.data import LabelledImages
from tlcourse.experiments import load_result
from tlcourse.experiments.matching import jacobian_few_data as module
from tlcourse.experiments.matching.jacobian_few_data import JACOBIAN_FEW_DATA

TINY = module.QUICK | {
    "labels_per_class": [1, 2],
    "teacher_width": 4,
    "student_width": 2,
    "student_images": 24,
    "batch_size": 8,
}


def images(n_per_class, *, channels=3, size=16, seed=0, n_classes=3, name="CIFAR-10 (JPEG)"):
    """Noise with a brightness of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_per_class * n_classes) % n_classes
    noise = torch.rand(len(labels), channels, size, size, generator=generator)
    pixels = 0.6 * noise + 0.4 * labels[:, None, None, None] / (n_classes - 1)
    return LabelledImages(pixels, labels, tuple("abcdefghij"[:n_classes]), name)


@pytest.fixture
def cifar():
    return {"train": images(6), "test": images(2, seed=1)}


def test_the_lectures_figures_stand_beside_ours():
    few = {row.key: row.paper for row in JACOBIAN_FEW_DATA.rows}
    assert len(few) == 6 * 6 + 1
    assert few["ce-1"] == 5.69
    assert few["ce+act+jac-10"] == 39.55
    assert few["act+jac-500"] == 51.33
    assert few["act-50"] == 45.73
    assert few["teacher"] is None
    assert JACOBIAN_FEW_DATA.seeds["full"] >= 3


def test_jacobian_rows_at_tiny_scale(cifar, tmp_path, monkeypatch):
    seen = []
    really = module.fit

    def fit(model, objective, on, **how):
        seen.append((len(on), len({image.numpy().tobytes() for image in on.images})))
        return really(model, objective, on, progress=False, **how)

    monkeypatch.setattr(module, "fit", fit)
    found = module.run_seed(cifar, TINY, 0, tmp_path)
    ways = [f"{way}-{n}" for n in (1, 2) for way in module.WAYS]
    assert set(found) == {*ways, "teacher"}
    assert all(math.isfinite(value) for value in found.values())
    # The teacher sees all 18 images, the students 1 and 2 of each of the 3 classes, 24 in all.
    assert seen == [(18, 18), (24, 3), (24, 6)]


def test_the_parts_of_each_row(cifar):
    torch.manual_seed(0)
    x, y = cifar["train"].tensors
    teacher = module.SmallResNet(3, in_channels=3, width=4).eval()
    student = module.SmallResNet(3, in_channels=3, width=2).eval()
    v = teacher(x).detach()
    settings = TINY | {"activation_weight": 0.5, "jacobian_weight": 2.0}

    def loss(*parts):
        return module.loss_of(parts, student, teacher, x, y, v, settings)

    z = student(x)
    ce = F.cross_entropy(z, y)
    act = (z - v).square().sum(1).mean()
    jac = module.jacobian_matching_loss(student, teacher, x)
    assert torch.isclose(loss("ce"), ce)
    assert torch.isclose(loss("act"), 0.5 * act)
    assert torch.isclose(loss("jac"), 2 * jac)
    assert torch.isclose(loss("ce", "act", "jac"), ce + 0.5 * act + 2 * jac)


def test_with_jacobians_a_step_runs_the_student_once(cifar):
    student = module.SmallResNet(3, in_channels=3, width=2)
    calls = []
    student.register_forward_hook(lambda *_: calls.append(1))
    x, y = cifar["train"].tensors
    teacher = module.SmallResNet(3, in_channels=3, width=2).eval()
    v = teacher(x).detach()
    module.loss_of(("ce", "act", "jac"), student, teacher, x, y, v, TINY).backward()
    assert len(calls) == 1


def test_images_are_repeated_in_turn():
    few = images(2)
    many = module.repeated(few, 15)
    assert torch.equal(many.labels, torch.tensor([0, 1, 2] * 5))
    assert torch.equal(many.images[6:12], few.images)


# --- what the chapter says ------------------------------------------------------------------------


def test_what_the_chapter_says_of_the_recorded_jacobians():
    result = load_result("jacobian-few-data")

    def mean(way, n):
        return result[f"{way}-{n}"].interval.mean

    def paper(way, n):
        return result[f"{way}-{n}"].paper

    def ahead(way, other, n):
        return sum(d > 0 for d in result.differences(f"{way}-{n}", f"{other}-{n}"))

    for n in JACOBIAN_FEW_DATA.settings["full"]["labels_per_class"]:
        for number in (mean, paper) if n <= 100 else (mean,):
            assert min(module.WAYS, key=lambda way: number(way, n)) == "ce"
            both = number("ce+act+jac", n)
            assert both > max(number(way, n) for way in ("ce+act", "ce+jac"))
        assert ahead("ce+jac", "ce", n) == (3 if n <= 100 else 1)
        either = result.paired(f"ce+jac-{n}", f"ce+act-{n}")
        assert either.low < 0 < either.high, n
        best = max(module.WAYS, key=lambda way: mean(way, n))
        assert (best == "act+jac") == (n <= 10)
    for n in (5, 10):
        lead = result.paired(f"act+jac-{n}", f"ce+act+jac-{n}")
        assert lead.low < 0 < lead.high, n
    settings = result.record["settings"]
    assert round(settings["student_images"] / (500 * 10)) == 8
