"""Grown networks: what they compute at first, what learns, and what cannot grow."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.finetuning import NormalizedScale, changed, deepen, freeze, snapshot, widen
from tlcourse.models import MLP, SmallResNet

X = torch.rand(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Y = torch.arange(5) % 3
LAST = "backbone.hidden2"


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MLP((6, 7, 4, 3)).double()


def train(net, steps=3):
    learns = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, lr=0.1, momentum=0.9, weight_decay=0.01)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        optimizer.step()
    net.eval()


class TestNormalizedScale:
    @pytest.mark.equation("eq-normalized-scale")
    def test_each_unit_is_divided_by_the_length_of_the_group_and_has_its_own_size(self):
        scale = NormalizedScale(3, 2.0).double()
        h = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, -5.0]], dtype=torch.float64)
        assert torch.equal(scale.gamma, torch.full((3,), 2.0, dtype=torch.float64))
        with torch.no_grad():
            scale.gamma.copy_(torch.tensor([1.0, 3.0, 6.0]))
        expected = torch.tensor([[1 / 3, 2.0, 4.0], [0.0, 0.0, -6.0]], dtype=torch.float64)
        torch.testing.assert_close(scale(h), expected)

    def test_its_gradient_is_right_and_dead_units_give_zeros(self):
        scale = NormalizedScale(3, 2.0).double()
        assert torch.autograd.gradcheck(scale, X[:, :3].clone().requires_grad_())
        dead = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        scale(dead).sum().backward()
        assert torch.equal(scale(dead), torch.zeros_like(dead))
        assert torch.isfinite(dead.grad).all()

    @pytest.mark.parametrize("h", [torch.rand(2, 4), torch.rand(3), torch.rand(2, 3, 1)])
    def test_another_width_is_refused(self, h):
        with pytest.raises(ValueError, match=r"h must have shape \(N, 3\)"):
            NormalizedScale(3, 1.0)(h)

    def test_bad_numbers_are_refused(self):
        with pytest.raises(ValueError, match="width"):
            NormalizedScale(0, 1.0)
        with pytest.raises(ValueError, match="gamma"):
            NormalizedScale(3, 0.0)


class TestWiden:
    @pytest.mark.parametrize("init", ["rand", "copy+rand"])
    @pytest.mark.parametrize(
        ("layer", "reader"), [(LAST, "head"), ("backbone.hidden1", f"{LAST}.linear")]
    )
    def test_the_network_computes_what_it_computed_before(self, net, init, layer, reader):
        before = net(X)
        widen(net, layer, 5, init=init, reader=reader)
        torch.testing.assert_close(net(X), before, rtol=1e-14, atol=1e-14)

    @pytest.mark.equation("eq-widen")
    def test_the_old_units_come_first_and_the_new_ones_see_the_same_input(self, net):
        old = net.backbone(X)
        grown = widen(net, LAST, 5)
        h = net.backbone(X)
        assert torch.equal(h[:, :4], old)
        below = net.backbone.hidden1(X)
        new = grown.new.linear
        torch.testing.assert_close(h[:, 4:], (below @ new.weight.T + new.bias).relu())
        assert net.backbone.n_features == net.head.in_features == 9

    def test_copies_are_of_the_old_units_in_turn_with_noise_of_the_size_that_is_asked_for(self):
        torch.manual_seed(0)
        net = MLP((400, 8, 3))
        layer = net.backbone.hidden1.linear
        W, b = layer.weight.detach().clone(), layer.bias.detach().clone()
        grown = widen(net, "backbone.hidden1", 20, init="copy+rand", noise=0.2).new.linear
        rows = [i % 8 for i in range(20)]
        assert torch.equal(grown.bias, b[rows])
        added = (grown.weight - W[rows]) / W.square().mean().sqrt()
        assert added.std().item() == pytest.approx(0.2, rel=0.05)
        assert added.mean().abs() < 0.02
        assert len(torch.unique(grown.weight[:, 0])) == 20, "no two units are twins"

    def test_with_gamma_each_group_has_the_length_that_its_sizes_give(self, net):
        grown = widen(net, LAST, 5, gamma=3.0)
        h = net.backbone(X)
        lengths = torch.stack([h[:, :4].norm(dim=1), h[:, 4:].norm(dim=1)])
        alive = lengths > 0
        torch.testing.assert_close(lengths[alive], torch.full_like(lengths[alive], 3.0))
        assert alive.any(1).all()
        assert grown.old_scale.gamma.shape == (4,)
        assert grown.new_scale.gamma.shape == (5,)

    def test_new_units_learn_and_frozen_old_ones_do_not(self, net):
        grown = widen(net, LAST, 5, gamma=2.0)
        freeze(net.backbone.hidden1)
        freeze(grown.old)
        before = snapshot(net)
        train(net)
        moved = changed(net, before)
        assert not [name for name in moved if ".old." in name or "hidden1" in name]
        for part in ("new.linear.weight", "old_scale.gamma", "new_scale.gamma"):
            assert f"{LAST}.{part}" in moved

    def test_a_bare_layer_without_a_bias_grows_too(self):
        net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False)).double()
        before = net(X)
        widen(net, "0", 2, init="copy+rand", reader="1")
        torch.testing.assert_close(net(X), before)
        assert net[0].new.bias is None
        assert net[1].bias is None

    def test_type_and_mode_are_those_of_the_network(self, net):
        grown = widen(net.eval(), LAST, 5, gamma=1.0)
        assert not any(m.training for m in net.modules())
        assert {p.dtype for p in grown.parameters()} == {torch.float64}


class TestDeepen:
    @pytest.mark.equation("eq-deepen")
    def test_the_new_layer_reads_the_old_one_and_the_head_reads_the_new(self, net):
        h = net.backbone(X)
        grown = deepen(net, LAST, 5)
        new = grown.new.linear
        assert new.weight.shape == (5, 4)
        h_new = (h @ new.weight.T + new.bias).relu()
        torch.testing.assert_close(net(X), h_new @ net.head.weight.T + net.head.bias)
        assert net.backbone.n_features == net.head.in_features == 5

    def test_with_gamma_both_layers_are_normalised(self, net):
        h = net.backbone(X)
        grown = deepen(net, LAST, 5, gamma=2.0)
        scaled = 2 * F.normalize(h, dim=1)
        new = grown.new.linear
        h_new = 2 * F.normalize((scaled @ new.weight.T + new.bias).relu(), dim=1)
        torch.testing.assert_close(net.backbone(X), h_new)

    def test_every_parameter_learns(self, net):
        deepen(net, LAST, 5, gamma=2.0)
        before = snapshot(net)
        train(net)
        assert set(changed(net, before)) == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize(
    ("grow", "error", "message"),
    [
        (lambda net: widen(net, "backbone.hidden9", 2), ValueError, "does not have"),
        (lambda net: deepen(net, "backbone.hidden9", 2), ValueError, "does not have"),
        (lambda net: widen(net, 2, 2), TypeError, "name of a submodule"),
        (lambda net: widen(net, "backbone", 2), ValueError, "only a linear layer can grow"),
        (lambda net: widen(net, f"{LAST}.linear.weight", 2), ValueError, "a parameter"),
        (lambda net: widen(net, "backbone.hidden1", 2), ValueError, "reads the 7 units"),
        (lambda net: widen(net, LAST, 2, reader="backbone"), ValueError, "reader names"),
        (lambda net: widen(net, LAST, 0), ValueError, "extra"),
        (lambda net: deepen(net, LAST, 0), ValueError, "width"),
        (lambda net: widen(net, LAST, 2, init="copy"), ValueError, "init"),
        (lambda net: widen(net, LAST, 2, noise=0.0), ValueError, "noise"),
        (lambda net: widen(net, LAST, 2, gamma=-1.0), ValueError, "gamma"),
        (lambda net: deepen(net, LAST, 2, gamma=0.0), ValueError, "gamma"),
        (lambda net: widen("net", LAST, 2), TypeError, "model must be"),
    ],
)
def test_what_cannot_grow_is_named_and_the_network_is_as_before(net, grow, error, message):
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=message):
        grow(net)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_convolutions_do_not_grow():
    with pytest.raises(ValueError, match="Convolutions keep their channels"):
        widen(SmallResNet(3), "backbone.stage3", 2)
