"""SpotTune on LSTM layers: decisions inside a layer."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import nll_loss

from tlcourse.adaptive import SpotTuneLSTM, policy_network
from tlcourse.adaptive.spottune_lstm import GatedLSTM
from tlcourse.models import LSTMClassifier
from tlcourse.models.lstm import LSTMLayer

N_GROUPS = {"states": 2, "gates": 4, "units": 4}
finer = pytest.mark.parametrize("choose", N_GROUPS)


def gated(choose, width=8):
    """Return a layer whose copies are far from each other."""
    torch.manual_seed(0)
    layer = GatedLSTM(LSTMLayer(6, width), choose).double()
    with torch.no_grad():
        for parameter in layer.tuned.parameters():
            parameter += torch.randn_like(parameter)
    return layer


def windows(n=12, n_steps=20):
    return torch.randn(n, n_steps, 6, generator=torch.Generator().manual_seed(0)).double()


def coin(n, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, groups, generator=generator) < 0.5).double()


def by_hand(layer, x, tuned_rows):
    """Run one sample with the rows of the tuned copy that are named, all others frozen."""
    weights = {
        name: torch.where(tuned_rows.view(-1, *(1,) * (t.ndim - 1)), t, f)
        for (name, t), f in zip(
            layer.tuned.named_parameters(), layer.frozen.parameters(), strict=True
        )
    }
    alone = LSTMLayer(6, layer.tuned.hidden_size).double()
    alone.load_state_dict(weights)
    return alone(x)


ROWS = {
    # The rows of width 8 that each group has, written out: i 0-7, f 8-15, g 16-23, o 24-31.
    "states": [[*range(24)], [*range(24, 32)]],
    "gates": [[*range(8 * g, 8 * g + 8)] for g in range(4)],
    "units": [[8 * g + u for g in range(4) for u in (2 * q, 2 * q + 1)] for q in range(4)],
}


@pytest.mark.equation("eq-gated-lstm")
@finer
def test_a_decision_chooses_the_rows_of_its_group(choose):
    layer, x = gated(choose), windows()
    decisions = coin(12, N_GROUPS[choose])
    mixed = layer.mixed(x, decisions)
    routed, order = layer.routed(x, decisions)
    for n in range(12):
        rows = torch.zeros(32, dtype=torch.bool)
        for group, row_numbers in enumerate(ROWS[choose]):
            rows[row_numbers] = bool(decisions[n, group])
        expected = by_hand(layer, x[[n]], rows)[0]
        torch.testing.assert_close(mixed[n], expected)
        torch.testing.assert_close(routed[order == n][0], expected)


@finer
def test_all_alike_is_the_tuned_or_the_frozen_layer(choose):
    layer, x = gated(choose), windows()
    for value, copy in ((1.0, layer.tuned), (0.0, layer.frozen)):
        decisions = torch.full((12, N_GROUPS[choose]), value).double()
        torch.testing.assert_close(layer.mixed(x, decisions), copy(x))
        assert torch.equal(layer.routed(x, decisions)[0], copy(x))


@finer
def test_all_tuned_has_the_gradients_of_fine_tuning(choose):
    layer, x = gated(choose), windows()
    layer.mixed(x, torch.ones(12, N_GROUPS[choose]).double()).square().sum().backward()
    mine = [p.grad for p in layer.tuned.parameters()]
    layer.zero_grad()
    layer.tuned(x).square().sum().backward()
    for a, p in zip(mine, layer.tuned.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)
    assert all(p.grad is None for p in layer.frozen.parameters())


@finer
def test_the_gradient_of_a_decision_is_that_of_its_rows(choose):
    layer, x = gated(choose), windows(4, 6)
    decisions = coin(4, N_GROUPS[choose]).requires_grad_()
    layer.mixed(x, decisions).square().sum().backward()
    step = 1e-6
    for n, g in ((0, 0), (2, N_GROUPS[choose] - 1)):
        values = []
        for sign in (1, -1):
            moved = decisions.detach().clone()
            moved[n, g] += sign * step
            values.append(layer.mixed(x, moved).square().sum())
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(decisions.grad[n, g], slope, rtol=1e-5, atol=1e-6)


def test_cell_and_hidden_state_are_routed_apart():
    """The first step's cell state does not know of the second decision."""
    layer, x = gated("states"), windows(1, 1)
    tuned_cell = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    only_cell, all_tuned = layer.mixed(x.expand(2, 1, 6), tuned_cell)[:, 0]
    gate = torch.sigmoid(
        x[0, 0] @ layer.frozen.weight_ih_l0[24:].T
        + (layer.frozen.bias_ih_l0 + layer.frozen.bias_hh_l0)[24:]
    )
    tuned_gate = torch.sigmoid(
        x[0, 0] @ layer.tuned.weight_ih_l0[24:].T
        + (layer.tuned.bias_ih_l0 + layer.tuned.bias_hh_l0)[24:]
    )
    torch.testing.assert_close(only_cell / gate, all_tuned / tuned_gate)


