from __future__ import annotations

import pytest
import torch

from tlcourse.models import WideResNet


def n_parameters(depth: int, k: int, classes: int, channels: int = 3) -> int:
    """Count from the architecture: convolutions 9ab (1x1: ab), batch norms 2c, head (d + 1)K."""
    n = (depth - 4) // 6
    total = 9 * channels * 16
    a = 16
    for b, stride in ((16 * k, 1), (32 * k, 2), (64 * k, 2)):
        for i in range(n):
            total += 2 * a + 9 * a * b + 2 * b + 9 * b * b
            if a != b or (i == 0 and stride == 2):
                total += a * b
            a = b
    return total + 2 * a + (a + 1) * classes


@pytest.mark.parametrize(
    ("depth", "k", "millions"), [(16, 1, 0.2), (16, 2, 0.7), (40, 1, 0.6), (40, 2, 2.2)]
)
def test_parameter_counts_are_those_of_the_literature(depth, k, millions):
    count = sum(p.numel() for p in WideResNet(depth, k, 10).parameters())
    assert count == n_parameters(depth, k, 10)
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("depth", [10, 16, 40])
def test_the_depth_counts_convolutions_and_three_shortcuts(depth):
    model = WideResNet(depth, 2, 10)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == depth
    assert sum(m.kernel_size == (1, 1) for m in convolutions) == 3


def test_the_shapes_of_the_groups():
    model = WideResNet(10, 2, 5, in_channels=1)
    found = {}
    for name in model.backbone.layers:
        model.backbone.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.update({name: tuple(out.shape)})
        )
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    assert found == {
        "stem": (2, 16, 32, 32),
        "stage1": (2, 32, 32, 32),
        "stage2": (2, 64, 16, 16),
        "stage3": (2, 128, 8, 8),
        "bn": (2, 128, 8, 8),
    }


def test_a_block_is_preactivated():
    block = WideResNet(16, 1, 10).backbone.stage1[1].eval()
    x = torch.randn(2, 16, 8, 8)
    a = torch.relu(torch.nn.functional.batch_norm(x, torch.zeros(16), torch.ones(16)))
    h = torch.nn.functional.conv2d(a, block.conv1.weight, padding=1)
    h = torch.relu(torch.nn.functional.batch_norm(h, torch.zeros(16), torch.ones(16)))
    expected = x + torch.nn.functional.conv2d(h, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), expected)


def test_the_first_weights_are_he_s():
    torch.manual_seed(0)
    weight = WideResNet(16, 4, 10).backbone.stage3[0].conv2.weight  # (256, 256, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


def test_memory_formats_agree():
    model = WideResNet(10, 1, 4).eval()
    x = torch.rand(2, 3, 32, 32)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(x), model(last))
    plain = WideResNet(10, 1, 4).to(memory_format=torch.contiguous_format).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), model(x))


@pytest.mark.parametrize("depth", [11, 15, 38])
def test_wrong_depths(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 4 .* got {depth}; the nearest are"):
        WideResNet(depth, 1, 10)


def test_other_wrong_settings():
    with pytest.raises(ValueError, match="depth must be at least 10, got 4"):
        WideResNet(4, 1, 10)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        WideResNet(16, 0, 10)
    with pytest.raises(TypeError, match="width must be an integer"):
        WideResNet(16, 1.5, 10)
    with pytest.raises(ValueError, match="in_channels must be at least 1"):
        WideResNet(16, 1, 10, in_channels=0)


def test_wrong_images():
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(2, 1, 32, 32\)"):
        WideResNet(10, 1, 10)(torch.rand(2, 1, 32, 32))


def test_the_first_weights_are_he_s_and_the_heads_bias_is_0():
    torch.manual_seed(0)
    model = WideResNet(10, 2, 10)
    for weight in (model.backbone.stem.weight, model.backbone.stage2[0].conv1.weight):
        assert weight.shape[0] != weight.shape[1]
        assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.1)
    assert not model.head.bias.any()
