"""BatchNorm's statistics computed again: against a closed form, torch's own, and what must stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import TensorDataset

from tlcourse.finetuning import average_weights, changed, freeze, recompute_batchnorm, snapshot
from tlcourse.training import loader


@pytest.fixture
def data():
    x = torch.randn(50, 2, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return TensorDataset(3 * x + 1, torch.arange(50) % 3)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()


@pytest.mark.equation("eq-recomputed-mean")
def test_the_first_layer_gets_the_mean_over_the_batches(net, data):
    recompute_batchnorm(net, data, batch_size=16)  # three batches; the last 2 samples are left out
    batches = data.tensors[0][:48].unflatten(0, (3, 16))  # (3, 16, 2, 6, 6)
    torch.testing.assert_close(net[0].running_mean, batches.mean((0, 1, 3, 4)))
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches])
    torch.testing.assert_close(net[0].running_var, variances.mean(0))
    assert (net[0].momentum, net[2].momentum) == (0.1, 0.3)


def test_it_is_what_torch_does_where_nothing_is_frozen(net, data):
    whole = TensorDataset(*data[:48])
    other = copy.deepcopy(net)
    other[3].p = 0.0
    update_bn(loader(whole, 16, shuffle=False), other)
    recompute_batchnorm(net, whole, batch_size=16)
    torch.testing.assert_close(net[2].running_mean, other[2].running_mean)
    torch.testing.assert_close(net[2].running_var, other[2].running_var)


def test_only_statistics_move_and_modes_stay(net, data):
    net.eval()
    net[3].train()
    before, modes = snapshot(net), [m.training for m in net.modules()]
    recompute_batchnorm(net, data)
    moved = changed(net, before)
    assert {name.split(".")[1][:7] for name in moved} == {"running", "num_bat"}
    assert [m.training for m in net.modules()] == modes
    again = snapshot(net)
    recompute_batchnorm(net, data)  # Dropout is off: nothing is left to chance
    assert changed(net, again) == ()


def test_frozen_layers_keep_theirs(net, data):
    freeze(net[:2])
    before = snapshot(net[0])
    recompute_batchnorm(net, data)
    assert changed(net[0], before) == ()
    assert net[2].running_mean.any()


def test_the_mean_of_statistics_is_not_that_of_the_averaged_weights(net, data):
    other = copy.deepcopy(net)
    other[1].weight.data.neg_()
    for model in (net, other):
        recompute_batchnorm(model, data)
    soup = average_weights([net, other])  # its convolution gives its bias alone
    assert (soup[2].running_var > 0.1).all()
    recompute_batchnorm(soup, data)
    assert (soup[2].running_var < 1e-20).all()


def test_a_network_without_batchnorm_and_one_that_fails(data, net):
    recompute_batchnorm(nn.Flatten(), data)
    with pytest.raises(RuntimeError):
        recompute_batchnorm(net, TensorDataset(torch.rand(4, 5, 6, 6)))
    assert net[2].momentum == 0.3
    assert net.training


def test_what_it_does_not_take(net, data):
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got str"):
        recompute_batchnorm("net", data)
    with pytest.raises(ValueError, match="batch_size must be"):
        recompute_batchnorm(net, data, batch_size=1)
    with pytest.raises(ValueError, match="dataset is empty"):
        recompute_batchnorm(net, TensorDataset(torch.rand(0, 2, 6, 6)))
