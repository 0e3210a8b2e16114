"""The recurrent classifier: its layer against the equations, its first weights, its input."""

from __future__ import annotations

import pytest
import torch

from tlcourse.models import LSTMClassifier
from tlcourse.models.lstm import LSTMLayer


def windows(n=3, n_steps=20, n_channels=6):
    return torch.randn(n, n_steps, n_channels, generator=torch.Generator().manual_seed(0))


def small(**settings):
    torch.manual_seed(0)
    return LSTMClassifier(4, **{"n_steps": 20, "width": 5, **settings})


@pytest.mark.equation("eq-lstm")
def test_the_layer_is_its_equations():
    torch.manual_seed(0)
    layer = LSTMLayer(6, 5).double()
    x = windows().double()
    W, U = layer.weight_ih_l0, layer.weight_hh_l0
    b = layer.bias_ih_l0 + layer.bias_hh_l0
    h = c = torch.zeros(3, 5, dtype=torch.float64)
    states = []
    for t in range(20):
        i, f, g, o = (x[:, t] @ W.T + h @ U.T + b).split(5, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    torch.testing.assert_close(layer(x), torch.stack(states, 1))


def test_only_the_forget_gate_begins_open():
    torch.manual_seed(0)
    layer = LSTMLayer(6, 64)
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().view(4, 64)
    assert torch.equal(bias[1], torch.ones(64))
    assert bias[[0, 2, 3]].abs().max() < 0.3  # PyTorch's own: at most 2 / sqrt(64)
    assert len(bias[[0, 2, 3]].unique()) == 192


def test_the_network_is_its_layers():
    model = small()
    x = windows()
    backbone = model.backbone
    h = backbone.lstm3(backbone.lstm2(backbone.lstm1(x)))
    features = (h.mean(1) @ backbone.hidden.weight.T + backbone.hidden.bias).clamp(min=0)
    torch.testing.assert_close(model(x), features @ model.head.weight.T + model.head.bias)
    assert model.layers == (*(f"backbone.lstm{i}" for i in (1, 2, 3)), "backbone.hidden", "head")
    assert [h.shape for h in (backbone(x), model(x))] == [(3, 5), (3, 4)]


def test_the_last_step_is_read_from_the_last_step_alone():
    model = small(readout="last")
    h = torch.randn(3, 20, 5)
    changed = h.clone()
    changed[:, :-1] = 0
    assert torch.equal(model.backbone.features(h), model.backbone.features(changed))
    mean = small(readout="mean")
    shuffled = h[:, torch.randperm(20)]
    torch.testing.assert_close(mean.backbone.features(h), mean.backbone.features(shuffled))
    assert not torch.equal(mean.backbone.features(h), mean.backbone.features(changed))


def test_pooled_steps_are_means_of_consecutive_ones():
    model = small(pool=5, n_layers=2)
    x = windows()
    expected = torch.stack([x[:, 5 * t : 5 * t + 5].mean(1) for t in range(4)], 1)
    torch.testing.assert_close(model.backbone.read(x), expected)
    assert small().backbone.read(x) is x
    assert model.backbone.lstm2(model.backbone.lstm1(expected)).shape == (3, 4, 5)


def test_every_parameter_gets_a_gradient():
    for readout in ("last", "mean"):
        model = small(readout=readout)
        model(windows(8)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (windows(n_steps=128), r"got \(3, 128, 6\)\. Cut or resample the windows"),
        (windows(n_channels=9), r"got \(3, 20, 9\)\. Select the channels"),
        (windows().transpose(1, 2), r"x\.transpose\(1, 2\)"),
        (windows()[0], r"got \(20, 6\)\. Add the batch dimension: x\[None\]"),
        (windows().index_fill(1, torch.tensor([3]), torch.nan), "x contains NaN"),
        (windows().index_fill(1, torch.tensor([3]), torch.inf), "x contains infinite values"),
    ],
)
def test_wrong_windows(x, match):
    with pytest.raises(ValueError, match=match):
        small()(x)


def test_wrong_kinds_of_windows():
    with pytest.raises(TypeError, match=r"torch\.int64: use x\.float\(\)"):
        small()(windows().long())
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        small()([[0.0]])


def test_large_readings_are_no_error():
    x = torch.full((1, 20, 6), 3e38)  # their sum overflows
    assert bool(torch.isfinite(small()(x)).all())


@pytest.mark.parametrize("name", ["n_channels", "n_steps", "width", "n_layers", "pool"])
def test_wrong_sizes(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        small(**{name: 0})


def test_wrong_settings():
    with pytest.raises(ValueError, match="pool must divide n_steps = 20 without remainder, got 3"):
        small(pool=3)
    with pytest.raises(ValueError, match="it takes 'last', 'mean'"):
        small(readout="first")
