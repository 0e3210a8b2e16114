"""Attention transfer between networks, on tiny data: who learns what, the losses, resuming."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.utils._python_dispatch import TorchDispatchMode

from tlcourse.data import LabelledImages, few_per_class
from tlcourse.data import digits as full_size_digits
from tlcourse.experiments import get, load_result, run
from tlcourse.experiments.matching import _side_by_side as sides
from tlcourse.experiments.matching import at as module
from tlcourse.experiments.matching._side_by_side import LAYERS, Network, Students
from tlcourse.experiments.matching.at import (
    AT_CIFAR10,
    AT_CIFAR10_NIN,
    AT_DIGITS,
    CIFAR_QUICK,
    DIGITS,
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
    for experiment in (AT_CIFAR10, AT_CIFAR10_NIN, AT_DIGITS):
        assert get(experiment.name) is experiment
        assert experiment.seeds["full"] >= 3
        assert experiment.chapter == "methods/attention-transfer"


# --- attention transfer ---------------------------------------------------------------------------


def test_each_pair_of_the_table_gives_its_rows(cifar, tmp_path):
    found = module.run_seed(cifar, TINY_CIFAR, 0, tmp_path)
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
    found = module.run_seed(cifar, settings, 0, tmp_path)
    assert set(found) == {row.key for row in AT_CIFAR10_NIN.rows}
    assert all(0 <= value <= 100 for value in found.values())


def test_digits_gives_its_rows_and_a_resumed_run_the_same(digits, tmp_path, monkeypatch):
    torch.manual_seed(0)
    whole = module.run_seed(digits, TINY_DIGITS, 0, tmp_path / "whole")
    assert set(whole) == {row.key for row in AT_DIGITS.rows}

    class KilledError(Exception):
        pass

    really, batches = module.side_by_side, []

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
        context.setattr(module, "side_by_side", dying)
        torch.manual_seed(0)
        with pytest.raises(KilledError):
            module.run_seed(digits, TINY_DIGITS, 0, tmp_path / "killed")
    torch.manual_seed(0)
    assert module.run_seed(digits, TINY_DIGITS, 0, tmp_path / "killed") == whole


def test_students_start_alike_and_share_nothing(cifar):
    torch.manual_seed(0)
    teacher = Network("WRN-16-2", cifar["train"], TINY_CIFAR)
    first = Network("WRN-16-1", cifar["train"], TINY_CIFAR)
    students = Students(first, teacher, ["student", "at", "act"])
    states = [net.state_dict() for net in students.nets.values()]
    for name, tensor in states[0].items():
        assert all(torch.equal(tensor, state[name]) for state in states)
    pointers = [p.data_ptr() for p in students.nets.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert [tuple(a.weight.shape[:2]) for a in students.adapters] == [(32, 16), (64, 32), (128, 64)]
    same = Students(first, Network("WRN-40-1", cifar["train"], TINY_CIFAR), ["act"])
    assert all(isinstance(a, torch.nn.Identity) for a in same.adapters)


def test_adapters_are_there_where_they_are_trained(cifar):
    """Weights that no loss asks for would be drawn, shared and kept in vain."""
    teacher, first = (Network(f"WRN-16-{k}", cifar["train"], TINY_CIFAR) for k in (2, 1))
    state = torch.get_rng_state()
    students = Students(first, teacher, ["student", "kd", "at"])
    assert torch.equal(torch.get_rng_state(), state)
    objective = sides.side_by_side(teacher.eval(), TINY_CIFAR, 1)
    objective(students, cifar["train"].tensors).backward()
    assert all(p.grad is not None for p in students.parameters())


def test_side_by_side_each_student_gets_its_own_gradient(cifar):
    """The sum of the losses trains each as it would train alone."""
    settings = TINY_CIFAR | {"precision": "float32"}
    torch.manual_seed(0)
    teacher = Network("WRN-16-2", cifar["train"], settings).eval()
    first = Network("WRN-16-1", cifar["train"], settings)
    batch = cifar["train"].tensors
    gradients = []
    for ways in (["student", "at", "act", "kd", "at+kd"], ["at"]):
        students = Students(first, teacher, ways).train()
        sides.side_by_side(teacher, settings, 10)(students, batch).backward()
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

    monkeypatch.setattr(sides, "loss_of", loss_of)
    teacher = Network("WRN-16-2", cifar["train"], TINY_CIFAR).eval()
    students = Students(Network("WRN-16-1", cifar["train"], TINY_CIFAR), teacher, ["at+kd"])
    objective = sides.side_by_side(teacher, TINY_CIFAR, steps=4)
    for _ in range(4):
        objective(students, cifar["train"].tensors)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    assert int(students.step) == 4
    again = sides.side_by_side(teacher, TINY_CIFAR, steps=8)  # as a resumed run makes it
    again(students, cifar["train"].tensors)
    assert seen[4:] == [0.5]


def test_the_steps_are_read_from_the_students_once(cifar):
    """Each reading waits for the device."""
    teacher = Network("WRN-16-2", cifar["train"], TINY_CIFAR).eval()
    students = Students(Network("WRN-16-1", cifar["train"], TINY_CIFAR), teacher, ["student"])
    objective = sides.side_by_side(teacher, TINY_CIFAR, steps=4)

    class Reads(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.n += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    with Reads() as reads:
        for _ in range(4):
            objective(students, cifar["train"].tensors)
    assert reads.n == 1


def test_the_losses_of_the_ways():
    torch.manual_seed(0)
    z, v, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    A_S, A_T = ([torch.rand(4, 2, s, s) for s in (8, 4)] for _ in "ST")

    def loss(way, left=1.0):
        return sides.loss_of(way, z, A_S, labels, v, A_T, DIGITS, left)

    hard = F.cross_entropy(z, labels)
    code = attention_transfer_loss(A_S, A_T, beta=DIGITS["beta"], mode="code")
    paper = attention_transfer_loss(A_S, A_T, beta=DIGITS["beta_paper"], mode="paper")
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
    """A teacher helps in every pair, way and seed; F-ActT is about as good as AT here."""
    gains = {}
    for experiment in (AT_CIFAR10, AT_CIFAR10_NIN):
        result = load_result(experiment.name)
        for student, teacher in experiment.settings["full"]["pairs"]:
            pair = f"{student}-from-{teacher}"
            for way in ("at", "act", "kd", "at+kd"):
                gains[pair, way] = min(result.differences(f"{pair}-student", f"{pair}-{way}"))
            assert abs(result.paired(f"{pair}-act", f"{pair}-at").mean) < 2, pair
        for row in result.rows.values():
            assert row.interval.mean > 4 * row.paper, row.key  # "at several times the paper's"
    assert len(gains) == 16
    assert min(gains.values()) > 0


PAIR = "SmallResNet-4-from-SmallResNet-16"


@pytest.mark.claim("claim-at-digits-code")
def test_claim_the_authors_form_gains_on_average(claim):
    claim.on_average(load_result("at-digits"), f"{PAIR}-at", f"{PAIR}-student")


@pytest.mark.claim("claim-at-digits-paper")
def test_claim_the_papers_form_gains_on_average(claim):
    claim.on_average(load_result("at-digits"), f"{PAIR}-at-paper", f"{PAIR}-student")


@pytest.mark.claim("claim-at-digits-kd")
def test_claim_the_teachers_answers_win(claim):
    claim.better(load_result("at-digits"), f"{PAIR}-kd", f"{PAIR}-student")


@pytest.mark.claim("claim-at-digits-both")
def test_claim_attention_adds_to_the_answers(claim):
    claim.better(load_result("at-digits"), f"{PAIR}-at+kd", f"{PAIR}-kd")


def test_what_the_chapter_says_of_logistic_regression_on_the_same_images():
    result = load_result("at-digits")
    train, test = full_size_digits(size=32)
    errors = []
    for seed in result.record["seeds"]:
        few = few_per_class(train, result.record["settings"]["student_images_per_class"], seed=seed)
        model = LogisticRegression(max_iter=1000)
        model.fit(few.images.flatten(1).numpy(), few.labels.numpy())
        score = model.score(test.images.flatten(1).numpy(), test.labels.numpy())
        errors.append(100 * (1 - score))

    def against_pixels(way):
        values = result[f"{PAIR}-{way}"].values
        return interval([a - b for a, b in zip(values, errors, strict=True)])

    assert against_pixels("student").low > 0
    assert [way for way in ("at", "at-paper", "act", "kd", "at+kd")
            if against_pixels(way).high < 0] == ["kd", "at+kd"]  # fmt: skip
