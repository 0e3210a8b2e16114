"""Grad-CAM and guided backpropagation, on networks whose answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.matching import grad_cam, guided_backprop
from tlcourse.models import MLP, SmallResNet, WideResNet


class Tiny(nn.Module):
    """Convolution, ReLU, mean, linear: all of it can be written by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


class Styled(nn.Module):
    """One network, with its two ReLUs written in every way that PyTorch knows."""

    WAYS = ("module", "inplace module", "torch.relu", "F.relu", "F.relu in place", "F.relu kwarg",
            "method", "relu_", "torch.relu_", "statement")  # fmt: skip

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.act = nn.ReLU(inplace=way == "inplace module")
        self.way = way

    def relu(self, a):
        if self.way == "statement":
            F.relu(a, inplace=True)  # the result is thrown away
            return a
        return {
            "module": self.act,
            "inplace module": self.act,
            "torch.relu": torch.relu,
            "F.relu": F.relu,
            "F.relu in place": lambda a: F.relu(a, True),
            "F.relu kwarg": lambda a: F.relu(input=a),
            "method": torch.Tensor.relu,
            "relu_": torch.Tensor.relu_,
            "torch.relu_": torch.relu_,
        }[self.way](a)

    def forward(self, x):
        return self.head(self.relu(self.second(self.relu(self.first(x)))))


@pytest.fixture
def images():
    torch.manual_seed(2)
    return torch.randn(4, 1, 6, 6)


# --- Grad-CAM -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-grad-cam")
def test_the_weights_are_the_mean_gradients(images):
    """Behind a mean over space and a linear head, alpha_c is the head's weight over H W."""
    model = Tiny()

    class Maps(nn.Module):  # so that the maps after the ReLU have a name
        def __init__(self):
            super().__init__()
            self.maps = nn.Sequential(model.conv, nn.ReLU())
            self.head = model.head

        def forward(self, x):
            return self.head(self.maps(x).mean((2, 3)))

    A = F.relu(model.conv(images)).detach()  # (4, 5, 4, 4)
    target = torch.tensor([0, 1, 2, 1])
    expected = F.relu(torch.einsum("nc,nchw->nhw", model.head.weight[target] / 16, A)).detach()
    maps = grad_cam(Maps(), "maps", images, target)
    assert maps.shape == (4, 4, 4)
    assert torch.allclose(maps, expected, atol=1e-7)
    assert bool((expected == 0).any())  # or the ReLU could be missing
    assert bool((expected > 0).any())


@pytest.mark.equation("eq-grad-cam")
def test_grad_cam_is_the_definition_for_a_layer_within():
    torch.manual_seed(0)
    model = SmallResNet(4, width=4).eval()
    x = torch.rand(3, 1, 32, 32)
    A = model.backbone.stage1(model.backbone.stem(x)).detach().requires_grad_()
    z = model.head(model.backbone.stage3(model.backbone.stage2(A)).mean((2, 3)))
    (dA,) = torch.autograd.grad(z[:, 2].sum(), A)
    expected = F.relu((dA.mean((2, 3))[:, :, None, None] * A).sum(1)).detach()
    assert torch.allclose(grad_cam(model, "backbone.stage1", x, 2), expected, atol=1e-6)


def test_one_class_for_all_is_the_same_as_its_index_per_sample():
    model = SmallResNet(4, width=2)
    x = torch.rand(3, 1, 32, 32)
    same = grad_cam(model, "backbone.stage3", x, torch.full((3,), 2))
    assert torch.equal(grad_cam(model, "backbone.stage3", x, 2), same)
    assert not torch.equal(grad_cam(model, "backbone.stage3", x, 1), same)


def test_it_finds_where_the_evidence_is():
    """A network that counts bright pixels: the map is bright there and dark elsewhere."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(1, 2))  # fmt: skip
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-0.5)
        model[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.zeros(1, 1, 8, 8)
    x[..., 5:7, 2:4] = 1.0
    for_it = grad_cam(model, "1", x, 0)[0]
    assert torch.equal(for_it > 0, x[0, 0] > 0)
    assert torch.equal(grad_cam(model, "1", x, 1)[0], torch.zeros(8, 8))  # only evidence against


class Convolutions(nn.Module):
    """Convolution and ReLU, in place or not: as in VGG a module, as in DenseNet a call."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.way = nn.Conv2d(1, 5, 3), nn.Linear(5, 3), way

    def forward(self, x):
        A = self.conv(x.mul_(2.0) if self.way == "input" else x)
        A = F.relu(A, inplace=self.way == "maps")
        return self.head(A.mean((2, 3)))


