"""Progressive networks: the layer against the equation, what is frozen, and public mistakes."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from tlcourse.continual import ProgressiveNetwork
from tlcourse.training import fit

KINDS = ["mlp", "conv"]
ADAPTERS = ["mlp", "linear"]
both = pytest.mark.parametrize("adapter", ADAPTERS)
kinds = pytest.mark.parametrize("kind", KINDS)


def network(kind="mlp", adapter="mlp", outputs=(3, 2, 4), widths=(8, 6, 5)):
    torch.manual_seed(0)
    net = ProgressiveNetwork(1 if kind == "conv" else 64, widths, kind=kind, adapter=adapter)
    for n_outputs in outputs:
        net.eval()
        net.add_column(n_outputs)
    return net


def images(n=6, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def objective(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def train(net, n_classes, parameters=None, epochs=3, seed=0):
    data = TensorDataset(images(30, seed), torch.arange(30) % n_classes)
    optimizer = torch.optim.SGD(
        net.parameters() if parameters is None else parameters,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
    )
    fit(net, objective, data, optimizer=optimizer, epochs=epochs, batch_size=10, progress=False)
    return net.eval()


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# --- the equations -----------------------------------------------------------------------------


@pytest.mark.equation("eq-progressive-linear")
def test_the_linear_layer_is_the_equation():
    net = network(adapter="linear").double()
    x = images().double()
    h = [x.flatten(1)] * 3
    for i, width in enumerate((8, 6, 5)):
        new = []
        for k in range(3):
            layer = net.columns[k].layers[i]
            total = h[k] @ layer.own.weight.T + layer.own.bias
            for j in range(k if i > 0 else 0):
                n = h[j].shape[1]
                total = total + h[j] @ layer.adapter.U.weight[:, j * n : (j + 1) * n].T
            new.append(total.clamp(min=0))
            assert new[-1].shape[1] == width
        h = new
    for k in range(3):
        layer = net.columns[k].output
        z = h[k] @ layer.own.weight.T + layer.own.bias
        for j in range(k):
            z = z + h[j] @ layer.adapter.U.weight[:, j * 5 : (j + 1) * 5].T
        torch.testing.assert_close(net(x, column=k), z)


@pytest.mark.equation("eq-progressive-adapter")
def test_the_adapter_is_the_equation():
    net = network(adapter="mlp").double()
    x = images().double()
    h = [x.flatten(1)] * 3

    def lateral(layer, earlier):
        if layer.adapter is None:
            return 0.0
        a, V, U = layer.adapter.alpha, layer.adapter.V, layer.adapter.U
        scaled = torch.cat([a[j] * earlier[j] for j in range(len(earlier))], 1)
        return (scaled @ V.weight.T + V.bias).clamp(min=0) @ U.weight.T

    for i in range(3):
        layers = [column.layers[i] for column in net.columns]
        h = [
            (h[k] @ w.own.weight.T + w.own.bias + lateral(w, h[:k])).clamp(min=0)
            for k, w in enumerate(layers)
        ]
    for k in range(3):
        w = net.columns[k].output
        z = h[k] @ w.own.weight.T + w.own.bias + lateral(w, h[:k])
        torch.testing.assert_close(net(x, column=k), z)


@pytest.mark.equation("eq-progressive-adapter")
def test_a_convolutional_layer_is_the_equation_with_1x1_projections():
    net = network("conv", outputs=(3, 2), widths=(4, 3)).double()
    x = images().double()
    first = [column.layers[0] for column in net.columns]
    h = [F.relu(w.norm(F.conv2d(x, w.own.weight, stride=2, padding=1))) for w in first]
    w = net.columns[1].layers[1]
    assert w.adapter.V.kernel_size == (1, 1)
    V, U = w.adapter.V, w.adapter.U
    inner = F.relu(F.conv2d(w.adapter.alpha[0] * h[0], V.weight, V.bias))
    total = F.conv2d(h[1], w.own.weight, stride=2, padding=1)
    total = total + F.conv2d(inner, U.weight, stride=2, padding=1)
    found = net.columns[1].hidden(1, h[1], h[:1])
    torch.testing.assert_close(found, F.relu(w.norm(total)))


@kinds
@both
def test_the_first_layer_has_no_adapter_and_all_others_have(kind, adapter):
    net = network(kind, adapter)
    for k, column in enumerate(net.columns):
        layers = [*column.layers, column.output]
        assert [layer.adapter is not None for layer in layers] == [False] + [k > 0] * 3
        if k > 0 and adapter == "mlp":
            assert all(layer.adapter.alpha.shape == (k,) for layer in layers[1:])


def test_alpha_begins_small_and_differs_by_column():
    alphas = torch.cat([layer.adapter.alpha for layer in network().columns[2].layers[1:]])
    assert bool((alphas > 0).all())
    assert bool((alphas < 0.2).all())
    assert len(alphas.unique()) == len(alphas)


# --- gradients, and what stays -----------------------------------------------------------------


@kinds
@both
def test_every_parameter_of_the_newest_column_gets_a_gradient(kind, adapter):
    """A public library's adapters get none: they are made, and never registered."""
    net = network(kind, adapter)
    net.train()
    net(images(20)).square().sum().backward()
    for name, parameter in net.columns[-1].named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name
    adapters = [n for n, _ in net.columns[-1].named_parameters() if "adapter" in n]
    assert len(adapters) == 3 * (4 if adapter == "mlp" else 1)


