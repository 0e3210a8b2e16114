r"""Progressive networks: a new column for each task, which reads the frozen ones.

Nothing is forgotten, since nothing old is touched. What was learnt is used all the same: each
layer of the new column also receives the layers below it of all earlier columns, through an adapter
that is trained along with it (Rusu et al., 2016). The price is a network that grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_choice, check_dtype, check_int, shape_of
from tlcourse.models.classifier import check_images

KINDS = ("mlp", "conv")
ADAPTERS = ("mlp", "linear")


class ProgressiveNetwork(nn.Module):
    r"""A network that grows by a column for each task.

    With ``adapter="linear"``, layer i of column k is

    .. math:: h_i^{(k)} = f\!\left( W_i^{(k)} h_{i-1}^{(k)}
              + \sum_{j<k} U_i^{(k:j)} h_{i-1}^{(j)} \right)

    and with ``adapter="mlp"``, the adapter has a hidden layer,

    .. math:: h_i^{(k)} = f\!\left( W_i^{(k)} h_{i-1}^{(k)}
              + U_i^{(k)} f\big( V_i^{(k)} [\alpha_{i-1}^{(j)} h_{i-1}^{(j)}]_{j<k} \big) \right)

    where

    - :math:`h_i^{(k)}`: column k's activations after layer i; "mlp" columns: (N, n_i), "conv"
      columns: (N, n_i, H, W); :math:`h_0` is the input, the same for all columns;
    - :math:`f`: ReLU; the last layer, which makes the logits, has none;
    - :math:`W_i^{(k)}`: the column's own layer, with bias;
    - :math:`[\cdot]_{j<k}`: the earlier columns' activations, side by side;
    - :math:`\alpha_{i-1}^{(j)}`: a learnt scalar for each earlier column and layer; it begins as a
      small random number, and evens out the columns' different scales;
    - :math:`V_i^{(k)}`: projects them to :math:`n_{i-1}` numbers (a 1 x 1 convolution in "conv"
      columns), so that a column grows only linearly with the columns before it;
    - :math:`U_i^{(k)}`: of the form of W, without bias.

    The first layer has no adapter: below it there is the input alone.

    A "conv" column has 3 x 3 convolutions with stride 2, and BatchNorm on the sum inside f; behind
    the last one the maps are averaged over space. "mlp" columns flatten their input.

    Only the newest column learns. Earlier ones are frozen by :meth:`add_column`: no gradient, no
    momentum, evaluation mode through every ``train()``, so that BatchNorm rests as well.

    Parameters
    ----------
    n_inputs
        Numbers a sample ("mlp") or channels of an image ("conv").
    widths
        :math:`n_1, n_2, \dots`: units or channels of the hidden layers, one or more. All columns
        have the same.
    kind
        ``"mlp"`` or ``"conv"``.
    adapter
        ``"mlp"`` or ``"linear"``.

    Attributes
    ----------
    columns : torch.nn.ModuleList
        The columns, oldest first; ``columns[-1].parameters()`` are what an optimiser should hold.

    Raises
    ------
    TypeError, ValueError
        If a width is no positive integer, or a choice is misspelt.

    References
    ----------
    Rusu et al., Progressive Neural Networks, 2016, equations 1 and 2. In the chapter:
    ``eq-progressive-linear`` and ``eq-progressive-adapter``.

    Examples
    --------
    >>> net = ProgressiveNetwork(4, (8, 8))
    >>> net.add_column(3)
    0
    >>> _ = net.eval()  # when column 0 has been trained
    >>> net.add_column(2)
    1
    >>> x = torch.rand(5, 4)
    >>> net(x).shape, net(x, column=0).shape
    (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        n_inputs: int,
        widths: Sequence[int],
        *,
        kind: str = "mlp",
        adapter: str = "mlp",
    ) -> None:
        check_int("n_inputs", n_inputs, low=1)
        check_choice("kind", kind, KINDS)
        check_choice("adapter", adapter, ADAPTERS)
        if isinstance(widths, str) or not isinstance(widths, Sequence) or len(widths) == 0:
            raise ValueError(f"widths must be one or more integers, got {widths!r}.")
        for i, width in enumerate(widths):
            check_int(f"widths[{i}]", width, low=1)
        super().__init__()
        self.n_inputs, self.widths = n_inputs, tuple(widths)
        self.kind, self.adapter = kind, adapter
        self.columns = nn.ModuleList()

    def add_column(self, n_outputs: int) -> int:
        """Freeze the columns that are there and add a new one; return its number.

        A network that is in training is refused: ``training`` says so, from ``train()`` to
        ``eval()``. A column that is added in the middle would freeze the one that learns half way,
        and the optimiser would not know the new one. The first column can always be added.

        Parameters
        ----------
        n_outputs
            Classes of the new task, at least 2.

        Raises
        ------
        RuntimeError
            If the network is in training.
        TypeError, ValueError
            If ``n_outputs`` is no integer of at least 2, or the newest column holds NaN: frozen, it
            would spoil all later ones.
        """
        check_int("n_outputs", n_outputs, low=2)
        if len(self.columns) > 0:
            newest = self._column(-1)
            if self.training:
                raise RuntimeError(
                    f"The network is in training: adding a column would freeze column "
                    f"{len(self.columns) - 1} as it is. Finish its training, call .eval(), then "
                    "add the column and make a new optimiser over columns[-1].parameters()."
                )
            for name, tensor in newest.state_dict().items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise ValueError(
                        f"columns[{len(self.columns) - 1}].{name} holds NaN or infinite values. "
                        "Train that column again with a smaller learning rate before adding one."
                    )
            newest.freeze()
        column = _Column(
            self.kind, self.n_inputs, self.widths, n_outputs, len(self.columns), self.adapter
        )
        if len(self.columns) > 0:
            column.to(next(self.columns[-1].parameters()))  # the device and dtype of the others
        self.columns.append(column.train(self.training))
        return len(self.columns) - 1

    def forward(self, x: Tensor, column: int = -1) -> Tensor:
        """Return a column's logits, (N, K_column); the newest one's unless another is named.

        Columns after it are not computed.
        """
        last = self._column(column)
        self._check_input(x)
        used = [c for c in self.columns[: self._index(column) + 1] if isinstance(c, _Column)]
        if self.kind == "mlp":
            x = x.flatten(1)  # (N, ...) -> (N, n_0)
        h = [x] * len(used)
        for i in range(len(self.widths)):
            h = [c.hidden(i, h[k], h[:k]) for k, c in enumerate(used)]  # (N, n_i, ...) each
        if self.kind == "conv":
            h = [maps.mean((2, 3)) for maps in h]  # (N, n_L, H, W) -> (N, n_L)
        logits: Tensor = last.output(h[-1], h[:-1])
        return logits

    def classifier(self, column: int) -> nn.Module:
        """Return the network of one column: it shares all, and its forward takes inputs alone."""
        return _AsClassifier(self, self._index(column))

    def _index(self, column: int) -> int:
        n = len(self.columns)
        if isinstance(column, bool) or not isinstance(column, int):
            raise TypeError(f"column must be an integer, got {column!r} ({type(column).__name__}).")
        if n == 0:
            raise ValueError("The network has no column yet: call add_column(n_outputs) first.")
        if not -n <= column < n:
            raise ValueError(
                f"column is {column}; there are {n} columns, 0 to {n - 1} (or -1 for the newest)."
            )
        return column % n

    def _column(self, column: int) -> _Column:
        found = self.columns[self._index(column)]
        assert isinstance(found, _Column)
        return found

    def _check_input(self, x: Tensor) -> None:
        if self.kind == "conv":
            check_images(x, self.n_inputs)
            return
        check_dtype("x", x)
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.n_inputs:
            raise ValueError(
                f"x must have {self.n_inputs} numbers a sample, got shape {shape_of(x)}."
            )


