"""A recurrent network that classifies windows of sensor readings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from tlcourse._checks import (
    check_choice,
    check_float_tensor,
    check_int,
    readable,
    shape_of,
    sum_is_finite,
)
from tlcourse.models.classifier import Classifier

READOUTS = ("last", "mean")


class LSTMClassifier(Classifier):
    """Classify windows of several channels with LSTM layers and two linear ones.

    The backbone's parts, earliest first: ``lstm1``, ``lstm2`` ..., each (N, T, width), then
    ``hidden``, a linear layer with ReLU on one vector a window: D = ``width`` features.

    Parameters
    ----------
    n_classes
        K, at least 2.
    n_channels
        C, the number of readings a step: 6 for an accelerometer and a gyroscope of three axes.
    n_steps
        T, the length of a window. Another length is refused, since 125 steps of one device may be
        twice the time that they are of another.
    width
        Units of every layer.
    n_layers
        The number of LSTM layers.
    pool
        The LSTM reads means of this many steps, so that a narrow network on T / ``pool`` steps
        costs little; it must divide T.
    readout
        What ``hidden`` gets of the (N, T, width) of the last LSTM layer. ``"last"``: its last
        step, which has to carry the whole window. ``"mean"``: the mean over all steps.

    Raises
    ------
    TypeError, ValueError
        If a number is no integer or too small, ``pool`` does not divide T, or the readout is
        misspelt. In ``forward``, if x is of another shape or, on a CPU, holds NaN.

    Examples
    --------
    >>> model = LSTMClassifier(6)
    >>> model(torch.randn(3, 125, 6)).shape
    torch.Size([3, 6])
    >>> model.layers
    ('backbone.lstm1', 'backbone.lstm2', 'backbone.lstm3', 'backbone.hidden', 'head')

    References
    ----------
    Hochreiter and Schmidhuber, Long Short-Term Memory, 1997; Jozefowicz, Zaremba and Sutskever, An
    Empirical Exploration of Recurrent Network Architectures, 2015, section 2.4, for the forget
    gate's bias of 1.
    """

    backbone: _Recurrent

    def __init__(
        self,
        n_classes: int,
        *,
        n_channels: int = 6,
        n_steps: int = 125,
        width: int = 64,
        n_layers: int = 3,
        pool: int = 1,
        readout: str = "mean",
    ) -> None:
        sizes = {"n_channels": n_channels, "n_steps": n_steps, "width": width}
        for name, size in {**sizes, "n_layers": n_layers, "pool": pool}.items():
            check_int(name, size, low=1)
        if n_steps % pool:
            raise ValueError(f"pool must divide n_steps = {n_steps} without remainder, got {pool}.")
        check_choice("readout", readout, READOUTS)
        super().__init__(_Recurrent(n_channels, n_steps, width, n_layers, pool, readout), n_classes)


class LSTMLayer(nn.LSTM):
    r"""One LSTM layer, (N, T, C) -> (N, T, H), whose forget gate begins open.

    .. math::

        \begin{aligned}
        (\tilde\imath_t, \tilde f_t, \tilde g_t, \tilde o_t) &= W x_t + U h_{t-1} + b \\
        c_t &= \sigma(\tilde f_t)\, c_{t-1} + \sigma(\tilde\imath_t) \tanh(\tilde g_t) \\
        h_t &= \sigma(\tilde o_t) \tanh(c_t)
        \end{aligned}

    where

    - :math:`x_t`, shape (N, C): the input at step t; :math:`h_t, c_t`, shape (N, H): the hidden
      state, which is the output, and the cell state; both begin as 0;
    - :math:`W`, ``weight_ih_l0``, shape (4H, C), and :math:`U`, ``weight_hh_l0``, shape (4H, H):
      the rows of the input gate, the forget gate, the candidate and the output gate, in this order;
    - :math:`b`, shape (4H,): ``bias_ih_l0 + bias_hh_l0``, at first 1 for the forget gate.
    """

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__(n_in, width, batch_first=True)

    def reset_parameters(self) -> None:
        """Draw PyTorch's first weights, then open the forget gate."""
        super().reset_parameters()
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        with torch.no_grad():
            self.bias_ih_l0[forget] = 1.0
            self.bias_hh_l0[forget] = 0.0

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the hidden states of all steps, (N, T, H)."""
        states: Tensor = super().forward(x)[0]
        return states


class _Recurrent(nn.Module):
    def __init__(
        self, n_channels: int, n_steps: int, width: int, n_layers: int, pool: int, readout: str
    ) -> None:
        super().__init__()
        self.n_channels, self.n_steps, self.pool, self.readout = n_channels, n_steps, pool, readout
        self.n_features = width
        for i in range(n_layers):
            self.add_module(f"lstm{i + 1}", LSTMLayer(width if i else n_channels, width))
        self.hidden = nn.Linear(width, width)
        self.layers = tuple(name for name, _ in self.named_children())

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x)  # (N, T, C) -> (N, T / pool, C)
        for name in self.layers[:-1]:
            h = getattr(self, name)(h)  # -> (N, T / pool, width)
        return self.features(h)

    def read(self, x: Tensor) -> Tensor:
        """Return what the first LSTM layer gets."""
        check_windows(x, self.n_steps, self.n_channels)
        return x if self.pool == 1 else x.unflatten(1, (-1, self.pool)).mean(2)

    def features(self, h: Tensor) -> Tensor:
        """Return the features, (N, width), of the last LSTM layer's states."""
        window = h[:, -1] if self.readout == "last" else h.mean(1)  # (N, T, width) -> (N, width)
        return relu(self.hidden(window))


def check_windows(x: Tensor, n_steps: int, n_channels: int) -> None:
    """Raise unless x is (N, n_steps, n_channels) of floating-point numbers; on a CPU, finite."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}.")
    if x.ndim != 3 or x.shape[1:] != (n_steps, n_channels):
        remedy = " Cut or resample the windows to that length."
        if x.shape[1:] == (n_channels, n_steps):
            remedy = " Steps come before channels: x.transpose(1, 2)."
        elif x.ndim == 2:
            remedy = " Add the batch dimension: x[None]."
        elif x.ndim == 3 and x.shape[2] != n_channels:
            remedy = " Select the channels that the network was built for, or set n_channels."
        raise ValueError(
            f"x must be windows of shape (N, {n_steps}, {n_channels}): N windows, {n_steps} steps, "
            f"{n_channels} channels; got {shape_of(x)}.{remedy}"
        )
    if not x.is_floating_point():
        raise TypeError(f"x must hold floating-point numbers, got {x.dtype}: use x.float().")
    if readable(x) and not sum_is_finite(x):
        check_float_tensor("x", x)
