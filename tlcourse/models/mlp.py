"""A multi-layer perceptron: linear layers with ReLU between them, and dropout if asked for."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from tlcourse._checks import check_dtype, check_int, check_number, shape_of
from tlcourse.models.classifier import Classifier


class MLP(Classifier):
    r"""Classify vectors, or images flattened into vectors.

    .. math:: h_l = \max(0, W_l h_{l-1} + b_l), \qquad z = W_L h_{L-1} + b_L

    where :math:`h_0` is the flattened input, :math:`h_l` has ``widths[l]`` units, and z are the
    logits, (N, K).

    Parameters
    ----------
    widths
        The number of inputs, of every hidden layer's units, and of classes: at least 3 integers.
        The last hidden layer is the backbone's output.
    dropout
        The part of the hidden units that dropout sets to zero in training, in [0, 1).
    input_dropout
        The same for the inputs.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than 3 widths, one is not a positive integer, or a rate is out of range.

    Examples
    --------
    >>> import torch
    >>> model = MLP((784, 1200, 1200, 10))
    >>> sum(p.numel() for p in model.parameters())
    2395210
    >>> model(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 10])

    References
    ----------
    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 3: the
    teacher has two hidden layers of 1200 units and dropout, the student two of 800.
    """

    def __init__(
        self, widths: Sequence[int], *, dropout: float = 0.0, input_dropout: float = 0.0
    ) -> None:
        widths = tuple(widths)
        if len(widths) < 3:
            raise ValueError(
                "widths must name the inputs, at least one hidden layer and the classes, for "
                f"instance (784, 800, 10); got {widths}."
            )
        for i, width in enumerate(widths):
            check_int(f"widths[{i}]", width, low=1)
        _check_rate("dropout", dropout)
        _check_rate("input_dropout", input_dropout)
        super().__init__(_Layers(widths[:-1], dropout, input_dropout), widths[-1])


class _Layers(nn.Module):
    def __init__(self, widths: tuple[int, ...], dropout: float, input_dropout: float) -> None:
        super().__init__()
        self.n_inputs, self.n_features = widths[0], widths[-1]
        self.layers = tuple(f"hidden{i}" for i in range(1, len(widths)))
        self.input_dropout = nn.Dropout(input_dropout)
        for name, n_in, n_out in zip(self.layers, widths, widths[1:], strict=False):
            parts = {"linear": nn.Linear(n_in, n_out), "relu": nn.ReLU()}
            self.add_module(name, nn.Sequential(OrderedDict(**parts, dropout=nn.Dropout(dropout))))

    def forward(self, x: Tensor) -> Tensor:
        check_dtype("x", x)
        n_inputs = math.prod(x.shape[1:])
        if x.ndim < 2 or n_inputs != self.n_inputs:
            raise ValueError(
                f"x must have {self.n_inputs} numbers a sample, got shape {shape_of(x)} with "
                f"{n_inputs}." + (" Add the batch dimension: x[None]." if x.ndim == 1 else "")
            )
        h: Tensor = self.input_dropout(x.flatten(1))  # (N, C, H, W) -> (N, C * H * W)
        for name in self.layers:
            h = getattr(self, name)(h)  # (N, widths[l - 1]) -> (N, widths[l])
        return h


def _check_rate(name: str, value: float) -> None:
    check_number(name, value, low=0)
    if value >= 1:
        raise ValueError(f"{name} must be in [0, 1), got {value:g}.")
