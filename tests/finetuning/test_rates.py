"""Layer-wise learning rates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tlcourse.finetuning import (
    changed,
    freeze,
    layerwise_parameter_groups,
    snapshot,
)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "stem": nn.Linear(3, 4),
            "stage1": nn.Linear(4, 4),
            "stage2": nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
            "head": nn.Linear(4, 2),
        }
    )


def forward(net, x):
    for part in net.values():
        x = part(x)
    return x


GROUPS = [["stem", "stage1"], "stage2", ["head"]]


@pytest.mark.equation("eq-layerwise-rates")
@pytest.mark.parametrize("decay", [1, 3, 10.0])
def test_each_group_steps_with_its_own_rate(net, decay):
    eta = 0.1
    before = snapshot(net)
    groups = layerwise_parameter_groups(net, GROUPS, eta, decay)
    optimizer = torch.optim.SGD(groups)
    forward(net, torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    last = len(GROUPS) - 1
    for name, parameter in net.named_parameters():
        i = {"stem": 0, "stage1": 0, "stage2": 1, "head": 2}[name.split(".")[0]]
        expected = before[name] - eta / decay ** (last - i) * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-8)


@pytest.mark.equation("eq-layerwise-rates")
def test_neighbours_differ_by_the_decay(net):
    rates = [group["lr"] for group in layerwise_parameter_groups(net, GROUPS, lr=0.3, decay=3)]
    assert rates == pytest.approx([0.3 / 9, 0.1, 0.3], rel=1e-15)
    assert rates[-1] == 0.3


def test_decay_one_equals_one_group(net):
    other = copy.deepcopy(net)
    groups = layerwise_parameter_groups(net, GROUPS, lr=0.1, decay=1)
    for model, optimizer in (
        (net, torch.optim.SGD(groups, momentum=0.9)),
        (other, torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            forward(model, torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
    assert changed(other, snapshot(net)) == ()


def test_groups_are_named_and_hold_each_parameter_once(net):
    groups = layerwise_parameter_groups(net, GROUPS, lr=0.1, decay=3)
    assert [group["name"] for group in groups] == ["stem, stage1", "stage2", "head"]
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len({id(parameter) for parameter in held}) == len(list(net.parameters()))


def test_frozen_parameters_are_left_out_and_rates_stay(net):
    freeze(net["stage2"])
    net["stem"].bias.requires_grad_(False)
    groups = layerwise_parameter_groups(net, GROUPS, lr=0.1, decay=10)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("stem, stage1", pytest.approx(0.001)),
        ("head", 0.1),
    ]
    assert len(groups[0]["params"]) == 3


def test_a_parameter_outside_all_submodules_goes_by_its_own_name(net):
    net.token = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="leave out 1 trainable parameters.*: token"):
        layerwise_parameter_groups(net, GROUPS, lr=0.1, decay=3)
    groups = layerwise_parameter_groups(net, [["token", "stem", "stage1"], *GROUPS[1:]], 0.1, 3)
    assert groups[0]["params"][0] is net.token


def test_tied_weights_in_one_group_count_once(net):
    net["stage1"].weight = net["stage2"][0].weight
    groups = layerwise_parameter_groups(net, ["stem", ["stage1", "stage2"], "head"], 0.1, 3)
    assert len(groups[1]["params"]) == 3


def test_a_tied_weight_goes_by_either_name():
    model = nn.Module()
    model.first = nn.Parameter(torch.ones(2))
    model.second = model.first
    for name in ("first", "second"):
        (group,) = layerwise_parameter_groups(model, [name], 0.1, 3)
        assert group["params"] == [model.first]


def test_tied_weights_in_two_groups_are_refused(net):
    net["stage1"].weight = net["stage2"][0].weight
    with pytest.raises(ValueError, match=r"groups\[0\] and groups\[1\] both hold.*stage1.weight"):
        layerwise_parameter_groups(net, GROUPS, lr=0.1, decay=3)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (["stem", "stage1", "stage3", "head"], ValueError, r"groups\[2\] names 'stage3'.*'stage"),
        (["stem", "stage1", "0", "head"], ValueError, r"'0'.*Did you mean 'stage2.0'"),
        (["stem", "stage1", "", "head"], ValueError, r"groups\[2\] names ''"),
        ([*GROUPS, "stage2.0"], ValueError, r"groups\[1\] and groups\[3\] both.*'stage2.0.weight'"),
        (["stage2", "head"], ValueError, "leave out 4 trainable parameters.*stem.weight"),
        ([*GROUPS, "stage2.1"], ValueError, r"groups\[3\] holds no parameter: 'stage2.1'"),
        ("head", TypeError, "groups must be a list of names, or of lists of names; got 'head'"),
        (None, TypeError, "groups must be a list"),
        ([], ValueError, "got an empty list"),
        ([*GROUPS, []], ValueError, r"groups\[3\] is empty"),
        ([*GROUPS, [3]], TypeError, r"groups\[3\] is \[3\]"),
        ([*GROUPS, 3], TypeError, r"groups\[3\] is 3"),
    ],
)
def test_bad_groups(net, groups, error, message):
    with pytest.raises(error, match=message):
        layerwise_parameter_groups(net, groups, lr=0.1, decay=3)


def test_all_frozen_is_refused_and_names_the_head(net):
    freeze(net)
    with pytest.raises(ValueError, match=r"every parameter.*frozen.*get_submodule\('head'\)"):
        layerwise_parameter_groups(net, GROUPS, lr=0.1, decay=3)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lr": 0, "decay": 3}, ValueError, "lr must be greater than 0, got 0"),
        ({"lr": float("nan"), "decay": 3}, ValueError, "lr must be finite"),
        ({"lr": "0.1", "decay": 3}, TypeError, "lr must be a number"),
        ({"lr": 0.1, "decay": 0.5}, ValueError, "decay must be at least 1, got 0.5"),
        ({"lr": 0.1, "decay": True}, TypeError, "decay must be a number"),
    ],
)
def test_bad_rates(net, settings, error, message):
    with pytest.raises(error, match=message):
        layerwise_parameter_groups(net, GROUPS, **settings)


def test_no_module():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got dict"):
        layerwise_parameter_groups({}, ["head"], 0.1, 3)
