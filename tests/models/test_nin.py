from __future__ import annotations

import pytest
import torch

from tlcourse.models import NetworkInNetwork


def n_parameters(w: int, classes: int, channels: int = 3) -> int:
    """Count from the architecture: convolutions k k a b, batch norms 2b, head (w + 1)K."""
    total, a = 0, channels
    for k, b in (
        (5, w), (1, 5 * w // 6), (1, w // 2), (5, w), (1, w), (1, w), (3, w), (1, w),
    ):  # fmt: skip
        total += k * k * a * b + 2 * b
        a = b
    return total + (w + 1) * classes


@pytest.mark.parametrize(("width", "millions"), [(96, 0.2), (192, 1.0)])
def test_parameter_counts_are_those_of_the_literature(width, millions):
    count = sum(p.numel() for p in NetworkInNetwork(width, 10).parameters())
    assert count == n_parameters(width, 10)
    assert round(count / 1e6, 1) == millions


def test_the_shapes_of_the_groups():
    model = NetworkInNetwork(12, 5, in_channels=1)
    found = {}
    for name in model.backbone.layers:
        model.backbone.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: found.update({name: tuple(out.shape)})
        )
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    assert found == {"stage1": (2, 6, 32, 32), "stage2": (2, 12, 16, 16), "stage3": (2, 12, 8, 8)}


def test_a_linear_head_on_the_mean_is_the_mean_of_a_1x1_convolution():
    model = NetworkInNetwork(6, 4).eval()
    x = torch.rand(2, 3, 16, 16)
    maps = []
    model.backbone.stage3.register_forward_hook(lambda _m, _i, out: maps.append(out))
    logits = model(x)
    kernel = model.head.weight[:, :, None, None]
    papers = torch.nn.functional.conv2d(maps[0], kernel, model.head.bias).mean((2, 3))
    torch.testing.assert_close(logits, papers)


def test_a_group_is_a_perceptron_slid_over_its_input():
    """What stage 1 says of a place depends on the 5 x 5 pixels around it alone."""
    torch.manual_seed(0)  # of so few units, all may be dead at one place
    stage = NetworkInNetwork(6, 4).backbone.stage1.eval()
    x = torch.rand(1, 3, 11, 11)
    changed = x.clone()
    changed[0, :, 5, 5] += 1.0
    with torch.no_grad():
        differs = (stage(x) != stage(changed)).any(1)[0]
    assert differs[5, 5]
    assert not differs[:3].any()
    assert not differs[8:].any()
    assert not differs[:, :3].any()
    assert not differs[:, 8:].any()


def test_the_first_weights_are_he_s():
    torch.manual_seed(0)
    for part in (0, 3, 6):  # layers with other numbers of inputs than of outputs
        weight = NetworkInNetwork(192, 10).backbone.stage1[part].weight
        fan_in = weight[0].numel()
        assert fan_in != weight.numel() / weight.shape[1]
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)


def test_memory_formats_agree():
    model = NetworkInNetwork(6, 4).eval()
    x = torch.rand(2, 3, 32, 32)
    plain = NetworkInNetwork(6, 4).to(memory_format=torch.contiguous_format).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), model(x))


def test_wrong_settings():
    with pytest.raises(ValueError, match="multiple of 6, got 100; the nearest are 96 and 102"):
        NetworkInNetwork(100, 10)
    with pytest.raises(ValueError, match="width must be at least 6, got 0"):
        NetworkInNetwork(0, 10)
    with pytest.raises(TypeError, match="width must be an integer"):
        NetworkInNetwork(96.0, 10)
    with pytest.raises(ValueError, match="in_channels must be at least 1"):
        NetworkInNetwork(96, 10, in_channels=0)


def test_wrong_images():
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(2, 1, 32, 32\)"):
        NetworkInNetwork(6, 10)(torch.rand(2, 1, 32, 32))
