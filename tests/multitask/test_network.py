"""The network for several tasks on every pixel, and its losses."""

from __future__ import annotations

import pytest
import torch

from tlcourse.data import scenes
from tlcourse.multitask import DenseNetwork, dense_losses

TASKS = ["segmentation", "instances", "depth"]


@pytest.fixture(scope="module")
def batch():
    return scenes(6, 1, size=32)[0].coarse().tensors


def test_every_pixel_gets_its_answers():
    model = DenseNetwork([5, 2, 1], in_channels=3, width=4)
    answers = model(torch.rand(2, 3, 24, 40))
    assert [tuple(a.shape) for a in answers] == [(2, 5, 24, 40), (2, 2, 24, 40), (2, 1, 24, 40)]


def test_the_trunk_is_shared_and_the_heads_are_not():
    model = DenseNetwork([5, 2], width=4)
    first, _ = model(torch.rand(2, 1, 16, 16))
    gradients = torch.autograd.grad(
        first.sum(), list(model.parameters()), allow_unused=True, retain_graph=True
    )
    reached = {
        name.split(".")[0] + name.split(".")[1] * name.startswith("heads")
        for (name, _), g in zip(model.named_parameters(), gradients, strict=True)
        if g is not None
    }
    assert reached == {"stem", "down1", "down2", "up2", "up1", "heads0"}


def test_a_pixel_answers_for_its_own_place():
    """An output pixel moves with the input around it."""
    torch.manual_seed(0)
    model = DenseNetwork([1], width=8).eval()
    image = torch.rand(1, 1, 32, 32, requires_grad=True)
    (answer,) = model(image)
    for row, column in ((8, 8), (9, 8), (20, 13)):
        (g,) = torch.autograd.grad(answer[0, 0, row, column], image, retain_graph=True)
        weight = g[0, 0].abs()
        rows = (weight.sum(1) * torch.arange(32)).sum() / weight.sum()
        assert abs(rows.item() - row) < 4


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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: DenseNetwork([]), ValueError, "outputs is empty"),
        (lambda: DenseNetwork([3, 0]), ValueError, r"outputs\[1\] must be at least 1"),
        (lambda: DenseNetwork([3], width=0), ValueError, "width must be at least 1"),
        (lambda: DenseNetwork([3])(torch.rand(1, 3, 8, 8)), ValueError, r"shape \(N, 1, H, W\)"),
        (lambda: DenseNetwork([3])(torch.rand(1, 1, 20, 16)), ValueError, "sides of 8 n pixels"),
        (
            lambda: dense_losses([torch.rand(6, 1, 32, 32)], [torch.rand(1)] * 4, ["dept"]),
            ValueError,
            r"tasks\[0\] is 'dept'; .* Did you mean 'depth'",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
