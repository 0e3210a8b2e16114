"""Freezing: byte for byte, with every common optimiser, and what the naive way does instead."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.finetuning import audit, changed, freeze, snapshot, unfreeze

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD weight decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01, weight_decay=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1, weight_decay=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, weight_decay=0.1),  # torch 2.5 and later
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
if not hasattr(torch.optim, "Adafactor"):
    del OPTIMIZERS["Adafactor"]


class Net(nn.Module):
    """Convolution, BatchNorm, Dropout, two layers that share one weight, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)
        )
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(64)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        x = self.second(torch.tanh(self.first(self.backbone(x))))
        return self.head(self.dropout(self.norm(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().train()


def steps(model, optimizer, n=3, set_to_none=True):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        x = torch.randn(8, 1, 6, 6, generator=generator) + 1
        y = torch.randint(3, (8,), generator=generator)

        def closure(x=x, y=y):
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)


FROZEN = ("backbone", "first", "second")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parts_keep_every_byte_with_every_optimizer(net, name):
    for part in FROZEN:
        freeze(getattr(net, part))
    optimizer = OPTIMIZERS[name](net.parameters())  # it is given the frozen ones as well
    before = snapshot(net)
    for _ in range(2):
        net.train()
        steps(net, optimizer)
    moved = changed(net, before)
    assert not [tensor for tensor in moved if tensor.startswith(FROZEN)]
    assert {"head.weight", "head.bias", "norm.weight", "norm.running_mean"} <= set(moved)
    assert all(p.grad is None for part in FROZEN for p in getattr(net, part).parameters())


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "LBFGS"])
def test_a_part_that_is_frozen_after_training_keeps_every_byte(net, name):
    optimizer = OPTIMIZERS[name](net.parameters())
    steps(net, optimizer)
    for part in FROZEN:
        freeze(getattr(net, part))
    before = snapshot(net)
    assert audit(net, optimizer).drifting == ()
    net.train()
    steps(net, optimizer, set_to_none=False)
    moved = changed(net, before)
    assert not [tensor for tensor in moved if tensor.startswith(FROZEN)]
    assert "head.weight" in moved


def test_an_lbfgs_with_a_history_moves_what_is_refrozen_and_the_audit_says_so(net):
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)
    steps(net, optimizer)
    freeze(net.first)
    before = snapshot(net)
    assert "first.weight" in audit(net, optimizer).drifting
    steps(net, optimizer)
    assert "first.weight" in changed(net, before)


