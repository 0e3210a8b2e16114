"""Low-rank adapters: the equation, what learns, and the way back to a plain network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.finetuning import add_adapters, changed, merge_adapters, snapshot, unfreeze
from tlcourse.finetuning.lora import LowRank

X = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(6) % 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    return nn.ModuleDict({"body": body, "head": nn.Linear(5, 3)}).double()


def forward(net, x=X):
    return net["head"](net["body"](x))


def train(net, parameters, steps=3):
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(forward(net), Y).backward()
        optimizer.step()
    net.eval()


@pytest.mark.equation("eq-low-rank")
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_a_linear_layer_computes_the_sum_of_both_paths(alpha):
    torch.manual_seed(0)
    layer = nn.Linear(7, 5).double()
    W, b = layer.weight.detach().clone(), layer.bias.detach().clone()
    net = nn.Sequential(layer)
    A, B = add_adapters(net, "0", rank=3, alpha=alpha)
    assert (A.shape, B.shape) == ((3, 7), (5, 3))
    nn.init.normal_(B)
    x = torch.randn(4, 7, dtype=torch.float64)
    factor = 1 if alpha is None else alpha / 3
    expected = x @ W.T + b + factor * (x @ A.T) @ B.T
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-low-rank")
def test_a_convolution_is_adapted_by_a_narrow_one_and_one_of_a_single_pixel():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1, stride=2).double()
    plain = copy.deepcopy(layer)
    net = nn.Sequential(layer)
    A, B = add_adapters(net, "0", rank=2, alpha=1.0)
    nn.init.normal_(B)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    narrow = F.conv2d(x, A.view(2, 3, 3, 3), stride=2, padding=1)
    expected = plain(x) + 0.5 * F.conv2d(narrow, B.view(5, 2, 1, 1))
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("eq-low-rank-count")
def test_how_many_numbers_learn(net):
    learns = add_adapters(net, "body", rank=2)
    layers = [(4, 18), (6, 18), (5, 24)]  # (out, in), in of a convolution being c h w
    assert sum(p.numel() for p in learns) == sum(2 * (o + i) for o, i in layers)
    others = [p for p in net.parameters() if p.requires_grad and all(p is not q for q in learns)]
    assert {id(p) for p in others} == {id(p) for p in net["head"].parameters()}


def test_at_first_nothing_has_changed_and_the_change_stays_of_rank_r(net):
    net.eval()
    before = forward(net)
    plain = copy.deepcopy(net)
    learns = add_adapters(net, "body", rank=2)
    assert torch.equal(forward(net), before)
    train(net, learns, steps=20)
    for i in (0, 3, 5):
        change = (net["body"][i].weight - plain["body"][i].weight).flatten(1)
        assert torch.linalg.matrix_rank(change) == 2


def test_a_is_drawn_wide_enough_to_keep_the_size_of_its_input():
    torch.manual_seed(0)
    A, B = add_adapters(nn.Sequential(nn.Linear(400, 3)), "0", rank=100)
    assert A.std().item() == pytest.approx(1 / 20, rel=0.05)
    assert A.mean().item() == pytest.approx(0, abs=0.002)
    assert not B.any()


def test_only_adapters_and_what_lies_outside_learn_whatever_the_optimizer_holds(net):
    add_adapters(net, "body", rank=1)
    before = snapshot(net)
    train(net, net.parameters())
    learn = {f"body.{i}.parametrizations.weight.0.{factor}" for i in (0, 3, 5) for factor in "AB"}
    assert set(changed(net, before)) == learn | {"head.weight", "head.bias"}


def test_merging_gives_the_same_function_and_the_old_names(net):
    names = set(net.state_dict())
    learns = add_adapters(net, ["body"], rank=2, alpha=4.0)
    train(net, [*learns, *net["head"].parameters()])
    with_adapters = forward(net)
    assert not torch.equal(net["body"][0].weight, net["body"][0].parametrizations.weight.original)
    merge_adapters(net)
    assert set(net.state_dict()) == names
    torch.testing.assert_close(forward(net), with_adapters, rtol=1e-12, atol=1e-12)
    assert not any(isinstance(m, LowRank) for m in net.modules())
    assert not net["body"][0].weight.requires_grad
    unfreeze(net)
    assert all(p.requires_grad for p in net.parameters())


def test_it_can_be_put_in_again_after_a_merge_and_copied(net):
    add_adapters(net, "body")
    merge_adapters(net)
    learns = add_adapters(net, "body")
    twin = copy.deepcopy(net)
    train(net, learns)
    assert changed(net, snapshot(twin))
    assert all(not p.any() for n, p in twin.named_parameters() if n.endswith(".B"))


@pytest.mark.parametrize(
    ("parts", "how", "error", "message"),
    [
        ("bdoy", {}, ValueError, r"names 'bdoy', which the model does not have. Did you mean"),
        ("body.1", {}, ValueError, r"names 'body.1', which holds no linear or convolutional"),
        ("body.0.weight", {}, ValueError, "holds no linear or convolutional layer"),
        (["body.5", "body.1"], {}, ValueError, "'body.1', which holds no linear"),
        (3, {}, TypeError, "parts must be a list of names"),
        ([], {}, ValueError, "empty"),
        ("body", {"rank": 0}, ValueError, "rank must be"),
        ("body", {"rank": 1.5}, TypeError, "rank must be an integer"),
        ("body", {"alpha": 0}, ValueError, "alpha must be greater than 0"),
    ],
)
def test_what_it_does_not_take_leaves_the_network_as_it_was(net, parts, how, error, message):
    before = snapshot(net)
    with pytest.raises(error, match=message):
        add_adapters(net, parts, **how)
    assert changed(net, before) == ()
    assert all(p.requires_grad for p in net.parameters())


def test_no_second_adapter_and_nothing_to_merge(net):
    with pytest.raises(ValueError, match="no adapter to merge: add_adapters"):
        merge_adapters(net)
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got str"):
        merge_adapters("net")
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got str"):
        add_adapters("net", "body")
    add_adapters(net, "body.0")
    with pytest.raises(ValueError, match="has an adapter already"):
        add_adapters(net, "body")