@finer
def test_units_need_not_divide_by_four(choose):
    layer, x = gated(choose, width=6), windows()
    decisions = coin(12, N_GROUPS[choose])
    mixed = layer.mixed(x, decisions)
    routed, order = layer.routed(x, decisions)
    torch.testing.assert_close(routed, mixed[order])
    assert layer.group.unique().tolist() == [*range(N_GROUPS[choose])]


@pytest.mark.parametrize("choose", ["layer", *N_GROUPS])
def test_the_network_with_each_choice(choose, lstm):
    groups = N_GROUPS.get(choose, 1)
    model = lstm.model(choose=choose).train()
    log_probs, decisions = model(lstm.inputs())
    assert (log_probs.shape, decisions.shape) == ((32, 3), (32, 3 * groups))
    assert model.agent.head.out_features == 2 * 3 * groups
    with torch.no_grad():
        for block in model.blocks:
            for p in block.tuned.parameters():
                p += 0.3 * torch.randn_like(p)
    model.loss((lstm.inputs(), torch.arange(32) % 3)).backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ]
    assert not without
    model.eval()
    decisions = coin(32, 3 * groups).float()
    routed = model.classify(lstm.inputs(), decisions)
    model.training = True
    torch.testing.assert_close(model.classify(lstm.inputs(), decisions), routed)


@finer
def test_the_decisions_of_a_layer_stand_together(choose, lstm):
    """Columns l G to (l + 1) G - 1 are those of layer l."""
    model = lstm.model(choose=choose).eval()
    groups = N_GROUPS[choose]
    with torch.no_grad():
        for p in model.blocks[1].tuned.parameters():
            p += torch.randn_like(p)
        zeros = torch.zeros(32, 3 * groups)
        frozen = model.classify(lstm.inputs(), zeros)
        for column in range(3 * groups):
            one = zeros.clone()
            one[:, column] = 1.0
            same = torch.allclose(model.classify(lstm.inputs(), one), frozen, atol=1e-6)
            assert same == (not groups <= column < 2 * groups)


@finer
def test_frozen_copies_stay(choose, lstm):
    model = lstm.model(choose=choose)
    before = [p.clone() for block in model.blocks for p in block.frozen.parameters()]
    lstm.trained(model, epochs=1)
    after = [p for block in model.blocks for p in block.frozen.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    tuned = [p for block in model.blocks for p in block.tuned.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(tuned, before, strict=True))


def test_the_agent_may_read_pooled_steps(lstm):
    agent = lstm.model().agent
    assert agent.backbone.pool == 5
    assert [n for n, _ in agent.backbone.named_children()] == ["lstm1", "lstm2", "hidden"]
    torch.manual_seed(0)
    odd = LSTMClassifier(4, n_steps=21, width=6)
    assert SpotTuneLSTM.from_pretrained(odd, 3).agent.backbone.pool == 1


def test_a_warm_agent_begins_as_fine_tuning(lstm):
    """An agent that begins with "tuned" for all, on layers that were trained on the source."""
    learned = LSTMClassifier(4, n_steps=20, width=4, n_layers=2, pool=5)
    agent = policy_network(learned.backbone, 3, start=0.9)
    model = lstm.model(agent=agent).eval()
    log_probs, decisions = model(lstm.inputs())
    assert bool((decisions == 1).all())
    plain = lstm.fine_tuning(model)
    torch.testing.assert_close(log_probs, plain(lstm.inputs()).log_softmax(1))


def test_the_settings_of_the_source_are_kept():
    torch.manual_seed(0)
    source = LSTMClassifier(
        4, n_channels=3, n_steps=30, width=5, n_layers=2, pool=2, readout="last"
    )
    model = SpotTuneLSTM.from_pretrained(source, 4).eval()
    model.head.load_state_dict(source.head.state_dict())
    x = torch.randn(7, 30, 3)
    torch.testing.assert_close(model.classify(x, coin(7, 2).float()), source(x).log_softmax(1))


def test_a_source_of_other_windows(lstm):
    model = lstm.model()
    for x, match in (
        (torch.zeros(2, 128, 6), r"windows of shape \(N, 20, 6\).*got \(2, 128, 6\)"),
        (torch.zeros(2, 20, 9), r"got \(2, 20, 9\)"),
        (torch.full((2, 20, 6), torch.nan), "x contains NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            model(x)
        with pytest.raises(ValueError, match=match):
            model.classify(x, torch.ones(2, 3))


def test_wrong_choices(lstm):
    with pytest.raises(ValueError, match=r"choose is 'gate'.*Did you mean 'gates'"):
        lstm.model(choose="gate")
    with pytest.raises(ValueError, match="agent has 6 outputs.*24"):
        lstm.model(choose="gates", agent=lstm.model().agent)


def test_one_label_only_is_learnt_without_a_fault(lstm):
    """A target of one class in a batch: nothing divides by zero."""
    model = lstm.model().train()
    loss = nll_loss(model(lstm.inputs())[0], torch.zeros(32, dtype=torch.int64))
    loss.backward()
    assert bool(torch.isfinite(loss))
