"""The experiment on Jacobians in transfer, on tiny data: rows, losses, the teacher, resuming."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tlcourse.data import LabelledImages, few_per_class
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.matching import jacobian_transfer as module
from tlcourse.matching import (
    activation_matching_loss,
    attention_transfer_loss,
    capture,
    jacobian_matching_loss,
)
from tlcourse.models import SmallResNet

TINY = module.QUICK | {
    "width": 2,
    "labels_per_class": [1, None],
    "steps": 2,
    "batch_size": 8,
    "activation_weight": 0.5,
    "jacobian_weight": 2.0,
    "beta": 3.0,
}
KEYS = [f"{way}-{n}" for n in ("1", "all") for way in module.WAYS]


def images(n_per_class, *, seed=0, n_classes=3):
    """Noise with a brightness of its own for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_per_class * n_classes) % n_classes
    noise = torch.rand(len(labels), 1, 16, 16, generator=generator)
    pixels = 0.6 * noise + 0.4 * labels[:, None, None, None] / (n_classes - 1)
    return LabelledImages(pixels, labels, tuple("abc"), "tiny")


@pytest.fixture
def teacher(monkeypatch, tmp_path):
    """Put a network of random weights in the place of the source network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(7, width=2).eval()
    monkeypatch.setattr(module, "glyph_network", lambda *, progress: network)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    return network


def tiny():
    data = {"train": images(6), "test": images(4, seed=1)}
    rows = tuple(dataclasses.replace(get("jacobian-transfer").rows[0], key=key) for key in KEYS)
    return dataclasses.replace(
        get("jacobian-transfer"), settings={"quick": TINY}, rows=rows, load=lambda _: data
    )


def values(result):
    return {key: row.values for key, row in result.rows.items()}


def test_a_run_fills_its_table_and_leaves_the_teacher_as_it_was(teacher, tmp_path):
    before = {k: v.numpy().tobytes() for k, v in teacher.state_dict().items()}
    result = run(tiny(), profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert list(result.rows) == KEYS
    for (value,) in values(result).values():  # every accuracy is so many twelfths
        assert value * 12 / 100 == pytest.approx(round(value * 12 / 100))
    assert {k: v.numpy().tobytes() for k, v in teacher.state_dict().items()} == before
    assert all(p.grad is None for p in teacher.parameters())


def test_a_killed_run_ends_in_the_same_numbers(teacher, tmp_path, monkeypatch):
    undisturbed = run(tiny(), profile="quick", seeds=[3], out=tmp_path / "a", say=lambda _: None)
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "other"))
    real, calls = module.fit, []

    def killed(*arguments, **how):
        calls.append(how["checkpoint"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **how)

    with monkeypatch.context() as context:
        context.setattr(module, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert {path.name for path in (tmp_path / "other").rglob("*.safetensors")} == {calls[0]}
    assert len(set(calls)) == 2
    resumed = run(tiny(), profile="quick", seeds=[3], out=tmp_path / "b", say=lambda _: None)
    assert resumed.record["runs"][0]["resumed"]
    assert values(resumed) == values(undisturbed)


def test_students_learn_from_their_own_few_images_for_the_same_steps(
    teacher, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(module, "fit", lambda *a, **how: seen.append((a[2], how["epochs"])))
    data = tiny().load({})
    module.run_seed(data, TINY, 5, tmp_path)
    (few, epochs), (everything, epochs_all) = seen
    assert epochs == epochs_all == 1
    assert len(few) == len(everything) == 2 * 8
    assert torch.equal(few.images[:3], few_per_class(data["train"], 1, seed=5).images)
    assert torch.equal(few.images[3:6], few.images[:3])
    assert torch.equal(everything.images, data["train"].images[:16])


def test_training_never_sees_the_labels_of_the_test_images(teacher, tmp_path, monkeypatch):
    real, trained = module.fit, []

    def spy(students, *arguments, **how):
        real(students, *arguments, **how)
        trained.append({k: v.clone() for k, v in students.state_dict().items()})

    monkeypatch.setattr(module, "fit", spy)
    for shift in (0, 1):
        torch.manual_seed(0)
        data = tiny().load({})
        test = data["test"]
        labels = (test.labels + shift) % 3
        data["test"] = LabelledImages(test.images, labels, test.classes, test.name)
        module.run_seed(data, TINY, 0, tmp_path / str(shift))
    first, second = trained[:2], trained[2:]
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_students_start_alike_and_the_oracle_from_the_teacher(teacher):
    torch.manual_seed(1)
    students = module.new_students(teacher, 3, 2)
    first = students["ce"].state_dict()
    for way in ("act", "act+jac", "act+att", "act+att+jac"):
        assert all(torch.equal(v, first[k]) for k, v in students[way].state_dict().items())
    old = teacher.backbone.state_dict()
    backbone = students["oracle"].net.backbone.state_dict()
    assert all(torch.equal(v, old[k]) for k, v in backbone.items())
    assert not torch.equal(backbone["stem.0.weight"], first["net.backbone.stem.0.weight"])
    assert torch.equal(students["oracle"].net.head.weight, first["net.head.weight"])
    pointers = [p.data_ptr() for p in (*students.parameters(), *teacher.parameters())]
    assert len(set(pointers)) == len(pointers)


def test_the_parts_of_each_row(teacher):
    torch.manual_seed(1)  # 0 would give the student the teacher's weights
    x, y = images(2).tensors
    student = module.new_students(teacher, 3, 2)["act"].eval()
    with torch.no_grad(), capture(teacher, module.STAGES) as activations:
        v = teacher(x)
    A_T = list(activations.values())
    passes = []
    student.net.backbone.register_forward_hook(lambda *_: passes.append(1))

    def loss(way):
        return module.loss_of(module.WAYS[way], student, teacher, x, y, v, A_T, TINY)

    def answers(x):
        return student.answers(student.net.backbone(x))

    with capture(student.net, module.STAGES) as activations:
        ce = F.cross_entropy(student(x), y)
    act = 0.5 * activation_matching_loss(answers(x), v)
    jac = 2 * jacobian_matching_loss(answers, teacher, x)
    att = attention_transfer_loss(list(activations.values()), A_T, beta=3.0, mode="code")
    passes.clear()
    for way, expected in {
        "ce": ce,
        "oracle": ce,
        "act": ce + act,
        "act+jac": ce + act + jac,
        "act+att": ce + act + att,
        "act+att+jac": ce + act + att + jac,
    }.items():
        torch.testing.assert_close(loss(way), expected)
    assert len(passes) == 6  # a step runs each student once
    parts = torch.stack([ce, act, jac, att])
    assert (parts > 1e-3).all()


def test_side_by_side_each_student_gets_its_own_gradient(teacher):
    torch.manual_seed(1)
    x, y = images(2).tensors
    teacher.requires_grad_(False)
    students = module.new_students(teacher, 3, 2).train()
    module.side_by_side(teacher, TINY)(students, (x, y)).backward()
    together = [p.grad.clone() for p in students["act+att+jac"].parameters()]
    students.zero_grad()
    with torch.no_grad(), capture(teacher, module.STAGES) as activations:
        v = teacher(x)
    A_T = list(activations.values())
    parts = module.WAYS["act+att+jac"]
    module.loss_of(parts, students["act+att+jac"], teacher, x, y, v, A_T, TINY).backward()
    for a, p in zip(together, students["act+att+jac"].parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_the_lectures_figures_stand_beside_ours():
    experiment = get("jacobian-transfer")
    rows = {row.key: row.paper for row in experiment.rows}
    assert len(rows) == 6 * 5
    assert rows["ce-5"] == 11.64
    assert rows["oracle-10"] == 43.81
    assert rows["act-25"] == 45.08
    assert rows["act+jac-all"] == 66.04
    assert rows["act+att-50"] == 57.80
    assert rows["act+att+jac-all"] == 67.31
    assert "ImageNet to MIT Scenes" in experiment.source
    assert experiment.seeds["full"] >= 3
    for settings in experiment.settings.values():
        sizes = {module.name_of(n) for n in settings["labels_per_class"]}
        assert sizes == {key.rpartition("-")[2] for key in rows}


# --- what the chapter says ------------------------------------------------------------------------

MATCHED = ("act", "act+jac", "act+att", "act+att+jac")


@pytest.mark.claim("claim-jac-transfer-five")
def test_claim_matching_gains_with_five_labels(claim):
    for way in MATCHED:
        claim.better(load_result("jacobian-transfer"), f"{way}-5", "ce-5")


@pytest.mark.claim("claim-jac-transfer-ten")
def test_claim_matching_gains_with_ten_labels(claim):
    for way in MATCHED:
        claim.better(load_result("jacobian-transfer"), f"{way}-10", "ce-10")


@pytest.mark.claim("claim-jac-transfer-more")
def test_claim_matching_changes_little_with_more_labels(claim):
    for n in (25, 50, "all"):
        for way in MATCHED:
            claim.no_difference(
                load_result("jacobian-transfer"), f"{way}-{n}", f"ce-{n}", within=1.0
            )


@pytest.mark.claim("claim-jac-transfer-cost")
def test_claim_activations_cost_a_little_with_fifty_labels(claim):
    claim.better(load_result("jacobian-transfer"), "ce-50", "act-50")


@pytest.mark.claim("claim-jac-transfer-oracle")
def test_claim_the_teachers_weights_are_ahead(claim):
    for n in (5, 10, 25, 50):
        for way in ("ce", *MATCHED):
            claim.better(load_result("jacobian-transfer"), f"oracle-{n}", f"{way}-{n}")


@pytest.mark.claim("claim-jac-transfer-all")
def test_claim_the_teachers_weights_are_ahead_on_average_with_all_labels(claim):
    for way in ("ce", *MATCHED):
        claim.on_average(load_result("jacobian-transfer"), "oracle-all", f"{way}-all", seeds=8)


@pytest.mark.claim("claim-jac-transfer-added")
def test_claim_attention_and_jacobians_add_little_to_the_activations(claim):
    for n in (5, 10, 25, 50, "all"):
        for more, less in (("act+jac", "act"), ("act+att", "act"), ("act+att+jac", "act+att")):
            claim.no_difference(
                load_result("jacobian-transfer"), f"{more}-{n}", f"{less}-{n}", within=1.0
            )


def test_what_the_chapter_says_of_the_papers_transfer():
    rows = load_result("jacobian-transfer").rows
    for n in (5, 10, 25, 50, "all"):
        assert all(rows[f"{way}-{n}"].paper > rows[f"ce-{n}"].paper for way in MATCHED), n