class _Column(nn.Module):
    def __init__(
        self,
        kind: str,
        n_inputs: int,
        widths: tuple[int, ...],
        n_outputs: int,
        n_earlier: int,
        adapter: str,
    ) -> None:
        super().__init__()
        self.frozen = False
        sizes = (n_inputs, *widths)
        self.layers = nn.ModuleList(
            _Layer(kind, n_in, n_out, n_earlier if i > 0 else 0, adapter)
            for i, (n_in, n_out) in enumerate(zip(sizes, widths, strict=False))
        )
        self.output = _Layer("mlp", widths[-1], n_outputs, n_earlier, adapter)

    def hidden(self, i: int, own: Tensor, earlier: list[Tensor]) -> Tensor:
        return torch.relu(self.layers[i](own, earlier))

    def freeze(self) -> None:
        self.requires_grad_(False)
        for parameter in self.parameters():
            parameter.grad = None  # an optimiser skips None; zeros it moves on by its momentum
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> _Column:
        super().train(mode and not self.frozen)
        return self


class _Layer(nn.Module):
    """A column's own layer and its adapter: the sum that f is applied to."""

    def __init__(self, kind: str, n_in: int, n_out: int, n_earlier: int, adapter: str) -> None:
        super().__init__()
        self.own = _like_w(kind, n_in, n_out, bias=kind == "mlp")  # W
        self.adapter = (
            None
            if n_earlier == 0
            else (_MLPAdapter if adapter == "mlp" else _LinearAdapter)(kind, n_in, n_out, n_earlier)
        )
        self.norm = nn.BatchNorm2d(n_out) if kind == "conv" else nn.Identity()

    def forward(self, own: Tensor, earlier: list[Tensor]) -> Tensor:
        total = self.own(own)  # (N, n_in, ...) -> (N, n_out, ...)
        if self.adapter is not None:
            total = total + self.adapter(earlier)
        normed: Tensor = self.norm(total)
        return normed


