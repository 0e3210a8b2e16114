"""The network for several tasks on every pixel."""

from __future__ import annotations

import pytest
import torch

from tlcourse.models import DenseNetwork


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
        columns = (weight.sum(0) * torch.arange(32)).sum() / weight.sum()
        assert abs(rows.item() - row) < 4
        assert abs(columns.item() - column) < 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DenseNetwork([]), "outputs is empty"),
        (lambda: DenseNetwork([3, 0]), r"outputs\[1\] must be at least 1"),
        (lambda: DenseNetwork([3], width=0), "width must be at least 1"),
        (lambda: DenseNetwork([3])(torch.rand(1, 3, 8, 8)), r"shape \(N, 1, H, W\)"),
        (lambda: DenseNetwork([3])(torch.rand(1, 1, 20, 16)), "sides of 8 n pixels"),
        (lambda: DenseNetwork([3])(torch.rand(0, 1, 8, 8)), r"none of them 0; got \(0, 1, 8, 8\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_input_that_is_no_tensor_of_floats():
    with pytest.raises(TypeError, match=r"^images must be a torch\.Tensor, got list"):
        DenseNetwork([3])([[0.0]])
    with pytest.raises(TypeError, match=r"^images must hold floating-point numbers, got .*uint8"):
        DenseNetwork([3])(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_a_shortcut_at_each_size_goes_past_what_lies_below():
    """With the way down to a size and back up cut, the answers still see the image."""
    torch.manual_seed(0)
    x = torch.rand(2, 1, 16, 16)
    for cut in ("up1", "up2"):
        model = DenseNetwork([2], width=4).eval()
        with torch.no_grad():
            getattr(model, cut)[1].weight.zero_()
            (answer,) = model(x)
        assert not torch.allclose(answer[0], answer[1])
