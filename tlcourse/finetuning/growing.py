r"""Growing a network: new units beside the old ones, or a new layer on top, and then fine-tuning.

Fine-tuning keeps the number of units that the source needed. Here the target gets some of its own:
in width, where units are set beside those of a layer, or in depth, where a layer is set between the
features and the head. New units answer more weakly or more strongly than trained ones. So both
groups can be brought to one length, and each unit learns its own size (Wang et al., 2017).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_choice, check_dtype, check_int, check_number, shape_of
from tlcourse.finetuning._parts import parameters_of
from tlcourse.models import Classifier

INITS = ("rand", "copy+rand")


class NormalizedScale(nn.Module):
    r"""Bring the activations of a group of units to one length, and let every unit learn its size.

    .. math:: \hat{h} = \gamma \odot \frac{h}{\|h\|_2}

    where :math:`h`, shape (N, D), are the activations of a group for one sample each, and
    :math:`\gamma`, (D,), is learnt. Where all of a group are 0, so is the result.

    Parameters
    ----------
    width
        D, at least 1.
    gamma
        What all of :math:`\gamma` begin with, above 0. With the square root of D, the activations
        have a mean square of 1.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; in ``forward``, if h is not (N, D) of floating-point numbers.

    References
    ----------
    Wang, Ramanan and Hebert, Growing a Brain, 2017. In the chapter:
    ``eq-normalized-scale``.

    Examples
    --------
    >>> NormalizedScale(2, gamma=10.0)(torch.tensor([[3.0, 4.0]]))
    tensor([[6., 8.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, width: int, gamma: float) -> None:
        check_int("width", width, low=1)
        check_number("gamma", gamma, above=0)
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), float(gamma)))

    def forward(self, h: Tensor) -> Tensor:
        """Return the scaled activations, (N, D)."""
        check_dtype("h", h)
        if h.ndim != 2 or h.shape[1] != len(self.gamma):
            raise ValueError(
                f"h must have shape (N, {len(self.gamma)}), the units that were normalised "
                f"together; got {shape_of(h)}."
            )
        return self.gamma * F.normalize(h, dim=1)


