"""Filter banks: Gabor filters by their formula, convolutions before the non-linearity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tlcourse.models import SmallResNet
from tlcourse.multitask import ConvBank, GaborBank

# Older releases of torch announce that lazy layers, which the networks here end in, may change.
pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")


def stripes(angle: float, wavelength: float, size: int = 40) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    phase = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength
    return (0.5 + 0.5 * phase.cos())[None, None]


@pytest.mark.equation("eq-gabor")
def test_a_filter_is_its_formula():
    (kernel,) = GaborBank(orientations=4, wavelengths=(6.0,)).kernels
    theta, wavelength = math.pi / 4, 6.0  # the second orientation: filters 2 (even) and 3 (odd)
    reach = kernel.shape[-1] // 2
    for odd in (0, 1):
        g = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
        envelope = torch.zeros_like(g)
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                x = j * math.cos(theta) + i * math.sin(theta)
                y = -j * math.sin(theta) + i * math.cos(theta)
                width = wavelength / 2
                e = math.exp(-(x**2 + 0.5**2 * y**2) / (2 * width**2))
                envelope[i + reach, j + reach] = e
                g[i + reach, j + reach] = e * math.cos(
                    2 * math.pi * x / wavelength + odd * math.pi / 2
                )
        g = g - envelope * g.sum() / envelope.sum()
        torch.testing.assert_close(kernel[2 + odd, 0].double(), g / g.norm(), rtol=0, atol=1e-6)


def test_filters_see_no_brightness_and_have_one_norm():
    bank = GaborBank()
    for kernel in bank.kernels:
        assert kernel.sum((1, 2, 3)).abs().max() < 1e-5
        torch.testing.assert_close(kernel.flatten(1).norm(dim=1), torch.ones(len(kernel)))
    (flat,) = bank(torch.full((1, 1, 32, 32), 0.7))
    assert flat.abs().max() < 1e-4


@pytest.mark.parametrize("turn", range(6))
def test_the_filter_of_its_own_stripes_answers_most(turn):
    bank = GaborBank(orientations=6, wavelengths=(5.0, 8.0))
    (maps,) = bank(stripes(math.pi * turn / 6, 5.0))
    energy = maps.pow(2).mean((0, 2, 3)).view(2, 6, 2).sum(2)  # (wavelengths, orientations)
    assert divmod(int(energy.argmax()), 6) == (0, turn)


def test_a_border_is_mirrored_without_its_last_row():
    bank, image = GaborBank(orientations=2, wavelengths=(3.0,)), torch.rand(1, 1, 9, 7)
    (found,) = bank(image)
    m = bank.kernels[0].shape[-1] // 2
    rows = [*range(m, 0, -1), *range(9), *range(7, 7 - m, -1)]
    columns = [*range(m, 0, -1), *range(7), *range(5, 5 - m, -1)]
    padded = image[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(found, nn.functional.conv2d(padded, bank.kernels[0]))


def test_a_network_that_works_in_place_leaves_the_images_as_they_are():
    class Halve(nn.Module):
        def forward(self, x):
            return x.mul_(0.5)

    images = torch.rand(2, 1, 8, 8)
    before = images.clone()
    ConvBank(nn.Sequential(Halve(), nn.Conv2d(1, 2, 3)), ["1"])(images)
    assert torch.equal(images, before)


def test_colour_is_averaged():
    grey = torch.rand(2, 1, 32, 32)
    bank = GaborBank()
    torch.testing.assert_close(bank(grey).maps[0], bank(grey.expand(-1, 3, -1, -1)).maps[0])


def small_net(*, inplace: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.LazyLinear(2),
    )


@pytest.mark.parametrize("inplace", [False, True])
def test_trap_responses_come_before_the_non_linearity(inplace):
    """A ReLU in place would overwrite what a hook has kept; half of the responses are below 0."""
    net = small_net(inplace=inplace)
    x = torch.randn(2, 1, 12, 12)
    net(x)
    first, second = ConvBank(net, ["0", "2"])(x)
    torch.testing.assert_close(first, net[0](x))
    torch.testing.assert_close(second, net[2](net[0](x).relu()))
    assert (first < 0).any()
    assert (second < 0).any()


def test_maps_come_in_the_order_of_the_names_and_weights_share_by_layer():
    bank = ConvBank(small_net(inplace=True), ["2", "0"])
    maps = bank(torch.rand(2, 1, 12, 12)).maps
    assert [m.shape[1] for m in maps] == [4, 3]
    assert bank.n_filters == 7
    torch.testing.assert_close(bank.weights, torch.tensor([1 / 8] * 4 + [1 / 6] * 3))
    assert bank.weights.sum().item() == pytest.approx(1)
    assert GaborBank().weights.sum().item() == pytest.approx(1)


def test_the_network_is_left_as_it_was():
    net = SmallResNet(10).train()
    net.backbone.stage1.eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    (maps,) = ConvBank(net, ["backbone.stage2.conv1"])(torch.rand(2, 1, 32, 32))
    assert not maps.requires_grad
    assert modes == [m.training for m in net.modules()]
    assert all(not m._forward_hooks for m in net.modules())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # batch normalisation has counted nothing


def test_no_further_than_the_last_layer():
    net = small_net(inplace=False)
    net(torch.rand(1, 1, 12, 12))
    bank = ConvBank(net, ["0", "2"])
    assert bank(torch.rand(1, 1, 30, 30)).maps[1].shape == (1, 4, 13, 13)  # the head takes 12 x 12


def test_keys_tell_banks_apart():
    one, same = SmallResNet(10), SmallResNet(10)
    same.load_state_dict(one.state_dict())
    layers = ["backbone.stem.0"]
    assert ConvBank(one, layers).key == ConvBank(same, layers).key
    assert ConvBank(one, layers).key != ConvBank(SmallResNet(10), layers).key
    keys = {
        GaborBank().key,
        GaborBank(orientations=5).key,
        GaborBank(wavelengths=(3.0, 5.0, 9.0)).key,
    }
    assert len(keys) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.backbone.stem[0].weight.mul_(1.1),
        # What stands between the two layers: the second answers differently, with equal weights.
        lambda net: net.backbone.stem[1].running_mean.add_(1),
        lambda net: net.backbone.stem[1].bias.add_(1),
    ],
)
def test_trap_a_network_trained_further_is_another_bank(change):
    net = SmallResNet(10)
    bank = ConvBank(net, ["backbone.stem.0", "backbone.stage1.conv1"])
    x = torch.rand(2, 1, 32, 32)
    key, before = bank.key, bank(x).maps
    with torch.no_grad():
        change(net)
    assert bank.key != key
    assert any(not torch.equal(a, b) for a, b in zip(bank(x).maps, before, strict=True))


def test_a_key_tells_layers_and_strides_and_forgets_how_many_batches_were_seen():
    net = SmallResNet(10)
    layers = ["backbone.stem.0", "backbone.stage1.conv1"]
    key = ConvBank(net, layers).key
    assert ConvBank(net, layers[::-1]).key != key
    assert ConvBank(net, layers[:1]).key != key
    net.backbone.stem[1].num_batches_tracked.add_(1)
    assert ConvBank(net, layers).key == key
    net.backbone.stem[0].stride = (1, 1)
    assert ConvBank(net, layers).key != key


def test_a_key_takes_any_dtype():
    assert ConvBank(SmallResNet(10).bfloat16(), ["backbone.stem.0"]).key.startswith("conv ")


@pytest.mark.parametrize("bank", [GaborBank(), ConvBank(SmallResNet(10), ["backbone.stem.0"])])
def test_maps_come_to_the_cpu(bank, monkeypatch):
    """Bin edges lie there, and images may come from another device."""
    moved, real = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: moved.append(t.shape) or real(t))
    (maps,) = bank(torch.rand(2, 1, 32, 32))
    assert maps.shape in moved


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GaborBank(orientations=0), ValueError, "orientations must be at least 1"),
        (lambda: GaborBank(wavelengths=5.0), TypeError, "wavelengths must be a list of numbers"),
        (lambda: GaborBank(wavelengths=()), ValueError, "wavelengths is empty"),
        (lambda: GaborBank(wavelengths=(4.0, 1.0)), ValueError, r"wavelengths\[1\] must be"),
        (lambda: ConvBank("net", ["0"]), TypeError, "model must be a torch.nn.Module, got str"),
        (lambda: ConvBank(small_net(inplace=True), []), TypeError, "one or more names"),
        (lambda: ConvBank(small_net(inplace=True), "0"), TypeError, "one or more names, got '0'"),
        (
            lambda: ConvBank(SmallResNet(10), ["backbone.stage1.conv3"]),
            ValueError,
            r"names 'backbone.stage1.conv3', which SmallResNet has not; .* Did you mean",
        ),
        (
            lambda: ConvBank(small_net(inplace=True), ["1"]),
            TypeError,
            "is a ReLU; .* before the non-linearity",
        ),
        (lambda: ConvBank(small_net(inplace=True), ["0", "0"]), ValueError, "names one twice"),
    ],
)
def test_bad_banks(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("bank", [GaborBank(), ConvBank(SmallResNet(10), ["backbone.stem.0"])])
def test_bad_images(bank):
    with pytest.raises(TypeError, match=r"Pass a data set's .images: .* neither mirrored"):
        bank([1, 2])
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\), got \(3, 3\)"):
        bank(torch.rand(3, 3))
    with pytest.raises(ValueError, match="images contains NaN"):
        bank(torch.full((1, 1, 32, 32), float("nan")))


def test_images_that_are_smaller_than_a_filter():
    with pytest.raises(ValueError, match="too small for a filter of 17: take shorter wavelengths"):
        GaborBank(wavelengths=(8.0,))(torch.rand(1, 1, 8, 8))


def test_a_layer_that_never_runs_is_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="layers names spare, which Half does not run"):
        ConvBank(Half(), ["used", "spare"])(torch.rand(1, 1, 8, 8))
