"""The experiments on matching, on tiny data: who learns what, the losses, and resuming."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tlcourse.data import LabelledImages
from tlcourse.experiments import get, jacobian, load_result, matching, run
from tlcourse.experiments.jacobian import JACOBIAN_FEW_DATA
from tlcourse.experiments.matching import (
    AT_CIFAR10,
    AT_CIFAR10_NIN,
    AT_DIGITS,
    CIFAR_QUICK,
    DIGITS,
    LAYERS,
    Network,
    Students,
)
from tlcourse.matching import attention_transfer_loss, capture
from tlcourse.metrics import interval

TINY_CIFAR = CIFAR_QUICK | {
    "student_images_per_class": 4,
    "teacher_images_per_class": 4,
    "batch_size": 8,
    "test_per_class": 2,
}
TINY_DIGITS = DIGITS | {"student_images_per_class": 2, "student_epochs": 2, "teacher_epochs": 1}
TINY_JACOBIAN = jacobian.QUICK | {
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


@pytest.fixture
def digits():
    return {k: images(6, channels=1, seed=i) for i, k in enumerate(("train", "test"))}


# --- the tables -----------------------------------------------------------------------------------


def test_the_lectures_figures_stand_beside_ours():
    rows = {row.key: row.paper for row in AT_CIFAR10.rows}
    assert len(rows) == 18
    assert rows["WRN-16-1-from-WRN-16-2-student"] == 8.77
    assert rows["WRN-16-1-from-WRN-16-2-at"] == 7.93
    assert rows["WRN-16-1-from-WRN-40-1-act"] == 8.62
    assert rows["WRN-16-1-from-WRN-40-1-at+kd"] == 8.01
    assert rows["WRN-16-2-from-WRN-40-2-kd"] == 6.08
    assert rows["WRN-16-2-from-WRN-40-2-teacher"] == 5.23
    nin = [row.paper for row in AT_CIFAR10_NIN.rows]
    assert nin == [9.38, 8.93, 9.05, 8.55, 8.33, 7.28]
    few = {row.key: row.paper for row in JACOBIAN_FEW_DATA.rows}
    assert len(few) == 6 * 6 + 1
    assert few["ce-1"] == 5.69
    assert few["ce+act+jac-10"] == 39.55
    assert few["act+jac-500"] == 51.33
    assert few["act-50"] == 45.73
    assert few["teacher"] is None
    assert all(row.paper is None for row in AT_DIGITS.rows)


def test_the_full_settings_are_the_papers_recipe_and_the_short_ones_say_what_they_are():
    full = AT_CIFAR10.settings["full"]
    assert (full["student_epochs"], full["teacher_epochs"], full["batch_size"]) == (200, 200, 128)
    assert (full["learning_rate"], full["momentum"], full["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert full["milestones"] == [60 / 200, 120 / 200, 160 / 200]
    assert (full["beta"], full["temperature"], full["alpha"]) == (1e3, 4, 0.9)
    assert full["augmentation"] == "crops and flips"
    assert full["student_images_per_class"] is None is full["teacher_images_per_class"]
    short = AT_CIFAR10.settings["full, without a GPU"]
    for number in ("teacher_images_per_class", "student_images_per_class", "test_per_class"):
        assert f"{10 * short[number]:,}" in short["schedule"]
    assert short["pairs"] == full["pairs"]
    assert short["ways"] == full["ways"]
    for profile, settings in AT_CIFAR10_NIN.settings.items():
        of_wide_nets = AT_CIFAR10.settings[profile]
        assert settings == of_wide_nets | {"pairs": [["NIN-thin", "NIN-wide"]]}, profile


def test_they_are_registered():
    for experiment in (AT_CIFAR10, AT_CIFAR10_NIN, AT_DIGITS, JACOBIAN_FEW_DATA):
        assert get(experiment.name) is experiment
        assert experiment.seeds["full"] >= 3
        assert experiment.chapter == "methods/matching-features"


# --- attention transfer ---------------------------------------------------------------------------


def test_each_pair_of_the_table_gives_its_rows(cifar, tmp_path):
    found = matching.run_seed(cifar, TINY_CIFAR, 0, tmp_path)
    assert set(found) == {row.key for row in AT_CIFAR10.rows}
    assert all(0 <= value <= 100 for value in found.values())
    # One student alone serves both pairs, one teacher each is trained.
    alone = "WRN-16-1-from-{}-student"
    assert found[alone.format("WRN-16-2")] == found[alone.format("WRN-40-1")]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.safetensors"
        for name in (
            "WRN-16-2", "WRN-40-1", "WRN-40-2", "WRN-16-1-from-WRN-16-2", "WRN-16-1-from-WRN-40-1",
            "WRN-16-2-from-WRN-40-2",
        )
    }  # fmt: skip


def test_the_pair_of_networks_in_networks_gives_its_rows(cifar, tmp_path):
    settings = TINY_CIFAR | {"pairs": AT_CIFAR10_NIN.settings["quick"]["pairs"]}
    found = matching.run_seed(cifar, settings, 0, tmp_path)
    assert set(found) == {row.key for row in AT_CIFAR10_NIN.rows}
    assert all(0 <= value <= 100 for value in found.values())


def test_digits_gives_its_rows_and_a_resumed_run_the_same(digits, tmp_path, monkeypatch):
    torch.manual_seed(0)
    whole = matching.run_seed(digits, TINY_DIGITS, 0, tmp_path / "whole")
    assert set(whole) == {row.key for row in AT_DIGITS.rows}

    class KilledError(Exception):
        pass

    really, batches = matching.side_by_side, []

    def dying(teacher, settings, steps):
        objective = really(teacher, settings, steps)

        def until_the_second_epoch(students, batch):
            batches.append(batch)
            if len(batches) == 2:
                raise KilledError
            return objective(students, batch)

        until_the_second_epoch.__qualname__ = objective.__qualname__  # fit knows it by this name
        return until_the_second_epoch

    with monkeypatch.context() as context:
        context.setattr(matching, "side_by_side", dying)
        torch.manual_seed(0)
        with pytest.raises(KilledError):
            matching.run_seed(digits, TINY_DIGITS, 0, tmp_path / "killed")
    torch.manual_seed(0)
    assert matching.run_seed(digits, TINY_DIGITS, 0, tmp_path / "killed") == whole


def test_students_start_alike_and_share_nothing(cifar):
    torch.manual_seed(0)
    teacher = Network("WRN-16-2", cifar["train"], TINY_CIFAR)
    first = Network("WRN-16-1", cifar["train"], TINY_CIFAR)
    students = Students(first, teacher, ["student", "at", "act"], TINY_CIFAR)
    states = [net.state_dict() for net in students.nets.values()]
    for name, tensor in states[0].items():
        assert all(torch.equal(tensor, state[name]) for state in states)
    pointers = [p.data_ptr() for p in students.nets.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert [tuple(a.weight.shape[:2]) for a in students.adapters] == [(32, 16), (64, 32), (128, 64)]
    same = Students(first, Network("WRN-40-1", cifar["train"], TINY_CIFAR), ["act"], TINY_CIFAR)
    assert all(isinstance(a, torch.nn.Identity) for a in same.adapters)


def test_side_by_side_each_student_gets_its_own_gradient(cifar):
    """The sum of the losses trains each as it would train alone."""
    settings = TINY_CIFAR | {"precision": "float32"}
    torch.manual_seed(0)
    teacher = Network("WRN-16-2", cifar["train"], settings).eval()
    first = Network("WRN-16-1", cifar["train"], settings)
    batch = cifar["train"].tensors
    gradients = []
    for ways in (["student", "at", "act", "kd", "at+kd"], ["at"]):
        students = Students(first, teacher, ways, settings).train()
        matching.side_by_side(teacher, settings, 10)(students, batch).backward()
        gradients.append([p.grad.clone() for p in students.nets["at"].parameters()])
        assert int(students.step) == 1
    for together, alone in zip(*gradients, strict=True):
        assert torch.allclose(together, alone, atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_what_decays_falls_from_one_in_a_straight_line(cifar, monkeypatch):
    seen = []

    def loss_of(way, z, A_S, labels, v, A_T, settings, left):
        seen.append(left)
        return F.cross_entropy(z, labels)

    monkeypatch.setattr(matching, "loss_of", loss_of)
    teacher = Network("WRN-16-2", cifar["train"], TINY_CIFAR).eval()
    students = Students(Network("WRN-16-1", cifar["train"], TINY_CIFAR), teacher, ["at+kd"], {})
    objective = matching.side_by_side(teacher, TINY_CIFAR, steps=4)
    for _ in range(4):
        objective(students, cifar["train"].tensors)
    assert seen == [1.0, 0.75, 0.5, 0.25]


def test_the_losses_of_the_ways():
    torch.manual_seed(0)
    z, v, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    A_S, A_T = ([torch.rand(4, 2, s, s) for s in (8, 4)] for _ in "ST")

    def loss(way, left=1.0):
        return matching.loss_of(way, z, A_S, labels, v, A_T, DIGITS, left)

    hard = F.cross_entropy(z, labels)
    code = attention_transfer_loss(A_S, A_T, beta=DIGITS["beta"], mode="code")
    paper = attention_transfer_loss(A_S, A_T, beta=DIGITS["beta_paper"])
    assert torch.equal(loss("student"), hard)
    assert torch.isclose(loss("at"), hard + code)
    assert torch.isclose(loss("at-paper"), hard + paper)
    assert torch.isclose(loss("at+kd"), loss("kd") + code)
    assert torch.isclose(loss("at+kd", left=0.25), loss("kd") + 0.25 * code)
    assert torch.isclose(loss("at+kd", left=0.0), loss("kd"))
    distance = [
        (F.normalize(a.flatten(1)) - F.normalize(b.flatten(1))).square().sum(1).mean()
        for a, b in zip(A_S, A_T, strict=True)
    ]
    expected = hard + 0.5 * DIGITS["act_weight"] * sum(distance)
    assert torch.isclose(loss("act", left=0.5), expected)
    assert loss("kd") == loss("kd", left=0.0) != hard


@pytest.mark.parametrize("name", ["WRN-16-1", "NIN-thin", "SmallResNet-4"])
def test_the_named_layers_are_the_stages(cifar, name):
    network = Network(name, cifar["train"], TINY_CIFAR)
    with capture(network, LAYERS) as activations:
        logits = network(cifar["test"].images)
    assert [a.shape[1] for a in activations.values()] == network.n_channels()
    assert logits.shape == (6, 3)
    assert logits.dtype == torch.float32  # bfloat16 inside
    assert activations[LAYERS[0]].dtype == torch.bfloat16


# --- Jacobians ------------------------------------------------------------------------------------


def test_jacobian_rows_at_tiny_scale(cifar, tmp_path, monkeypatch):
    seen = []
    really = jacobian.fit

    def fit(model, objective, on, **how):
        seen.append((len(on), len({image.numpy().tobytes() for image in on.images})))
        return really(model, objective, on, progress=False, **how)

    monkeypatch.setattr(jacobian, "fit", fit)
    found = jacobian.run_seed(cifar, TINY_JACOBIAN, 0, tmp_path)
    ways = [f"{way}-{n}" for n in (1, 2) for way in jacobian.WAYS]
    assert set(found) == {*ways, "teacher"}
    assert all(math.isfinite(value) for value in found.values())
    # The teacher sees all 18 images, the students 1 and 2 of each of the 3 classes, 24 in all.
    assert seen == [(18, 18), (24, 3), (24, 6)]


def test_the_parts_of_each_row(cifar):
    torch.manual_seed(0)
    x, y = cifar["train"].tensors
    teacher = jacobian.SmallResNet(3, in_channels=3, width=4).eval()
    student = jacobian.SmallResNet(3, in_channels=3, width=2).eval()
    v = teacher(x).detach()
    settings = TINY_JACOBIAN | {"activation_weight": 0.5, "jacobian_weight": 2.0}

    def loss(*parts):
        return jacobian.loss_of(parts, student, teacher, x, y, v, settings)

    z = student(x)
    ce = F.cross_entropy(z, y)
    act = (z - v).square().sum(1).mean()
    jac = jacobian.jacobian_matching_loss(student, teacher, x)
    assert torch.isclose(loss("ce"), ce)
    assert torch.isclose(loss("act"), 0.5 * act)
    assert torch.isclose(loss("jac"), 2 * jac)
    assert torch.isclose(loss("ce", "act", "jac"), ce + 0.5 * act + 2 * jac)


def test_with_jacobians_a_step_runs_the_student_once(cifar):
    student = jacobian.SmallResNet(3, in_channels=3, width=2)
    calls = []
    student.register_forward_hook(lambda *_: calls.append(1))
    x, y = cifar["train"].tensors
    teacher = jacobian.SmallResNet(3, in_channels=3, width=2).eval()
    v = teacher(x).detach()
    jacobian.loss_of(("ce", "act", "jac"), student, teacher, x, y, v, TINY_JACOBIAN).backward()
    assert len(calls) == 1


def test_images_are_repeated_in_turn():
    few = images(2)
    many = jacobian.repeated(few, 15)
    assert torch.equal(many.labels, torch.tensor([0, 1, 2] * 5))
    assert torch.equal(many.images[6:12], few.images)


# --- one real seed --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at_digits(tmp_path_factory):
    """One seed of at-digits with its real settings."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("out")
        result = run(AT_DIGITS, profile="quick", seeds=[0], out=out, say=lambda line: None)
    return {key.rpartition("-16-")[2]: row.values[0] for key, row in result.rows.items()}