class Widened(nn.Module):
    """A layer and new units beside it: x -> the old units' activations, then the new ones'."""

    def __init__(self, old: nn.Module, new: nn.Module, scales: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.old, self.new = old, new
        self.old_scale, self.new_scale = scales

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, D + S) activations."""
        return torch.cat([self.old_scale(self.old(x)), self.new_scale(self.new(x))], dim=1)


class Deepened(nn.Module):
    """A layer and a new one on top of it: x -> the new units' activations."""

    def __init__(self, old: nn.Module, new: nn.Module, scales: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.old, self.new = old, new
        self.old_scale, self.new_scale = scales

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, S) activations."""
        h: Tensor = self.new_scale(self.new(self.old_scale(self.old(x))))  # (N, D) -> (N, S)
        return h


def widen(
    model: nn.Module,
    layer: str,
    extra: int,
    *,
    init: str = "rand",
    noise: float = 0.1,
    gamma: float | None = None,
    reader: str = "head",
) -> Widened:
    r"""Set new units beside those of a layer; the layer that reads them gets a column for each.

    .. math:: h = \begin{bmatrix} f(W x + b) \\ f(W^{+} x + b^{+}) \end{bmatrix}, \qquad
        z = \begin{bmatrix} V & V^{+} \end{bmatrix} h + c

    where

    - :math:`W`, (D, in), and :math:`b`, (D,): the layer; :math:`W^{+}`, (S, in), and :math:`b^{+}`:
      the ``extra`` = S new units;
    - :math:`f`: what the layer does after its linear map, such as a ReLU;
    - :math:`V`, (K, D), and c, (K,): the reader; :math:`V^{+}`, (K, S), begins at 0. Without
      ``gamma`` the grown network therefore computes what it computed before.

    Parameters
    ----------
    model
        Changed in place. The layer becomes a module with the parts ``old`` and ``new``, by which
        names they can be frozen or get a rate of their own.
    layer
        The name of a linear layer, or of a sequence that holds one and no other parameters.
    extra
        S, at least 1.
    init
        ``"rand"``: PyTorch's first weights. ``"copy+rand"``: those of the first S old units, from
        the first again where S is above D, plus noise.
    noise
        For ``"copy+rand"``: the standard deviation of what is added to the weights, in units of the
        root mean square of the layer's. Above 0, or two copies of one unit would stay twins.
    gamma
        If given, the old and the new units are normalised, each group for itself, and scaled from
        this size on: see :class:`NormalizedScale`.
    reader
        The name of the linear layer that gets these units.

    Returns
    -------
    Widened
        The module that now stands in the layer's place.

    Raises
    ------
    TypeError, ValueError
        If a name is not in the model or is of a layer of another kind, the reader does not read
        D numbers, or a number is out of range. The model is then as it was.

    References
    ----------
    Wang, Ramanan and Hebert (2017). In the chapter: ``eq-widen``.

    Examples
    --------
    >>> from tlcourse.models import MLP
    >>> model, x = MLP((16, 8, 3)), torch.rand(2, 16)
    >>> before = model(x)
    >>> _ = widen(model, "backbone.hidden1", 4)
    >>> model.head.in_features, torch.equal(model(x), before)
    (12, True)
    """
    check_choice("init", init, INITS)
    check_int("extra", extra, low=1)
    check_number("noise", noise, above=0)
    old, linear, read = _found(model, layer, reader)
    scales = _scales(linear.out_features, extra, gamma)
    fresh = nn.Linear(linear.in_features, extra, bias=linear.bias is not None)
    if init == "copy+rand":
        rows = torch.arange(extra) % linear.out_features
        W = linear.weight[rows]  # (S, in)
        with torch.no_grad():
            spread = linear.weight.square().mean().sqrt()
            fresh.weight.copy_(W + noise * spread * torch.randn_like(W))
            if linear.bias is not None:
                fresh.bias.copy_(linear.bias[rows])
    grown = Widened(old, _with(old, linear, fresh), scales).to(linear.weight).train(old.training)
    wider = _reader(read, linear.out_features + extra)
    with torch.no_grad():
        wider.weight.zero_()
        wider.weight[:, : linear.out_features] = read.weight
        if read.bias is not None:
            wider.bias.copy_(read.bias)
    _put(model, layer, grown, reader, wider)
    return grown


def deepen(
    model: nn.Module,
    layer: str,
    width: int,
    *,
    gamma: float | None = None,
    reader: str = "head",
) -> Deepened:
    r"""Set a new layer of units on top of a layer; its reader begins anew.

    .. math:: h^{+} = f(W^{+} h + b^{+}), \qquad z = V h^{+} + c

    where :math:`h`, (D,), are the layer's activations, :math:`W^{+}`, (S, D), and :math:`b^{+}` are
    the new layer, f is what the old layer does after its linear map, and the reader's
    :math:`V`, (K, S), and c begin with PyTorch's first weights.

    Parameters
    ----------
    model, layer, reader
        As of :func:`widen`.
    width
        S, at least 1.
    gamma
        If given, the activations of both layers are normalised, each for itself, and scaled.

    Returns
    -------
    Deepened
        The module that now stands in the layer's place.

    Raises
    ------
    TypeError, ValueError
        As of :func:`widen`.

    References
    ----------
    Wang, Ramanan and Hebert (2017). In the chapter: ``eq-deepen``.

    Examples
    --------
    >>> from tlcourse.models import MLP
    >>> model = MLP((16, 8, 3))
    >>> deepen(model, "backbone.hidden1", 5).new
    Sequential(
      (linear): Linear(in_features=8, out_features=5, bias=True)
      (relu): ReLU()
      (dropout): Dropout(p=0.0, inplace=False)
    )
    """
    check_int("width", width, low=1)
    old, linear, read = _found(model, layer, reader)
    scales = _scales(linear.out_features, width, gamma)
    fresh = nn.Linear(linear.out_features, width, bias=linear.bias is not None)
    grown = Deepened(old, _with(old, linear, fresh), scales).to(linear.weight).train(old.training)
    _put(model, layer, grown, reader, _reader(read, width))
    return grown


def _found(model: nn.Module, layer: str, reader: str) -> tuple[nn.Module, nn.Linear, nn.Linear]:
    for name, value in (("layer", layer), ("reader", reader)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be the name of a submodule, got {value!r}.")
        parameters_of(model, name, (value,))
    modules = dict(model.named_modules())
    old, read = modules.get(layer), modules.get(reader)
    linear = None if old is None else _linear(old)
    if old is None or linear is None:
        raise ValueError(
            f"layer names {layer!r}, which is {_kind(old)}: only a linear layer can grow, or a "
            "sequence with one and no other parameters. Convolutions keep their channels."
        )
    if type(read) is not nn.Linear or read.in_features != linear.out_features:
        raise ValueError(
            f"reader names {reader!r}, which is {_kind(read)}: it must be the linear layer that "
            f"reads the {linear.out_features} units of {layer!r}."
        )
    return old, linear, read


def _linear(layer: nn.Module) -> nn.Linear | None:
    """Return the linear layer itself, or the one in a sequence of it and what has no weights."""
    inner = [m for m in layer.modules() if any(True for _ in m.parameters(recurse=False))]
    plain = isinstance(layer, (nn.Linear, nn.Sequential))
    only = inner[0] if plain and len(inner) == 1 else None
    return only if type(only) is nn.Linear else None


def _kind(layer: nn.Module | None) -> str:
    if layer is None:
        return "a parameter"
    if isinstance(layer, nn.Linear):
        return f"a linear layer of {layer.in_features} inputs"
    return f"of the kind {type(layer).__name__}"


def _with(layer: nn.Module, linear: nn.Linear, fresh: nn.Linear) -> nn.Module:
    """Return a copy of a layer with another linear map in it."""
    # deepcopy takes what it is told of as copied already.
    return copy.deepcopy(layer, {id(linear): fresh})


def _reader(read: nn.Linear, n_in: int) -> nn.Linear:
    return nn.Linear(n_in, read.out_features, bias=read.bias is not None).to(read.weight)


def _scales(n_old: int, n_new: int, gamma: float | None) -> tuple[nn.Module, nn.Module]:
    if gamma is None:
        return nn.Identity(), nn.Identity()
    return NormalizedScale(n_old, gamma), NormalizedScale(n_new, gamma)


def _put(model: nn.Module, layer: str, grown: nn.Module, reader: str, read: nn.Linear) -> None:
    for name, module in ((layer, grown), (reader, read.train(model.training))):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)
    if isinstance(model, Classifier) and reader == "head":
        model.backbone.n_features = read.in_features  # type: ignore[assignment]
