"""What SpotTune is, for recurrent and residual networks alike, and mistakes made in public."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax, nll_loss

from tlcourse.adaptive import policy_network
from tlcourse.adaptive.spottune import RoutedBlock, SpotTune
from tlcourse.finetuning import freeze
from tlcourse.metrics import accuracy
from tlcourse.models import MLP
from tlcourse.training import load_model, save_model, step_decay


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module, before):
    now = module.state_dict()
    return {name for name in before if not torch.equal(now[name], before[name])}


def apart(model):
    """Move the tuned copies away from the frozen ones, as training does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.tuned.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def chosen(model, n, share=0.5):
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(n, model.n_decisions, generator=generator) < share).float()


# --- the equation ------------------------------------------------------------------------------


@pytest.mark.equation("eq-spottune-block")
def test_a_block_is_the_equation():
    block = RoutedBlock(nn.Linear(3, 3))
    block.tuned.weight.data += 1
    x, d = torch.randn(4, 3), torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    expected = d * block.tuned(x) + (1 - d) * block.frozen(x)
    torch.testing.assert_close(block.mixed(x, d), expected)
    outputs, order = block.routed(x, d)
    torch.testing.assert_close(outputs, expected[order])
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_a_decision_has_the_difference_of_both_copies_as_its_gradient():
    block = RoutedBlock(nn.Linear(3, 3))
    block.tuned.weight.data += 1
    x = torch.randn(4, 3)
    d = torch.tensor([[1.0], [0.0], [0.0], [1.0]], requires_grad=True)
    block.mixed(x, d).sum().backward()
    torch.testing.assert_close(d.grad, (block.tuned(x) - block.frozen(x)).sum(1, keepdim=True))


def test_mixed_and_routed_give_the_same_for_hard_decisions(case):
    model = apart(case.model()).eval()
    x = case.inputs()
    for share in (0.0, 0.5, 1.0):
        decisions = chosen(model, 32, share)
        routed = model.classify(x, decisions)
        model.training = True  # this alone mixes; BatchNorm and the rest stay as they are
        torch.testing.assert_close(model.classify(x, decisions), routed)
        model.training = False


def test_decisions_are_per_sample_and_per_block(case):
    model = apart(case.model()).eval()
    x = case.inputs()
    decisions = chosen(model, 32)
    together = model.classify(x, decisions)
    for i in (0, 7, 31):
        torch.testing.assert_close(model.classify(x[[i]], decisions[[i]]), together[[i]])
    for block in range(model.n_decisions):
        other = decisions.clone()
        other[4, block] = 1 - other[4, block]
        moved = (model.classify(x, other) - together).abs().amax(1) > 1e-6
        assert moved.nonzero().flatten().tolist() == [4]


def test_the_answer_does_not_depend_on_the_order_of_the_samples(case):
    model = apart(case.model()).eval()
    x, order = case.inputs(), torch.randperm(32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(x[order])[0], model(x)[0][order])


# --- the two ends ------------------------------------------------------------------------------


def test_all_tuned_is_fine_tuning(case):
    model = case.model().train()
    plain = case.fine_tuning(model).train()
    ones = torch.ones(16, model.n_decisions)
    x, y = case.inputs(16), torch.arange(16) % 3
    optimizers = [
        torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)
        for parameters in (model.learners(), plain.parameters())
    ]
    for _ in range(3):
        answers = model.classify(x, ones), log_softmax(plain(x), 1)
        assert torch.equal(*answers)
        for optimizer, answer in zip(optimizers, answers, strict=True):
            optimizer.zero_grad()
            nll_loss(answer, y).backward()
        assert_same_gradients(model, plain)
        for optimizer in optimizers:
            optimizer.step()
    model.eval()
    plain.eval()
    assert torch.equal(model.classify(x, ones), log_softmax(plain(x), 1))