def test_requires_grad_alone_leaves_batchnorm_drifting_and_the_audit_says_so(net):
    net.requires_grad_(False)
    net.head.requires_grad_(True)
    before = snapshot(net)
    drifting = audit(net).drifting
    assert drifting == tuple(
        f"{layer}.{name}"
        for layer in ("backbone.1", "norm")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    )
    steps(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert set(changed(net, before)) == {*drifting, "head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "RMSprop", "AdamW", "NAdam"])
def test_zero_gradients_move_a_refrozen_layer_and_the_audit_says_so(net, name):
    optimizer = OPTIMIZERS[name](net.parameters())
    steps(net, optimizer)
    net.first.requires_grad_(False)  # the naive way; its momentum is still there
    optimizer.zero_grad(set_to_none=False)
    before = snapshot(net)
    drifting = audit(net, optimizer).drifting
    assert drifting == ("first.weight", "first.bias")
    steps(net, optimizer, set_to_none=False)
    assert set(drifting) <= set(changed(net, before))


@pytest.mark.equation("eq-momentum-drift")
@pytest.mark.parametrize("k", [1, 7])
def test_momentum_moves_a_parameter_without_gradient_by_the_geometric_sum(k):
    eta, mu = 0.1, 0.9
    theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=eta, momentum=mu)
    theta.grad = torch.tensor([3.0, 0.5], dtype=torch.float64)
    optimizer.step()
    v = optimizer.state[theta]["momentum_buffer"].clone()
    start = theta.detach().clone()
    for _ in range(k):
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    expected = start - eta * mu * (1 - mu**k) / (1 - mu) * v
    torch.testing.assert_close(theta.detach(), expected, rtol=1e-13, atol=0)
    assert not torch.equal(theta, start)


@pytest.mark.equation("eq-momentum-drift")
def test_after_freeze_the_same_parameter_stays():
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    freeze(layer)
    before = snapshot(layer)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    assert changed(layer, before) == ()


@pytest.mark.equation("eq-batchnorm-drift")
def test_running_mean_follows_the_batches_without_any_gradient():
    a, k = 0.2, 6
    norm = nn.BatchNorm1d(3, momentum=a).double().requires_grad_(False).train()
    norm.running_mean.copy_(torch.tensor([5.0, -1.0, 0.0]))
    m_0 = norm.running_mean.clone()
    batches = torch.randn(k, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for batch in batches:
        norm(batch)
    weights = torch.tensor([a * (1 - a) ** (k - j) for j in range(1, k + 1)], dtype=torch.float64)
    m_k = (1 - a) ** k * m_0 + weights @ batches.mean(dim=1)
    torch.testing.assert_close(norm.running_mean, m_k, rtol=1e-12, atol=1e-14)

    freeze(norm)
    held = norm.running_mean.clone()
    norm.train()(batches[0])
    assert torch.equal(norm.running_mean, held)


def test_dropout_below_a_frozen_module_is_off_after_train(net):
    freeze(net.backbone)
    net.train()
    x = torch.ones(4, 1, 6, 6)
    assert torch.equal(net.backbone(x), net.backbone(x))
    assert net.dropout.training
    net.backbone[4].train()  # nor does a call on the very layer switch it on
    net.apply(lambda layer: layer.train())
    assert not net.backbone[4].training


def test_unfreeze_undoes_freeze_entirely(net):
    attributes = {path: set(layer.__dict__) for path, layer in net.named_modules()}
    freeze(net)
    freeze(net)
    unfreeze(net)
    assert {path: set(layer.__dict__) for path, layer in net.named_modules()} == attributes
    assert all(p.requires_grad for p in net.parameters())
    assert all(layer.training for layer in net.train().modules())
    assert not any(layer.training for layer in net.eval().modules())
    unfreeze(net)


def test_frozen_then_unfrozen_trains_like_one_that_never_was(net):
    other = copy.deepcopy(net)
    freeze(other)
    unfreeze(other)
    for model in (net, other):
        torch.manual_seed(2)
        steps(model.train(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert changed(other, snapshot(net)) == ()


def test_a_part_of_a_frozen_network_unfrozen_again(net):
    freeze(net)
    unfreeze(net.backbone[1])
    unfreeze(net.head)
    net.train()
    assert [layer.training for layer in net.backbone] == [False, True, False, False, False]
    assert net.head.training
    assert not net.norm.training
    assert not net.dropout.training
    # The containers say that they train, so that code which restores model.training is right.
    assert net.training
    assert net.backbone.training
    net.eval()
    assert not any(layer.training for layer in net.modules())
    freeze(net.backbone)
    net.train()
    assert not net.backbone.training
    before = snapshot(net)
    steps(net, torch.optim.SGD(net.parameters(), lr=0.1))
    assert changed(net, before) == ("head.weight", "head.bias")


def test_a_module_with_statistics_of_its_own_stays_in_eval_whatever_is_inside():
    class Standardise(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))
            self.scale = nn.Linear(1, 1)

        def forward(self, x):
            if self.training:
                self.mean.mul_(0.9).add_(x.mean(), alpha=0.1)
            return self.scale(x - self.mean)

    module = Standardise()
    freeze(module)
    unfreeze(module.scale)
    before = snapshot(module)
    module.train()(torch.ones(3, 1))
    assert changed(module, before) == ()
    assert module.scale.training


def test_a_new_head_in_a_frozen_network_is_not_frozen(net):
    freeze(net)
    net.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 2))
    net.train()
    assert net.training
    assert all(layer.training for layer in net.head.modules())
    assert audit(net).trainable == ("head.1.weight", "head.1.bias")


def test_a_module_in_two_places_is_frozen_in_both():
    shared = nn.BatchNorm1d(2)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared, nn.Linear(2, 2))})
    freeze(model["a"])
    model.train()
    assert not shared.training
    assert model["b"][1].training
    unfreeze(model["b"])
    assert model.train()["a"][0].training


def test_tied_weights_are_frozen_in_both_layers(net):
    freeze(net.first)
    before = snapshot(net)
    steps(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    moved = changed(net, before)
    assert "first.weight" not in moved
    assert "second.bias" in moved


def test_freezing_shows_in_no_state_dict(net):
    before = snapshot(net)
    freeze(net.backbone)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh = Net()
    fresh.load_state_dict(state)
    assert changed(fresh, before) == ()
    assert fresh.train().backbone.training  # weights carry no freezing
    net.load_state_dict(state)
    assert not net.train().backbone[1].training


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_a_copy_is_frozen_by_itself(make_copy):
    net = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)), nn.Linear(2, 2)
    )
    freeze(net[0])
    twin = make_copy(net)
    unfreeze(net[0])
    assert not twin.train()[0][1].training
    assert twin[1].training
    assert net.train()[0][1].training  # the copy's train() is not the original's
    before = snapshot(twin)
    twin(torch.randn(4, 2)).sum().backward()
    assert changed(twin, before) == ()
    unfreeze(twin[0])
    assert twin.train()[0][1].training


def test_frozen_under_accelerate(net):
    from accelerate import Accelerator

    freeze(net.backbone)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.1, 0.9))
    before = snapshot(net)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(torch.ones(4, 1, 6, 6)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
    moved = changed(net, before)
    assert "head.weight" in moved
    assert not [name for name in moved if name.startswith("backbone")]
    assert audit(net, optimizer).drifting == ()


def test_frozen_in_a_wrapper_that_shares_the_module(net):
    freeze(net.backbone)
    wrapped = nn.DataParallel(net)
    wrapped.train()
    assert not net.backbone[1].training
    assert net.head.training


def test_integer_parameters_are_left_alone():
    layer = nn.Linear(2, 2)
    layer.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    freeze(layer)
    unfreeze(layer)
    assert not layer.codes.requires_grad
    assert layer.weight.requires_grad


@pytest.mark.parametrize("function", [freeze, unfreeze])
@pytest.mark.parametrize("given", ["backbone", nn.Parameter(torch.ones(1)), [nn.Linear(1, 1)]])
def test_no_module(function, given):
    with pytest.raises(TypeError, match=f"must be a torch.nn.Module, got {type(given).__name__}"):
        function(given)