@kinds
@both
def test_earlier_columns_get_no_gradient(kind, adapter):
    net = network(kind, adapter)
    net.train()
    net(images()).sum().backward()
    for column in net.columns[:-1]:
        assert all(not p.requires_grad and p.grad is None for p in column.parameters())


@kinds
@both
def test_earlier_columns_keep_every_byte_through_training(kind, adapter):
    """Momentum and weight decay on, and the optimiser holds all parameters, of all columns."""
    net = network(kind, adapter, outputs=(3,))
    train(net, 3)
    for n_outputs in (2, 4):
        before, old = state(net), net(images(), column=0)
        net.add_column(n_outputs)
        train(net, n_outputs, parameters=list(net.parameters()), seed=n_outputs)
        after = net.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert torch.equal(net(images(), column=0), old)


def test_an_optimiser_that_still_holds_momentum_leaves_the_old_column_alone():
    net = network(outputs=(3,))
    data = (images(), torch.arange(6) % 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    net.train()
    objective(net, data).backward()
    optimizer.step()  # gradients are left in place, momentum is there
    net.eval()
    before = state(net.columns[0])
    net.add_column(3)
    optimizer.add_param_group({"params": list(net.columns[-1].parameters())})
    net.train()
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        objective(net, data).backward()
        optimizer.step()
    assert same(net.columns[0], before)


def test_batchnorm_of_earlier_columns_rests_in_train_mode():
    net = network("conv", outputs=(3, 2))
    before = state(net.columns[0])
    net.train()
    net.columns[0].train()  # somebody else's loop
    assert not any(module.training for module in net.columns[0].modules())
    assert net.columns[1].layers[0].norm.training
    for _ in range(3):
        net(images() * 5)
    assert same(net.columns[0], before)
    assert net.columns[1].layers[0].norm.num_batches_tracked == 3


@kinds
@both
def test_the_outputs_of_a_column_do_not_change_when_another_is_added(kind, adapter):
    net = network(kind, adapter, outputs=(3, 2))
    x = images()
    before = [net(x, column=k) for k in range(2)]
    net.add_column(4)
    for k in range(2):
        assert torch.equal(net(x, column=k), before[k])
    train(net, 4)
    for k in range(2):
        assert torch.equal(net(x, column=k), before[k])


@kinds
def test_the_newest_column_does_learn_and_uses_the_earlier_ones(kind):
    net = network(kind, outputs=(3, 2))
    before = state(net.columns[1])
    train(net, 2)
    assert not any(
        torch.equal(t, before[n]) for n, t in state(net.columns[1]).items() if "running" not in n
    )
    x = images()
    out = net(x)
    with torch.no_grad():
        net.columns[0].layers[0].own.weight.mul_(3)
    assert not torch.allclose(net(x), out)  # there is a path from the first column


@kinds
@both
def test_a_single_column_is_a_plain_network(kind, adapter):
    net = network(kind, adapter, outputs=(3,))
    assert not any("adapter" in name for name, _ in net.named_parameters())
    x = images()
    h = x if kind == "conv" else x.flatten(1)
    for layer in net.columns[0].layers:
        h = F.relu(layer.norm(layer.own(h)))
    h = h.mean((2, 3)) if kind == "conv" else h
    torch.testing.assert_close(net(x), net.columns[0].output.own(h))


def test_only_the_columns_needed_are_computed():
    net, calls = network(), []
    for k, column in enumerate(net.columns):
        column.layers[0].register_forward_hook(lambda *_, k=k: calls.append(k))
        column.output.register_forward_hook(lambda *_, k=k: calls.append(f"out {k}"))
    net(images(), column=1)
    assert calls == [0, 1, "out 1"]


def test_a_column_grows_linearly_with_the_columns_before_it():
    net = network(outputs=(3,) * 6)
    sizes = [sum(p.numel() for p in column.parameters()) for column in net.columns]
    steps = [b - a for a, b in itertools.pairwise(sizes[1:])]
    assert len(set(steps)) == 1
    # alpha and V grow by one scalar and by n_in x n_in for each earlier column.
    assert steps[0] == sum(n * n + 1 for n in (8, 6, 5))


@kinds
@both
def test_the_state_is_restored_from_a_file_s_contents(kind, adapter):
    net = train(network(kind, adapter), 4, epochs=1)  # BatchNorm has statistics of its own
    twin = network(kind, adapter)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    assert not torch.equal(twin(images()), net(images()))
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(images()), net(images()))
    copied = copy.deepcopy(net)
    copied.train()
    assert not copied.columns[0].training  # a copy is frozen as well


