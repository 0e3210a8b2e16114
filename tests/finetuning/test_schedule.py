"""Staged unfreezing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tlcourse.finetuning import (
    UnfreezeSchedule,
    audit,
    changed,
    freeze,
    layerwise_parameter_groups,
    snapshot,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential()
        self.backbone.add_module("stem", nn.Linear(3, 8))
        self.backbone.add_module("stage1", nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
        self.backbone.add_module("drop", nn.Dropout(0.3))
        self.backbone.add_module("stage2", nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
        self.head = nn.Linear(8, 2)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Identity()

    def forward(self, x):
        return self.last(self.head(self.dropout(self.backbone(x))))


GROUPS = ["backbone.stem", "backbone.stage1", "backbone.stage2", "head"]
STAGES = GROUPS[::-1]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().train()


def steps(model, optimizer, n=3):
    torch.manual_seed(1)
    model.train()
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.randn(6, 3)).square().sum().backward()
        optimizer.step()


def moved_by_steps(model):
    before = snapshot(model)
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    return {
        name.rpartition(".")[0].removesuffix(".0").removesuffix(".1")
        for name in changed(model, before)
    }


def test_stages_move_what_they_name_and_nothing_else(net):
    schedule = UnfreezeSchedule(net, STAGES)
    assert (schedule.stage, schedule.done) == (0, False)
    assert moved_by_steps(net) == {"head"}
    for i in range(1, len(STAGES)):
        assert schedule.advance() == (STAGES[i],)
        assert schedule.stage == i
        assert moved_by_steps(net) == set(STAGES[: i + 1])
        assert audit(net).drifting == ()
    assert schedule.done


def test_all_stages_advanced_equals_plain_training(net):
    other = copy.deepcopy(net)
    schedule = UnfreezeSchedule(net, STAGES)
    while not schedule.done:
        schedule.advance()
    for model in (net, other):
        steps(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert changed(other, snapshot(net)) == ()
    assert all(layer.training for layer in net.modules())


def test_what_no_stage_names_stays_frozen(net):
    net.token = nn.Parameter(torch.ones(2))
    net.token.grad = torch.ones(2)
    schedule = UnfreezeSchedule(net, ["head", "backbone.stage2"])
    assert net.token.grad is None
    assert not net.token.requires_grad
    schedule.advance()
    assert moved_by_steps(net) == {"head", "backbone.stage2"}


def test_dropout_rests_in_frozen_parts_only(net):
    schedule = UnfreezeSchedule(net, STAGES)
    net.train()
    assert net.training
    assert net.dropout.training
    assert not net.backbone.drop.training
    schedule.advance()
    net.train()
    assert net.backbone.drop.training
    assert not net.backbone.stage1.training


def test_a_stage_of_several_names(net):
    schedule = UnfreezeSchedule(net, [["head"], ["backbone.stage2", "backbone.stage1"]])
    assert schedule.advance() == ("backbone.stage2", "backbone.stage1")
    assert schedule.done


def test_a_later_stage_may_hold_an_earlier_one(net):
    schedule = UnfreezeSchedule(net, ["head", "backbone.stage2", "backbone"])
    schedule.advance()
    schedule.advance()
    assert audit(net).frozen == ()


def test_one_stage_is_done_at_once(net):
    assert UnfreezeSchedule(net, ["head"]).done


def test_new_groups_join_the_optimizer_with_their_rates(net):
    schedule = UnfreezeSchedule(net, STAGES)
    optimizer = torch.optim.SGD(layerwise_parameter_groups(net, GROUPS, 0.1, 10), momentum=0.9)
    steps(net, optimizer)
    momentum = optimizer.state[net.head.weight]["momentum_buffer"].clone()
    schedule.advance()
    known = {group["name"] for group in optimizer.param_groups}
    for group in layerwise_parameter_groups(net, GROUPS, 0.1, 10):
        if group["name"] not in known:
            optimizer.add_param_group(group)
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups] == [
        ("head", 0.1),
        ("backbone.stage2", pytest.approx(0.01)),
    ]
    assert torch.equal(optimizer.state[net.head.weight]["momentum_buffer"], momentum)
    before = snapshot(net)
    steps(net, optimizer)
    assert "backbone.stage2.0.weight" in changed(net, before)


def test_advance_past_the_end(net):
    schedule = UnfreezeSchedule(net, ["head", "backbone"])
    schedule.advance()
    with pytest.raises(RuntimeError, match="all 2 stages are unfrozen.*schedule.done"):
        schedule.advance()


def test_without_a_head_the_last_parameters_are_the_head():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    with pytest.raises(ValueError, match=r"stages never unfreeze the head, '1.0'"):
        UnfreezeSchedule(model, ["0"])
    assert UnfreezeSchedule(model, ["1", "0"]).advance() == ("0",)


def test_a_head_by_name_is_the_head_wherever_it_stands(net):
    net.auxiliary = nn.Linear(2, 2)
    assert UnfreezeSchedule(net, ["head", "auxiliary"]).advance() == ("auxiliary",)
    with pytest.raises(ValueError, match="never unfreeze the head, 'head'"):
        UnfreezeSchedule(net, ["auxiliary"])
    net.head = nn.Identity()  # a head without parameters cannot learn
    with pytest.raises(ValueError, match="never unfreeze the head, 'auxiliary'"):
        UnfreezeSchedule(net, ["backbone"])


@pytest.mark.parametrize(
    ("stages", "error", "message"),
    [
        (["backbone.stage2", "backbone.stage1"], ValueError, "never unfreeze the head, 'head'"),
        (GROUPS, ValueError, r"stages\[0\] does not hold all of the head.*wrong way round"),
        (["head", "stage2"], ValueError, "'stage2'.*Did you mean 'backbone.stage2'"),
        (["heads"], ValueError, r"stages\[0\] names 'heads'.*Did you mean 'head'"),
        (["head", "backbone", "backbone.stem"], ValueError, r"stages\[2\] has nothing left"),
        (["head", "dropout"], ValueError, r"stages\[1\] holds no parameter: 'dropout'"),
        ("head", TypeError, "stages must be a list of names"),
        ([], ValueError, "got an empty list"),
    ],
)
def test_bad_stages_leave_the_model_as_it_was(net, stages, error, message):
    freeze(net.backbone.stem)
    before = audit(net)
    with pytest.raises(error, match=message):
        UnfreezeSchedule(net, stages)
    assert audit(net) == before


def test_half_a_head_in_the_first_stage_is_no_head():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(2, 2))
    model.add_module("head", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"stages\[0\] does not hold all of the head, 'head'"):
        UnfreezeSchedule(model, ["head.1", "head.0", "body"])
    with pytest.raises(ValueError, match="stages never unfreeze the head, 'head'"):
        UnfreezeSchedule(model, ["head.1", "body"])
    assert all(p.requires_grad for p in model.parameters())
    UnfreezeSchedule(model, ["head", "body"])


def test_no_model():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        UnfreezeSchedule("net", ["head"])
    with pytest.raises(ValueError, match="holds no parameter: '0'"):
        UnfreezeSchedule(nn.Sequential(nn.ReLU()), ["0"])