def test_a_real_seed_shows_the_teacher_ahead_and_its_knowledge_passed_on(at_digits):
    assert at_digits["teacher"] < 4 < at_digits["student"]
    assert at_digits["kd"] < at_digits["student"]


# --- what the chapter says ------------------------------------------------------------------------


def test_what_the_chapter_says_of_the_recorded_pairs():
    """A teacher helps in every pair and way, but for one case by more than the spread."""
    gains = {}
    for experiment in (AT_CIFAR10, AT_CIFAR10_NIN):
        result = load_result(experiment.name)
        for student, teacher in experiment.settings["full"]["pairs"]:
            pair = f"{student}-from-{teacher}"
            for way in ("at", "act", "kd", "at+kd"):
                found = result.differences(f"{pair}-student", f"{pair}-{way}")
                gains[pair, way] = interval(found)
    assert len(gains) == 16
    assert all(gain.mean > 0 for gain in gains.values())
    assert sum(gain.low <= 0 for gain in gains.values()) == 1


def test_what_the_chapter_says_of_the_recorded_digits():
    result = load_result("at-digits")

    def gain(way, on):
        pair = "SmallResNet-4-from-SmallResNet-16"
        return interval(result.differences(f"{pair}-{on}", f"{pair}-{way}"))

    for way in ("at", "at-paper"):
        assert gain(way, "student").low < 0 < gain(way, "student").high
    assert gain("kd", "student").low > 0
    assert gain("at+kd", "kd").low > 0


def test_what_the_chapter_says_of_the_recorded_jacobians():
    result = load_result("jacobian-few-data")

    def mean(way, n):
        return result[f"{way}-{n}"].interval.mean

    for n in JACOBIAN_FEW_DATA.settings["full"]["labels_per_class"]:
        assert min(jacobian.WAYS, key=lambda way: mean(way, n)) == "ce"
        gain = interval(result.differences(f"ce+jac-{n}", f"ce-{n}"))
        assert (gain.low > 0) == (n <= 50), n
        assert mean("ce+act+jac", n) > max(mean(way, n) for way in ("ce+act", "ce+jac"))
        best = max(jacobian.WAYS, key=lambda way: mean(way, n))
        assert best == ("act+jac" if n <= 10 else "ce+act+jac")
        assert (mean("ce+jac", n) > mean("ce+act", n)) == (n <= 10)


@pytest.mark.parametrize("name", ["at-transfer", "at-transfer-mnist"])
def test_what_the_chapter_says_of_fine_tuning_with_a_teacher(name):
    result = load_result(name)

    def gain(way):
        return interval(result.differences("student", way))

    assert gain("teacher").low > 0
    for way in ("at", "kd"):
        assert gain(way).low < 0 < gain(way).high