def assert_same_gradients(model, plain):
    """Compare by place: the tuned copies and the rest are the plain network's parameters."""
    mine = [p.grad for p in model.learners() if p.grad is not None]
    theirs = [p.grad for p in plain.parameters() if p.grad is not None]
    assert len(mine) == len(theirs) == len(list(plain.parameters()))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


def test_all_frozen_is_feature_extraction(case):
    model = case.model().train()
    plain = case.fine_tuning(model)
    freeze(plain.backbone)
    if case.name == "lstm":  # its hidden layer is not routed: it is trained in any case
        plain.backbone.hidden.requires_grad_(True)
    plain.train()
    zeros = torch.zeros(16, model.n_decisions)
    x, y = case.inputs(16), torch.arange(16) % 3
    for _ in range(3):
        answers = model.classify(x, zeros), log_softmax(plain(x), 1)
        assert torch.equal(*answers)
        for network, answer in zip((model, plain), answers, strict=True):
            network.zero_grad()
            nll_loss(answer, y).backward()
        rest = [*model.rest.parameters(), *model.head.parameters()]
        learning = [p for p in plain.parameters() if p.requires_grad]
        for a, b in zip(rest, learning, strict=True):
            assert torch.equal(a.grad, b.grad)
            with torch.no_grad():
                a -= 0.1 * a.grad
                b -= 0.1 * b.grad
        tuned = [p for block in model.blocks for p in block.tuned.parameters()]
        assert all(p.grad is None or p.grad.abs().sum() == 0 for p in tuned)


# --- what is frozen, and what learns -----------------------------------------------------------


def test_the_frozen_copies_keep_every_byte(case):
    """With momentum and decay, in train mode, BatchNorm included: in public they have drifted."""
    model = case.model()
    source = state(case.source)
    before = [state(block.frozen) for block in model.blocks]
    tuned = [state(block.tuned) for block in model.blocks]
    case.trained(model)
    for block, frozen, moving in zip(model.blocks, before, tuned, strict=True):
        assert changed(block.frozen, frozen) == set()
        assert changed(block.tuned, moving) >= {n for n, _ in block.tuned.named_parameters()}
    assert changed(case.source, source) == set()


def test_only_the_tuned_copys_batchnorm_counts(case):
    model = case.model().train()
    model(case.inputs())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    counted = {m.num_batches_tracked.item() for m in norms if m.training}
    frozen = [m for block in model.blocks for m in block.frozen.modules()]
    assert not any(m.training for m in frozen)
    assert all(m.num_batches_tracked.item() == 3 for m in frozen if isinstance(m, nn.BatchNorm2d))
    assert not norms or 4 in counted


@pytest.mark.parametrize("mode", [True, False])
def test_a_new_model_is_in_training_but_for_its_frozen_copies(case, mode):
    case.source.train(mode)
    for block in case.model().blocks:
        assert all(m.training for m in block.tuned.modules())
        assert not any(m.training for m in block.frozen.modules())


def test_no_two_copies_share_memory(case):
    """The first release of the authors' code kept both paths in one storage."""
    model = case.model()
    tensors = [*case.source.state_dict(keep_vars=True).values()]
    for block in model.blocks:
        tensors += [*block.tuned.state_dict().values(), *block.frozen.state_dict().values()]
    tensors += [*model.rest.state_dict().values()]
    places = [t.untyped_storage().data_ptr() for t in tensors]
    own = [t for t in tensors if t.numel()]
    assert len({t.data_ptr() for t in own}) == len(own)
    first = set(places[: len(case.source.state_dict())])
    assert first.isdisjoint(places[len(case.source.state_dict()) :])


def test_what_is_trained(case):
    """In public the first convolution and the last BatchNorm were, though frozen by intention."""
    model = case.model()
    kinds = {"tuned", "rest", "head", "agent"}
    for name, parameter in model.named_parameters():
        part = name.split(".")[2] if name.startswith("blocks.") else name.split(".")[0]
        assert parameter.requires_grad == (part != "frozen")
        assert part in kinds | {"frozen"}
    agents = list(model.agent.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in [*agents, *model.learners()]}
    assert len(trained) == len(agents) + len(model.learners())