def test_a_column_s_classifier_shares_its_tensors():
    net = network()
    x = images()
    for k in (0, 2):
        assert torch.equal(net.classifier(k)(x), net(x, column=k))
    assert net.classifier(-1).column == 2
    assert net.classifier(0).network is net


@kinds
@both
def test_a_new_column_is_of_the_others_dtype(kind, adapter):
    net = network(kind, adapter, outputs=(3,)).double()
    net.add_column(2)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(images().double()).dtype == torch.float64


@kinds
def test_an_empty_batch_has_no_logits(kind):
    assert network(kind)(images(0)).shape == (0, 4)


# --- bad input ---------------------------------------------------------------------------------


def test_a_column_added_while_in_training_is_refused():
    net = ProgressiveNetwork(64, (8,))
    net.add_column(3)  # a new network may have its first one at once
    net.train()
    with pytest.raises(RuntimeError, match=r"in training: .* freeze column 0 .* call \.eval\(\)"):
        net.add_column(2)
    assert len(net.columns) == 1
    assert all(p.requires_grad for p in net.parameters())
    assert net.eval().add_column(2) == 1
    assert net.train().columns[1].training


@pytest.mark.parametrize("column", [2, -3])
def test_a_column_that_does_not_exist(column):
    net = network(outputs=(3, 2))
    with pytest.raises(ValueError, match=rf"column is {column}; there are 2 columns, 0 to 1"):
        net(images(), column=column)
    with pytest.raises(ValueError, match=f"column is {column}"):
        net.classifier(column)


@pytest.mark.parametrize("column", [0.0, "0", True, None])
def test_a_column_that_is_no_integer(column):
    with pytest.raises(TypeError, match="column must be an integer"):
        network()(images(), column=column)


def test_no_column_yet():
    with pytest.raises(ValueError, match="no column yet: call add_column"):
        ProgressiveNetwork(64, (8,))(images())


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"adapter": "mpl"}, ValueError, "adapter is 'mpl'; it takes 'mlp', 'linear'. Did you"),
        ({"kind": "convolution"}, ValueError, "kind is 'convolution'; it takes 'mlp', 'conv'"),
        ({"widths": ()}, ValueError, "widths must be one or more integers"),
        ({"widths": 8}, ValueError, "widths must be one or more integers, got 8"),
        ({"widths": (8, 0)}, ValueError, r"widths\[1\] must be at least 1"),
        ({"widths": (8.0,)}, TypeError, r"widths\[0\] must be an integer"),
        ({"n_inputs": 0}, ValueError, "n_inputs must be at least 1"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        ProgressiveNetwork(**{"n_inputs": 4, "widths": (8,)} | settings)


def test_bad_outputs_and_inputs():
    with pytest.raises(ValueError, match="n_outputs must be at least 2"):
        ProgressiveNetwork(4, (8,)).add_column(1)
    with pytest.raises(TypeError, match="n_outputs must be an integer"):
        ProgressiveNetwork(4, (8,)).add_column("2")
    with pytest.raises(ValueError, match=r"x must have 64 numbers a sample, got shape \(2, 1, 7"):
        network()(torch.rand(2, 1, 7, 7))
    with pytest.raises(ValueError, match=r"x must have 64 numbers a sample, got shape \(64,\)"):
        network()(torch.rand(64))
    with pytest.raises(ValueError, match=r"x must have 64 numbers a sample, got shape \(0, 63\)"):
        network()(torch.rand(0, 63))
    with pytest.raises(ValueError, match=r"shape \(N, 1, H, W\), got \(1, 8, 8\)"):
        network("conv")(images()[0])


@kinds
def test_input_that_is_no_tensor_of_floats(kind):
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, got list"):
        network(kind)(images().tolist())
    with pytest.raises(TypeError, match=r"^x must hold floating-point numbers, got .*int64"):
        network(kind)(images().long())


def test_a_column_with_nan_is_not_frozen_for_ever():
    net = network(outputs=(3,))
    with torch.no_grad():
        net.columns[0].layers[1].own.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"columns\[0\]\.layers\.1\.own\.bias holds NaN"):
        net.add_column(2)
    assert len(net.columns) == 1
    assert all(p.requires_grad for p in net.parameters())
