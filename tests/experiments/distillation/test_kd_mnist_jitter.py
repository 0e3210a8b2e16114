"""kd-mnist-jitter on tiny data: what the student sees, and what the teacher answers."""

from __future__ import annotations

import math

import pytest
import torch

from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
from tlcourse.experiments.distillation import kd_mnist_jitter as module

TINY = module.QUICK | {
    "teacher_width": 12,
    "student_width": 6,
    "teacher_epochs": 1,
    "jittered_epochs": 2,
    "batch_size": 8,
}


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    pixels = torch.rand(n, 1, 28, 28, generator=generator)
    return LabelledImages(pixels, labels, tuple("0123456789"), f"noise {seed}")


DATA = {"train": images(16, 0), "test": images(10, 1)}


@pytest.fixture
def calls(monkeypatch):
    """Return the arguments of every training."""
    seen, real = [], module.fit

    def fit(model, objective, on, **how):
        seen.append((model, objective, on, how))
        return real(model, objective, on, progress=False, **how)

    monkeypatch.setattr(module, "fit", fit)
    return seen


def test_teacher_and_student_see_shifted_images(tmp_path, calls):
    torch.manual_seed(0)
    found = module.run_seed(DATA, TINY, 0, tmp_path)
    assert set(found) == {row.key for row in get("kd-mnist-jitter").rows}
    assert all(math.isfinite(value) and 0 <= value <= 100 for value in found.values())
    assert [(how["checkpoint"].stem, how["epochs"]) for *_, how in calls] == [
        ("teacher", 1),
        ("jittered", 2),
    ]
    for _, _, on, how in calls:
        assert on is DATA["train"]
        shifted = how["augment"](DATA["train"].images)
        assert not torch.equal(shifted, DATA["train"].images)
        moved = how["augment"].keywords["pixels"]
        assert moved == TINY["teacher_jitter"]
        # The middle of an image is somewhere near; beyond that, what moved in is dark.
        assert shifted.shape == DATA["train"].images.shape


def test_the_student_learns_what_the_teacher_says_of_the_image_that_it_sees(tmp_path, calls):
    torch.manual_seed(0)
    module.run_seed(DATA, TINY, 0, tmp_path)
    (teacher, *_), (student, distil, *_) = calls
    x, y = DATA["test"].tensors
    teacher.train()  # its dropout does not speak
    with torch.no_grad():
        loss = distil(student, (x, y))
        z, v = student(x), teacher.eval()(x)
    T, alpha = TINY["temperature"], TINY["alpha"]
    soft = -(T**2) * (torch.softmax(v / T, 1) * torch.log_softmax(z / T, 1)).sum(1).mean()
    hard = torch.nn.functional.cross_entropy(z, y)
    torch.testing.assert_close(loss, alpha * soft + (1 - alpha) * hard)


def test_a_resumed_run_ends_in_the_same_numbers(tmp_path, monkeypatch):
    torch.manual_seed(0)
    whole = module.run_seed(DATA, TINY, 0, tmp_path / "whole")
    real, done = module.fit, []

    def killed(model, objective, on, **how):
        if done:
            raise KeyboardInterrupt
        done.append(real(model, objective, on, **how))

    with monkeypatch.context() as context:
        context.setattr(module, "fit", killed)
        torch.manual_seed(0)
        with pytest.raises(KeyboardInterrupt):
            module.run_seed(DATA, TINY, 0, tmp_path / "killed")
    torch.manual_seed(0)
    assert module.run_seed(DATA, TINY, 0, tmp_path / "killed") == whole


def test_all_else_is_as_in_kd_mnist():
    for profile in ("quick", "full"):
        settings = dict(get("kd-mnist-jitter").settings[profile])
        del settings["jittered_epochs"]
        assert settings == get("kd-mnist").settings[profile]
    assert get("kd-mnist-jitter").load is get("kd-mnist").load
    recorded, plain = load_result("kd-mnist-jitter"), load_result("kd-mnist")
    assert recorded.record["data"] == plain.record["data"]