class _LinearAdapter(nn.Module):
    # The sum over j of U^(k:j) h^(j) is one matrix times the activations side by side.
    def __init__(self, kind: str, n_in: int, n_out: int, n_earlier: int) -> None:
        super().__init__()
        self.U = _like_w(kind, n_earlier * n_in, n_out, bias=False)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        summed: Tensor = self.U(torch.cat(earlier, dim=1))
        return summed


class _MLPAdapter(nn.Module):
    def __init__(self, kind: str, n_in: int, n_out: int, n_earlier: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(n_earlier).uniform_(0.05, 0.15))
        self.V = (
            nn.Linear(n_earlier * n_in, n_in)
            if kind == "mlp"
            else nn.Conv2d(n_earlier * n_in, n_in, 1)
        )
        self.U = _like_w(kind, n_in, n_out, bias=False)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        # V [alpha_j h_j] is the sum of (alpha_j V_j) h_j, V_j the columns of V that h_j meets: the
        # same numbers, and no scaled copy of all activations side by side.
        V = self.V.weight.chunk(len(earlier), dim=1)  # (n_in, n_in, ...) each
        apply = F.linear if V[0].ndim == 2 else F.conv2d
        projected = apply(earlier[0], self.alpha[0] * V[0], self.V.bias)  # (N, n_in, ...)
        for alpha, V_j, h in zip(self.alpha[1:], V[1:], earlier[1:], strict=True):
            projected = projected + apply(h, alpha * V_j)
        lateral: Tensor = self.U(torch.relu(projected))
        return lateral


class _AsClassifier(nn.Module):
    def __init__(self, network: ProgressiveNetwork, column: int) -> None:
        super().__init__()
        self.network, self.column = network, column

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x, column=self.column)
        return logits


def _like_w(kind: str, n_in: int, n_out: int, *, bias: bool) -> nn.Module:
    if kind == "mlp":
        return nn.Linear(n_in, n_out, bias=bias)
    return nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=bias)
