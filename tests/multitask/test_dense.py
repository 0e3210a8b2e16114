"""The losses of several tasks on every pixel."""

from __future__ import annotations

import pytest
import torch

from tlcourse.data import scenes
from tlcourse.multitask import dense_losses

TASKS = ["segmentation", "instances", "depth"]


@pytest.fixture(scope="module")
def batch():
    return scenes(6, 1, size=32)[0].coarse().tensors


@pytest.mark.equation("eq-task-losses")
def test_the_losses_are_means_over_pixels_and_dimensions(batch):
    _, segmentation, instances, depth = batch
    torch.manual_seed(0)
    answers = [torch.randn(6, n, 32, 32) for n in (5, 2, 1)]
    losses = dense_losses(answers, batch, TASKS)
    log_p = torch.log_softmax(answers[0], 1).gather(1, segmentation[:, None])
    assert losses[0].item() == pytest.approx(-log_p.mean().item(), rel=1e-5)
    on = (segmentation > 0)[:, None].expand(-1, 2, -1, -1)
    expected = (answers[1][on] - instances[on]).pow(2).mean()
    assert losses[1].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses[2].item() == pytest.approx((answers[2] - depth).pow(2).mean().item(), rel=1e-5)
    alone = dense_losses(answers[2:], batch, ["depth"])
    assert torch.equal(alone[0], losses[2])


def test_trap_offsets_on_the_background_do_not_count(batch):
    """There is no centre to point to: whatever stands there, the loss is the same."""
    answer = torch.zeros(6, 2, 32, 32)
    (before,) = dense_losses([answer], batch, ["instances"])
    answer[(batch[1] == 0)[:, None].expand(-1, 2, -1, -1)] = 1e3
    (after,) = dense_losses([answer], batch, ["instances"])
    assert torch.equal(before, after)


def test_a_batch_without_objects_has_a_loss_of_0(batch):
    empty = (batch[0], torch.zeros_like(batch[1]), batch[2], batch[3])
    (loss,) = dense_losses([torch.ones(6, 2, 32, 32)], empty, ["instances"])
    assert loss.item() == 0


def noise(*channels, n=6):
    return [torch.rand(n, c, 32, 32) for c in channels]


@pytest.mark.parametrize(
    ("answers", "tasks", "error", "message"),
    [
        (noise(1), ["dept"], ValueError, r"tasks\[0\] is 'dept'; .* Did you mean 'depth'"),
        (noise(1), "depth", TypeError, r"tasks must be a list of names, .* write \['depth'\]"),
        (noise(5, 2), TASKS, ValueError, "one for each of the 3 tasks .segmentation, .*got 2"),
        # Heads in another order, one channel too few, another batch, no channel: all would be
        # broadcast.
        (noise(5, 1, 2), TASKS, ValueError, r"answers\[1\] must have shape \(6, 2, 32, 32\) for"),
        (noise(1), ["instances"], ValueError, r"answers\[0\] .* got \(6, 1, 32, 32\)"),
        (noise(2), ["depth"], ValueError, r"answers\[0\] must have shape \(6, 1, 32, 32\) for"),
        (noise(1, n=1), ["depth"], ValueError, r"answers\[0\] .* got \(1, 1, 32, 32\)"),
        ([torch.rand(6, 32, 32)], ["depth"], ValueError, r"answers\[0\] .* got \(6, 32, 32\)"),
        (
            noise(5, n=1),
            ["segmentation"],
            ValueError,
            r"answers\[0\] must have shape \(6, K, 32, 32\) for 'segmentation'",
        ),
        ([torch.rand(6, 2, 16, 16)], ["instances"], ValueError, r"got \(6, 2, 16, 16\)"),
        ([[1.0]], ["depth"], TypeError, r"answers\[0\] must be a torch.Tensor, got list"),
    ],
)
def test_bad_answers(batch, answers, tasks, error, message):
    with pytest.raises(error, match=message):
        dense_losses(answers, batch, tasks)


def test_bad_batch(batch):
    with pytest.raises(ValueError, match="batch must be images, segmentation, .*got 3 tensors"):
        dense_losses(noise(1), batch[:3], ["depth"])
