from __future__ import annotations

import pytest
import torch
from torch import nn

from tlcourse.models import MLP


def test_it_is_linear_relu_linear():
    model = MLP((4, 5, 3, 2))
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(4, 5), (5, 3), (3, 2)]
    x = torch.randn(6, 4)
    h = (x @ linear[0].weight.T + linear[0].bias).clamp(min=0)
    h = (h @ linear[1].weight.T + linear[1].bias).clamp(min=0)
    torch.testing.assert_close(model(x), h @ linear[2].weight.T + linear[2].bias)


def test_images_are_flattened():
    model = MLP((12, 5, 2))
    x = torch.rand(3, 1, 3, 4)
    assert torch.equal(model(x), model(x.flatten(1)))


def test_dropout_is_where_it_is_asked_for():
    x = torch.ones(1, 1000)
    plain, inputs, hidden = (
        MLP((1000, 50, 2), dropout=d, input_dropout=i) for i, d in ((0, 0), (0.2, 0), (0, 0.5))
    )
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(inputs(x), inputs(x))
    assert not torch.equal(hidden(x), hidden(x))
    assert [m.p for m in inputs.modules() if isinstance(m, nn.Dropout)] == [0.2, 0]
    assert [m.p for m in hidden.modules() if isinstance(m, nn.Dropout)] == [0, 0.5]
    assert torch.equal(hidden.eval()(x), hidden(x))


@pytest.mark.parametrize("widths", [(), (784,), (784, 10)])
def test_too_few_widths(widths):
    with pytest.raises(ValueError, match="widths must name the inputs"):
        MLP(widths)


def test_wrong_widths():
    with pytest.raises(ValueError, match=r"widths\[1\] must be at least 1, got 0"):
        MLP((4, 0, 2))
    with pytest.raises(TypeError, match=r"widths\[1\] must be an integer"):
        MLP((4, 2.5, 2))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
def test_wrong_rates(name, rate):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        MLP((4, 3, 2), **{name: rate})


def test_wrong_input():
    with pytest.raises(
        ValueError, match=r"x must have 784 numbers a sample.*\(2, 1, 32, 32\).*1024"
    ):
        MLP((784, 3, 2))(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"got shape \(784,\).*Add the batch dimension"):
        MLP((784, 3, 2))(torch.rand(784))
    with pytest.raises(TypeError, match=r"^x must be a torch\.Tensor, got list"):
        MLP((2, 3, 2))([[0.0, 0.0]])
    with pytest.raises(TypeError, match=r"^x must hold floating-point numbers, got .*int64"):
        MLP((2, 3, 2))(torch.ones(1, 2).long())


def test_an_empty_batch_has_no_logits():
    assert MLP((4, 3, 2))(torch.rand(0, 1, 2, 2)).shape == (0, 2)
