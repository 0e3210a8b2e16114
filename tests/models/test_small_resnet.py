from __future__ import annotations

import pytest
import torch

from tlcourse.models import SmallResNet


def test_the_shapes_are_those_of_the_docstring():
    model = SmallResNet(10, width=6)
    found = {}
    for name in model.backbone.layers:
        model.backbone.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.update({name: tuple(out.shape)})
        )
    model(torch.rand(2, 1, 32, 32))
    assert found == {
        "stem": (2, 6, 16, 16),
        "stage1": (2, 6, 16, 16),
        "stage2": (2, 12, 8, 8),
        "stage3": (2, 24, 4, 4),
    }


def test_a_block_adds_its_shortcut():
    block = SmallResNet(10, width=4).backbone.stage1.eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_it_learns_every_part():
    model = SmallResNet(3, width=2)
    torch.nn.functional.cross_entropy(
        model(torch.rand(8, 1, 32, 32)), torch.arange(8) % 3
    ).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", ["in_channels", "width"])
def test_wrong_sizes(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SmallResNet(10, **{name: 0})
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        SmallResNet(10, **{name: "3"})


def test_wrong_images():
    model = SmallResNet(10, width=2)
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\), got \(2, 3, 32, 32\)"):
        model(torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"got \(1, 32, 32\)\. Add the batch dimension"):
        model(torch.rand(1, 32, 32))
    with pytest.raises(ValueError, match=r"at least 8 pixels"):
        model(torch.rand(2, 1, 4, 32))
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, got list"):
        model([[0.0]])
    with pytest.raises(TypeError, match=r"torch.uint8: use images / 255"):
        model(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))


def test_the_first_weights_keep_the_size_of_the_gradient():
    """He et al., equation 14: 2 / (outputs times positions), where inputs and outputs differ."""
    torch.manual_seed(0)
    backbone = SmallResNet(10, width=32).backbone
    for weight in (backbone.stem[0].weight, backbone.stage2.conv1.weight):
        n_out = weight.shape[0] * 9
        assert weight.shape[0] != weight.shape[1]
        assert weight.std().item() == pytest.approx((2 / n_out) ** 0.5, rel=0.1)