def test_in_front_of_a_relu_that_works_in_place_the_maps_are_those_of_the_layer(images):
    expected = grad_cam(Convolutions("none"), "conv", images, 1)
    assert bool((expected > 0).any())
    assert torch.equal(grad_cam(Convolutions("maps"), "conv", images, 1), expected)


@pytest.mark.parametrize("model", [Tiny(), Convolutions("input")])
def test_the_callers_images_may_be_inference_tensors_and_are_left_as_they_are(model, images):
    expected = [
        grad_cam(model, "conv", images.clone(), 1),
        guided_backprop(model, images.clone(), 1),
    ]
    with torch.inference_mode():
        made = images.clone()
        inside = [grad_cam(model, "conv", made, 1), guided_backprop(model, made, 1)]
    after = [grad_cam(model, "conv", made, 1), guided_backprop(model, made, 1)]
    for found in (inside, after):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(made, images)


@pytest.mark.parametrize("look", ["grad_cam", "guided"])
def test_modes_statistics_and_gradients_stay_as_they_were(look):
    torch.manual_seed(0)
    model = WideResNet(10, 1, 4)
    model.train()
    model.backbone.stage2.eval()
    model.head.requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    x = torch.rand(2, 3, 16, 16, requires_grad=True)

    def run():
        if look == "grad_cam":
            return grad_cam(model, "backbone.stage3", x, 1)
        return guided_backprop(model, x, 1)

    first = run()
    assert torch.equal(first, run())
    assert not first.requires_grad
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    model.requires_grad_(False)  # a frozen model, and no gradients wanted outside
    with torch.no_grad():
        assert torch.equal(first, run())


# --- guided backpropagation -----------------------------------------------------------------------


def guided_by_hand(model, x, target):
    """Return the guided gradient of a `Styled` network by its formula, layer by layer."""
    a1 = model.first(x)
    a2 = model.second(a1.clamp(min=0))
    R = model.head.weight[target].expand(len(x), -1)
    R = (a2 > 0) * (R > 0) * R
    R = R @ model.second.weight
    R = (a1 > 0) * (R > 0) * R
    return (R @ model.first.weight).detach()


@pytest.mark.equation("eq-guided")
@pytest.mark.parametrize("way", Styled.WAYS)
def test_every_way_to_write_a_relu_is_guided(way):
    model = Styled(way)
    x = torch.randn(5, 4)
    expected = guided_by_hand(model, x, 1)
    found = guided_backprop(model, x, 1)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, plain_gradient(model, x, 1), atol=1e-3)


def plain_gradient(model, x, target):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0]


@pytest.mark.parametrize("way", Styled.WAYS)
def test_the_models_own_relus_are_as_before(way):
    model = Styled(way)
    x = torch.randn(5, 4)
    outputs, gradient = model(x), plain_gradient(model, x, 0)
    guided_backprop(model, x, 0)
    assert torch.equal(model(x), outputs)
    assert torch.equal(plain_gradient(model, x, 0), gradient)
    with pytest.raises(RuntimeError):
        guided_backprop(model, torch.randn(5, 9), 0)  # an error in the middle
    assert torch.equal(plain_gradient(model, x, 0), gradient)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (SmallResNet(4, width=4), (2, 1, 32, 32)),
        (WideResNet(10, 1, 4), (2, 3, 16, 16)),
        (MLP((16, 8, 8, 4)), (2, 1, 4, 4)),
    ],
    ids=["SmallResNet", "WideResNet", "MLP"],
)
def test_our_own_networks_are_guided(model, shape):
    torch.manual_seed(0)
    x = torch.rand(shape)
    found = guided_backprop(model, x, 1)
    assert found.shape == x.shape
    assert bool(torch.isfinite(found).all())
    assert not torch.allclose(found, plain_gradient(model.eval(), x, 1))


