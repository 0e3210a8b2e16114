"""Capturing activations: the right tensors, in the right order, and no hook left behind."""

import pytest
import torch
from torch import nn

from tlcourse.matching import capture
from tlcourse.models import SmallResNet, WideResNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_activations_are_the_layers_outputs_with_their_graph(net):
    x = torch.randn(5, 4)
    with capture(net, ["0", "1"]) as activations:
        y = net(x)
    assert torch.equal(activations["0"], net[0](x))
    assert torch.equal(activations["1"], torch.tanh(net[0](x)))
    activations["1"].sum().backward()
    assert net[0].weight.grad is not None
    assert net[2].weight.grad is None
    assert torch.equal(y, net(x))


def test_the_order_is_that_of_the_names_not_of_the_run(net):
    with capture(net, ["2", "0"]) as activations:
        net(torch.randn(5, 4))
    assert list(activations) == ["2", "0"]
    assert [tuple(a.shape) for a in activations.values()] == [(5, 2), (5, 3)]
    assert len(activations) == 2


def test_a_second_pass_replaces_the_first(net):
    with capture(net, ["0"]) as activations:
        net(torch.zeros(2, 4))
        net(torch.ones(3, 4))
        assert activations["0"].shape == (3, 3)
    net(torch.zeros(7, 4))  # outside, nothing is noted
    assert activations["0"].shape == (3, 3)


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (SmallResNet(10, in_channels=3, width=4), [(4, 16, 16), (8, 8, 8), (16, 4, 4)]),
        (WideResNet(10, 1, 10), [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
    ],
    ids=["SmallResNet", "WideResNet"],
)
def test_the_stages_of_our_networks(model, sizes):
    names = [f"backbone.stage{i}" for i in (1, 2, 3)]
    with capture(model, names) as activations:
        model(torch.rand(2, 3, 32, 32))
    assert [tuple(a.shape[1:]) for a in activations.values()] == sizes


def test_hooks_are_removed_also_after_an_error(net):
    def fail():
        with capture(net, ["0", "1"]):
            assert hooks_of(net) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert hooks_of(net) == 0
    with pytest.raises(RuntimeError), capture(net, ["0", "1"]):
        net(torch.zeros(2, 9))
    assert hooks_of(net) == 0


def test_hooks_of_others_stay(net):
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append(1))
    with capture(net, ["0"]):
        net(torch.zeros(1, 4))
    net(torch.zeros(1, 4))
    assert len(seen) == 2


def test_it_works_under_inference_mode(net):
    with torch.inference_mode(), capture(net, ["0"]) as activations:
        net(torch.zeros(1, 4))
        assert activations["0"].shape == (1, 3)


def test_an_output_changed_in_place_is_refused():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))
    with capture(net, ["0", "1"]) as activations:
        net(torch.randn(5, 4))
    with pytest.raises(RuntimeError, match=r"output of '0' was changed in place.*copy=True"):
        activations["0"]
    assert bool((activations["1"] >= 0).all())


def test_a_copy_goes_on_where_the_next_layer_works_in_place():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))
    x = torch.randn(5, 4)
    with capture(net, ["0", "1"], copy=True) as activations:
        y = net(x)
    assert torch.equal(activations["0"], net[0](x))
    assert torch.equal(activations["1"], y)
    activations["0"].sum().backward()  # its graph is the layer's own
    assert net[0].weight.grad is not None
    assert torch.equal(y, net(x))  # no number of the model is another


def test_a_layer_that_has_not_run_and_one_not_asked_for(net):
    with capture(net, ["0"]) as activations:
        with pytest.raises(
            RuntimeError, match="'0' has not run yet: call the model inside.*torch.compile"
        ):
            activations["0"]
        net(torch.zeros(1, 4))
        with pytest.raises(KeyError, match="'1' is not captured; captured are 0"):
            activations["1"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["stage1"], r"SmallResNet has no layer 'stage1'. Did you mean 'backbone.stage1'\?"),
        (["backbone.stag2"], r"no layer 'backbone.stag2'. Did you mean 'backbone.stage2'"),
        (["zzz"], r"no layer 'zzz'. Its parts are 'backbone', 'head'"),
        ([""], "no layer ''"),
        ([], "layers is empty"),
        (["head", "head"], "layers names 'head' more than once"),
    ],
)
def test_wrong_names_are_said_with_the_near_ones(layers, message):
    model = SmallResNet(10)
    with pytest.raises(ValueError, match=message), capture(model, layers):
        pass
    assert hooks_of(model) == 0


def test_wrong_types_are_said():
    model = SmallResNet(10)
    with pytest.raises(TypeError, match="layers must be a list of names, got 'head'"):
        capture(model, "head").__enter__()
    with pytest.raises(TypeError, match="layers must be a list of names, got None"):
        capture(model, None).__enter__()
    with pytest.raises(TypeError, match="layers must hold names, got 3"):
        capture(model, [3]).__enter__()
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got function"):
        capture(lambda x: x, ["a"]).__enter__()


def test_a_layer_that_returns_no_tensor_is_named():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    net = nn.Sequential(Pair())
    with (
        pytest.raises(TypeError, match=r"'0' \(Pair\) returns a tuple"),
        capture(net, ["0"]),
    ):
        net(torch.zeros(1))
    assert hooks_of(net) == 0