def test_every_trained_parameter_gets_a_gradient(case):
    """In public the agent held blocks that were never called."""
    model = case.model().train()
    model = apart(model)
    model.loss((case.inputs(), torch.arange(32) % 3)).backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)
    ]
    assert not without
    assert all(p.grad is None for block in model.blocks for p in block.frozen.parameters())


def test_the_agent_learns_for_which_samples_a_copy_is_good():
    """The frozen copy passes x on, the tuned one its opposite; the label follows one of them."""

    class Rest(nn.Module):
        n_features = 2

        def read(self, x):
            return x

        def features(self, h):
            return h

    torch.manual_seed(0)
    model = SpotTune(
        [RoutedBlock(nn.Linear(2, 2, bias=False))],
        Rest(),
        2,
        policy_network(MLP((2, 16, 2)).backbone, 1),
        temperature=1.0,
    )
    with torch.no_grad():
        model.blocks[0].frozen.weight[:] = torch.eye(2)
        model.blocks[0].tuned.weight[:] = -torch.eye(2)
        model.head.weight[:] = 5 * torch.eye(2)
    x = torch.randn(200, 2)
    wants_tuned = x[:, 0] > 0.3
    y = torch.where(wants_tuned, (-x).argmax(1), x.argmax(1))
    optimizer = torch.optim.Adam(model.agent.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss((x, y)).backward()
        optimizer.step()
    decisions = model.eval().decide(x)[:, 0].bool()
    assert (decisions == wants_tuned).float().mean() > 0.95


# --- evaluation --------------------------------------------------------------------------------


def test_two_evaluations_are_equal_and_follow_the_likelier_decision(case):
    """In public the test function drew noise, so that each evaluation gave another accuracy."""
    model = apart(case.trained(case.model())).eval()
    x = case.inputs()
    with torch.no_grad():
        (first, decisions), (second, again) = model(x), model(x)
        logits = model.agent(x).unflatten(1, (-1, 2))
        assert torch.equal(first, model.classify(x, decisions))
    assert torch.equal(first, second)
    assert torch.equal(decisions, again)
    assert torch.equal(decisions, logits.argmax(-1).float())


def test_in_training_the_decisions_are_drawn(case):
    model = case.model().train()
    x = case.inputs()
    assert not torch.equal(model(x)[1], model(x)[1])
    torch.manual_seed(3)
    first = model(x)[1]
    torch.manual_seed(3)
    assert torch.equal(model(x)[1], first)


def test_the_policy_has_the_temperature_that_was_asked_for(case):
    def slope(temperature):
        model = case.model(temperature=temperature).train()
        model.decide(case.inputs()).sum().backward()
        return model.agent.head.weight.grad.abs().sum()

    assert slope(500.0) < slope(50.0) / 5


def test_each_sample_computes_its_own_path_only(case):
    """In public both were computed, and one thrown away: twice the time or more."""
    model = apart(case.model()).eval()
    seen = {}
    for b, block in enumerate(model.blocks):
        for kind in ("tuned", "frozen"):
            getattr(block, kind).register_forward_hook(
                lambda _m, args, _out, key=(b, kind): seen.setdefault(key, []).append(len(args[0]))
            )
    decisions = chosen(model, 32)
    decisions[:, 1] = 1.0  # nobody takes the second block's frozen copy: it is not called
    model.classify(case.inputs(), decisions)
    for b in range(len(model.blocks)):
        n_tuned = int(decisions[:, b].sum())
        assert seen[b, "tuned"] == [n_tuned]
        assert seen.get((b, "frozen"), [0]) == [32 - n_tuned]
    seen.clear()
    model.train()
    model(case.inputs())
    assert set(map(tuple, seen.values())) == {(32,)}
    assert len(seen) == 2 * len(model.blocks)


def test_saved_and_loaded_it_answers_the_same(case, tmp_path):
    """In public the agent was made again with half of its outputs."""
    model = apart(case.trained(case.model())).eval()
    save_model(model, tmp_path / "model.safetensors")
    torch.manual_seed(99)
    other = load_model(
        type(model).from_pretrained(type(case)(case.name).source, 3), tmp_path / "model.safetensors"
    ).eval()
    x = case.inputs()
    for a, b in zip(model(x), other(x), strict=True):
        assert torch.equal(a, b)


def test_a_copy_is_a_model_of_its_own(case):
    model = case.model()
    other = copy.deepcopy(model)
    before = state(model)
    case.trained(other)
    assert changed(model, before) == set()
    assert changed(other.blocks, {k[7:]: v for k, v in before.items() if k.startswith("blocks.")})


def test_the_measures_take_its_classifier(case):
    model = case.trained(case.model())
    data = case.data()
    model.eval()
    expected = (model(data.tensors[0])[0].argmax(1) == data.tensors[1]).float().mean().item()
    assert accuracy(model.classifier(), data) == pytest.approx(expected)


def test_the_loss_is_the_likelihood_of_the_labels(case):
    model = case.model().eval()
    x, y = case.inputs(), torch.arange(32) % 3
    log_probs = model(x)[0]
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(32))
    torch.testing.assert_close(model.loss((x, y)), -log_probs[range(32), y].mean())