def test_without_negative_weights_it_is_the_plain_gradient():
    model = Styled("F.relu")
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    x = torch.rand(5, 4)
    assert torch.allclose(guided_backprop(model, x, 1), plain_gradient(model, x, 1))


# --- bad input ------------------------------------------------------------------------------------

X = torch.rand(2, 1, 32, 32)
MODEL = SmallResNet(4, width=2)


@pytest.mark.parametrize(
    ("x", "target", "message"),
    [
        (X, 4, r"target must be in \[0, 3\], got 4"),
        (X, -1, r"target must be in \[0, 3\], got -1"),
        (X, torch.tensor([0, 4]), r"target must lie in \[0, 3\] for 4 classes"),
        (X, torch.tensor([0]), r"target must have shape \(2,\), got \(1,\)"),
        (X[:0], 0, "x must be a batch"),
        (X * math.nan, 0, "x contains NaN"),
    ],
)
def test_bad_values_are_named(x, target, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(MODEL, "backbone.stage3", x, target)
    with pytest.raises(ValueError, match=message):
        guided_backprop(MODEL, x, target)


def test_bad_types_are_named():
    for look in (lambda t: grad_cam(MODEL, "backbone.stage3", X, t),
                 lambda t: guided_backprop(MODEL, X, t)):  # fmt: skip
        with pytest.raises(TypeError, match="target must be an integer, got 'cat'"):
            look("cat")
        with pytest.raises(TypeError, match="target must hold class indices of dtype int64"):
            look(torch.tensor([0.0, 1.0]))
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        guided_backprop(lambda x: x, X, 0)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        grad_cam(lambda x: x, "a", X, 0)


def test_a_layer_that_does_not_exist_or_has_no_maps():
    with pytest.raises(ValueError, match=r"no layer 'stage3'. Did you mean 'backbone.stage3'\?"):
        grad_cam(MODEL, "stage3", X, 0)
    with pytest.raises(ValueError, match=r"'head' must return maps \(N, C, H, W\), got \(2, 4\)"):
        grad_cam(MODEL, "head", X, 0)


class Parts(nn.Module):
    """Convolutions whose outputs the logits do not use, or see no gradient from."""

    def __init__(self):
        super().__init__()
        self.unused, self.frozen, self.head = (
            nn.Conv2d(1, 2, 3),
            nn.Conv2d(1, 2, 3),
            nn.Conv2d(2, 3, 1),
        )

    def forward(self, x):
        self.unused(x)
        with torch.no_grad():
            maps = F.relu(self.frozen(x))
        return self.head(maps).mean((2, 3))


def test_a_picture_without_a_way_back_is_an_error_and_not_dark():
    model = Parts()
    with pytest.raises(
        ValueError, match="logits do not depend on the output of the layer 'unused'"
    ):
        grad_cam(model, "unused", X, 0)
    with pytest.raises(
        ValueError, match="output of the layer 'frozen' has no graph.*torch.no_grad"
    ):
        grad_cam(model, "frozen", X, 0)
    assert grad_cam(model, "head", X, 0).shape == (2, 30, 30)  # behind the frozen part
    with pytest.raises(ValueError, match=r"model\(x\) does not depend on x for autograd"):
        guided_backprop(model, X, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_an_error_and_no_picture(value):
    model = Tiny()
    with torch.no_grad():
        model.conv.weight.fill_(value)
    for look in (lambda: grad_cam(model, "conv", X, 0), lambda: guided_backprop(model, X, 0)):
        with pytest.raises(ValueError, match=r"model\(x\) contains (NaN|infinite values)"):
            look()


def test_a_network_that_gives_no_logits():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"model\(x\) must have shape \(N, K\)"):
        grad_cam(net, "0", X, 0)
    with pytest.raises(ValueError, match=r"model\(x\) must have shape \(N, K\)"):
        guided_backprop(net, X, 0)


def test_a_network_without_relu_says_so():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), nn.GELU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="Sequential ran no ReLU .*the plain gradient"):
        guided_backprop(net, X, 0)
