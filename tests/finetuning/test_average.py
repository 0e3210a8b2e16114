"""Averages of weights: the equations, the ends, and why BatchNorm needs more."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tlcourse.finetuning import average_weights, changed, interpolate, snapshot


def net(seed, n_out=2):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, n_out))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    model[1].num_batches_tracked.fill_(seed)
    return model.double()


@pytest.mark.equation("eq-soup")
def test_every_number_is_the_mean():
    models = [net(seed) for seed in (3, 4, 5)]
    before = [snapshot(model) for model in models]
    mean = average_weights(models)
    for name, tensor in snapshot(mean).items():
        values = [b[name] for b in before]
        if tensor.is_floating_point():
            expected = (values[0] + values[1] + values[2]) / 3
            torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)
        else:
            assert tensor == values[0] == 3
    assert all(changed(m, b) == () for m, b in zip(models, before, strict=True))
    mean[0].weight.data.zero_()
    assert changed(models[0], before[0]) == ()


@pytest.mark.equation("eq-soup")
def test_weights_of_ones_own():
    models = [net(seed) for seed in (0, 1)]
    mean = average_weights(models, [0.9, 0.1])
    expected = 0.9 * models[0][3].bias + 0.1 * models[1][3].bias
    torch.testing.assert_close(mean[3].bias, expected)


def test_a_linear_networks_soup_is_the_ensemble_and_a_deep_ones_is_not():
    x = torch.randn(5, 3, dtype=torch.float64)
    linear = [net(seed)[0] for seed in (0, 1)]
    ensemble = (linear[0](x) + linear[1](x)) / 2
    torch.testing.assert_close(average_weights(linear)(x), ensemble)
    deep = [net(seed).eval() for seed in (0, 1)]
    assert not torch.allclose(average_weights(deep)(x), (deep[0](x) + deep[1](x)) / 2, rtol=0.1)


@pytest.mark.equation("eq-wise-ft")
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_the_line_from_the_start_to_the_tuned_network(alpha):
    start, tuned = net(0), net(1)
    between = interpolate(start, tuned, alpha)
    for name, value in snapshot(between).items():
        a, b = snapshot(start)[name], snapshot(tuned)[name]
        if value.is_floating_point():
            expected = (1 - alpha) * a + alpha * b
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    if alpha in (0, 1):
        end = tuned if alpha else start
        parameters = {name for name, _ in end.named_parameters()}
        assert not parameters & set(changed(between, snapshot(end)))


def test_what_they_do_not_take():
    a, b = net(0), net(1)
    for models, error, message in (
        (a, TypeError, "a list of networks, got Sequential"),
        ([], ValueError, "models is empty"),
        ([a, "b"], TypeError, r"models\[1\] must be a torch.nn.Module, got str"),
        ([a, net(1, 3)], ValueError, r"models\[1\] is another architecture .* 3.bias"),
        ([a, a[:2]], ValueError, r"models\[1\] is another architecture"),
    ):
        with pytest.raises(error, match=message):
            average_weights(models)
    for weights in ([1.0], [0.5, 0.6], [0.2, 0.3, 0.5]):
        with pytest.raises(ValueError, match="must be 2 numbers of sum 1"):
            average_weights([a, b], weights)
    with pytest.raises(ValueError, match=r"weights\[1\] must be finite"):
        average_weights([a, b], [0.5, float("nan")])
    with pytest.raises(ValueError, match="alpha must be in"):
        interpolate(a, b, 1.2)


def test_a_frozen_network_can_be_averaged():
    a = net(0).requires_grad_(False)
    b = copy.deepcopy(a)
    assert not any(p.requires_grad for p in average_weights([a, b]).parameters())
