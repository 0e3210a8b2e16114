r"""Low-rank adapters: a frozen weight, and a product of two narrow matrices that learns beside it.

The change that fine-tuning makes to a weight matrix is taken to be of low rank. So the matrix stays
as it is, and only the change is learnt, in its two factors: a small part of the numbers. After the
training it is added to the matrix, and the network costs what it cost before (Hu et al., 2022).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tlcourse._checks import check_int, check_number
from tlcourse.finetuning._parts import Part, parameters_of, part_names
from tlcourse.finetuning.freeze import freeze


class LowRank(nn.Module):
    r"""The weight of a layer with a change of low rank: see :func:`add_adapters`.

    Attributes
    ----------
    A
        (r, in), drawn from a normal distribution of variance 1 / in.
    B
        (out, r), zeros at first.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        n_in = weight[0].numel()
        self.A = nn.Parameter(weight.new_empty(rank, n_in).normal_() / n_in**0.5)
        self.B = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.scale = alpha / rank

    def forward(self, W: Tensor) -> Tensor:
        """Return W' = W + (alpha / r) B A, of the shape of W."""
        change = self.scale * self.B @ self.A  # (out, r), (r, in) -> (out, in)
        return W + change.view_as(W)


def add_adapters(
    model: nn.Module, parts: Part, rank: int = 4, alpha: float | None = None
) -> list[nn.Parameter]:
    r"""Freeze parts of a network, and give every linear and convolutional layer there an adapter.

    .. math:: W' = W + \frac{\alpha}{r}\, B A

    where

    - :math:`W`, shape (out, in): the frozen weight. A convolution (out, c, h, w) counts as a matrix
      with in = c h w;
    - :math:`A`, (r, in), and :math:`B`, (out, r): what learns, r (in + out) numbers in place of
      in times out. B starts at 0, so that at first nothing has changed;
    - :math:`\alpha / r`: a fixed factor. With it, the size of the change hangs little on r.

    Parameters
    ----------
    model
        Changed in place. What lies outside the parts, such as a new head, learns as before.
    parts
        The name of a submodule, or a list of names. All else in them is frozen, biases and
        BatchNorm's statistics too, as by :func:`~tlcourse.finetuning.freeze`.
    rank
        r, at least 1. A layer whose matrix has fewer rows or columns keeps this r.
    alpha
        Above 0. None takes r, a factor of 1.

    Returns
    -------
    list of Parameter
        Every A and B, for an optimiser.

    Raises
    ------
    TypeError, ValueError
        If a name is not in the model, a part has no linear or convolutional layer, one has an
        adapter already, or a number is out of range. The model is then as it was.

    Notes
    -----
    The paper draws A from a normal distribution and does not say how wide; its library takes a
    uniform one of a third of our variance. Its experiments adapt the attention weights of
    transformers and leave out the rest; convolutions are taken as matrices in its library, too.
    The adapter is a parametrisation of torch: ``layer.weight`` is W', and ``state_dict`` has
    ``parametrizations.weight.original``, which is W, beside A and B.

    References
    ----------
    Hu et al. (2022), LoRA, section 4.1. In the chapter: ``eq-low-rank``, ``eq-low-rank-count``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    >>> learns = add_adapters(model, "0", rank=2)
    >>> sum(p.numel() for p in learns), model[0].weight.numel()
    (256, 4096)
    >>> merge_adapters(model)
    >>> model[0]
    Linear(in_features=64, out_features=64, bias=True)
    """
    check_int("rank", rank, low=1)
    if alpha is not None:
        check_number("alpha", alpha, above=0)
    (names,) = part_names("parts", [parts])
    parameters_of(model, "parts", names)
    modules = dict(model.named_modules())
    layers: dict[nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, None] = {}
    for name in names:
        found = [
            layer
            for layer in modules.get(name, nn.Identity()).modules()
            if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        ]
        if not found:
            raise ValueError(
                f"parts names {name!r}, which holds no linear or convolutional layer: there is "
                "nothing to adapt. Name a part that has one."
            )
        layers.update(dict.fromkeys(found))
    if any(_adapters(layer) for layer in layers):
        raise ValueError(
            "parts names a layer that has an adapter already: a second one would make another "
            "rank of it. Call merge_adapters(model) first, or name other parts."
        )
    for name in names:
        freeze(modules[name])
    learns: list[nn.Parameter] = []
    for layer in layers:
        low_rank = LowRank(layer.weight, rank, rank if alpha is None else alpha)
        parametrize.register_parametrization(layer, "weight", low_rank)
        learns += [low_rank.A, low_rank.B]
    return learns


def merge_adapters(model: nn.Module) -> None:
    """Add every adapter's change to its weight and take the adapter away.

    The network computes what it computed before, to rounding, at its old cost. Weights are frozen
    as before; :func:`~tlcourse.finetuning.unfreeze` lets them learn.

    Parameters
    ----------
    model
        Changed in place.

    Raises
    ------
    TypeError, ValueError
        If ``model`` is no module, or has no adapter.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    adapted = [layer for layer in model.modules() if _adapters(layer)]
    if not adapted:
        raise ValueError("model has no adapter to merge: add_adapters(model, parts) puts them in.")
    for layer in adapted:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _adapters(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    parts = layer.get_submodule("parametrizations.weight").children()
    return any(isinstance(part, LowRank) for part in parts)