def test_the_papers_schedule():
    """110 epochs, x 0.1 after 40, 60 and 80; in public the rate stayed at 0.01 from 40 on."""
    schedule = step_decay((40 / 110, 60 / 110, 80 / 110), 0.1)
    rates = [0.1 * schedule(epoch / 110) for epoch in (0, 39, 40, 50, 60, 70, 80, 109)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])


def test_the_callers_state_is_left_alone(case):
    model = case.model().eval()
    x = case.inputs()
    kept, modes = x.clone(), [m.training for m in model.modules()]
    before, random = state(model), torch.get_rng_state()
    model(x)
    assert torch.equal(x, kept)
    assert modes == [m.training for m in model.modules()]
    assert changed(model, before) == set()
    assert torch.equal(torch.get_rng_state(), random)


# --- wrong input -------------------------------------------------------------------------------


def test_an_agent_that_fits_other_layers(case):
    right = case.model()
    agent = policy_network(right.agent.backbone, right.n_decisions - 1)
    with pytest.raises(
        ValueError, match=rf"agent has {2 * right.n_decisions - 2} outputs.*{2 * right.n_decisions}"
    ):
        case.model(agent=agent)
    with pytest.raises(TypeError, match="agent must be a Classifier.*got Linear"):
        case.model(agent=nn.Linear(2, 2))


def test_an_agent_of_ones_own_is_taken(case):
    first = case.model()
    agent = policy_network(first.agent.backbone, first.n_decisions, start=0.99)
    model = case.model(agent=agent).eval()
    assert model.agent is agent
    assert model.decide(case.inputs()).mean() > 0.9


def test_wrong_decisions(case):
    model = case.model().eval()
    x, ones = case.inputs(), torch.ones(32, model.n_decisions)
    with pytest.raises(ValueError, match="decisions must have shape"):
        model.classify(x, ones[:, 1:])
    with pytest.raises(ValueError, match="decisions must have shape"):
        model.classify(x, ones[1:])
    with pytest.raises(ValueError, match="0 or 1 at evaluation.*got 0.5 to 1"):
        model.classify(x, torch.where(torch.arange(32)[:, None] == 3, 0.5, ones))
    model.train()
    assert model.classify(x, 0.5 * ones).shape == (32, 3)  # soft ones are mixed


def test_wrong_settings(case):
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        case.model(1)
    with pytest.raises(ValueError, match="temperature must be greater than 0, got 0"):
        case.model(temperature=0)
    with pytest.raises(TypeError, match="source must be a.*got MLP"):
        type(case.model()).from_pretrained(MLP((4, 8, 2)), 3)


def test_a_frozen_source_is_refused(case):
    freeze(case.source)
    with pytest.raises(ValueError, match="is frozen.*unfreeze"):
        case.model()
