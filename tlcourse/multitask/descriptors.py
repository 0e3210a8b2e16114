r"""Describe an image by the histograms of its filter responses, and compare two descriptions.

A histogram forgets where an edge is and keeps how many there are, and how strong. That is what
"low-level characteristics" means in selective joint fine-tuning (Ge and Yu, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tlcourse._checks import check_float_tensor, check_int, check_number, shape_of
from tlcourse.multitask.filters import Responses, key_of

EPSILON = 1e-4
MARK = "bank_key"  # attribute of what describe returns: the key of the bank and its edges


class Bank(Protocol):
    """What `describe` takes: `GaborBank`, `ConvBank`, or anything that answers as they do."""

    n_filters: int

    @property
    def key(self) -> str:
        """What tells this bank from others."""
        ...

    def __call__(self, images: Tensor) -> Responses:
        """Return the responses to (N, C, H, W) images."""
        ...


@dataclass(frozen=True)
class BinEdges:
    """The inner edges of every filter's bins.

    Attributes
    ----------
    values
        (F, bins - 1), rising along each row. The first bin has no lower edge and the last no upper
        one, so that an outlier falls into the bin at its end.
    bank
        The key of the bank whose responses they were fitted on; empty if that is not known.
    """

    values: Tensor
    bank: str = ""

    @property
    def bins(self) -> int:
        """The number of bins."""
        return self.values.shape[1] + 1


def fit_bin_edges(responses: Responses | Tensor | Sequence[Tensor], bins: int = 100) -> BinEdges:
    r"""Return bins of equal mass: each holds as many of a filter's responses as any other.

    .. math:: e_{f,j} = Q_f \left( \frac{j}{B} \right), \qquad j = 1, \dots, B - 1

    where

    - :math:`Q_f`: the quantile function of all responses of filter f, over images and positions;
    - :math:`B`, ``bins``.

    Fit them on the **source** images. Of equally wide bins, nearly all responses would share the
    few around 0. Equal mass cannot split responses that are exactly equal, such as those to a flat
    black ground: they share one bin, and some of its neighbours stay empty.

    Parameters
    ----------
    responses
        Of a bank, or (N, F, H, W) tensors, one for every layer.
    bins
        B, at least 2. 100 suit images of some hundred pixels; a map of 16 x 16 has 256 responses,
        and asks for fewer bins.

    Raises
    ------
    TypeError, ValueError
        If a map has another shape, holds NaN, or has fewer responses than bins.

    References
    ----------
    Ge and Yu (2017), section 3. In the chapter: ``eq-bin-edges``.

    Examples
    --------
    >>> responses = torch.arange(12.0).view(3, 1, 2, 2)
    >>> fit_bin_edges(responses, bins=4).values
    tensor([[2.7500, 5.5000, 8.2500]])
    """
    check_int("bins", bins, low=2)
    bank = responses.bank if isinstance(responses, Responses) else ""
    maps = [responses] if isinstance(responses, Tensor) else list(responses)
    if not maps:
        raise ValueError("responses is empty: it takes a map (N, F, H, W) for every layer.")
    edges = []
    for i, layer in enumerate(maps):
        check_float_tensor(f"responses[{i}]", layer)
        if layer.ndim != 4:
            raise ValueError(f"responses[{i}] must have shape (N, F, H, W), got {shape_of(layer)}.")
        values = layer.detach().transpose(0, 1).flatten(1)  # (F, N H W)
        n = values.shape[1]
        if n < bins:
            raise ValueError(f"responses[{i}] has {n} values for {bins} bins: take fewer bins.")
        ordered = values.sort(dim=1).values
        at = torch.arange(1, bins, dtype=torch.float64) * (n - 1) / bins  # where the quantiles lie
        low = at.long()
        part = (at - low).to(values)
        high = (low + 1).clamp(max=n - 1)
        edges.append(torch.lerp(ordered[:, low], ordered[:, high], part))  # (F, bins - 1)
    return BinEdges(torch.cat(edges), bank)


def describe(images: Tensor, bank: Bank, edges: BinEdges, *, batch_size: int = 256) -> Tensor:
    r"""Return the histogram of every filter's responses to every image.

    .. math:: \phi_{f,b} = \frac{1}{H W} \left| \{ (i, j) : r_{f,i,j} \text{ in bin } b \} \right|

    where

    - :math:`r_f`: the responses of filter f to the image, on H x W positions;
    - :math:`\phi`, the result, (N, F, bins): every histogram sums to 1.

    The tensor is marked with its bank and edges, in the attribute ``bank_key``, so that it is not
    compared with descriptors of others. What is made of it, a slice or a copy on another device,
    does not have the mark and is not checked for this.

    Give it the images as they are. A mirrored copy has other edges, so that a picture would not
    even find itself.

    Parameters
    ----------
    images
        (N, C, H, W).
    bank
        `GaborBank` or `ConvBank`.
    edges
        Fitted on responses of this bank.
    batch_size
        Images at a time; it changes memory only.

    Raises
    ------
    TypeError, ValueError
        If the images are no (N, C, H, W) tensor, or the edges are those of another bank.

    References
    ----------
    Ge and Yu (2017), section 3. In the chapter: ``eq-descriptor``.

    Examples
    --------
    >>> from tlcourse.multitask import GaborBank
    >>> bank, images = GaborBank(orientations=2, wavelengths=(4.0,)), torch.rand(5, 1, 16, 16)
    >>> edges = fit_bin_edges(bank(images), bins=10)
    >>> phi = describe(images, bank, edges)
    >>> phi.shape
    torch.Size([5, 4, 10])
    """
    check_int("batch_size", batch_size, low=1)
    if not isinstance(edges, BinEdges):
        raise TypeError(f"edges must come from fit_bin_edges, got {type(edges).__name__}.")
    if edges.bank not in ("", bank.key) or len(edges.values) != bank.n_filters:
        raise ValueError(
            f"edges are those of another bank ({edges.bank or 'unknown'}, {len(edges.values)} "
            f"filters) than this one ({bank.key}, {bank.n_filters} filters): fit them on its own "
            "responses, fit_bin_edges(bank(source.images))."
        )
    if not isinstance(images, Tensor):
        bank(images)  # says what it takes
    bins, parts = edges.bins, []
    for batch in images.split(batch_size):
        first, histograms = 0, []
        for layer in bank(batch):
            n, filters, height, width = layer.shape
            values = layer.cpu().transpose(0, 1).reshape(filters, -1)  # (F, n H W)
            inner = edges.values[first : first + filters].contiguous()
            place = torch.searchsorted(inner, values.contiguous(), right=True)  # 0 .. bins - 1
            # One count for every (image, filter, bin): give each its own number.
            image = torch.arange(n).repeat_interleave(height * width)  # (n H W,)
            number = (image * filters + torch.arange(filters)[:, None]) * bins + place
            counts = number.flatten().bincount(minlength=n * filters * bins)
            histograms.append(counts.view(n, filters, bins) / (height * width))
            first += filters
        parts.append(torch.cat(histograms, dim=1))
    descriptors = torch.cat(parts)
    setattr(descriptors, MARK, key_of(bank.key, [edges.values]))
    return descriptors


def histogram_distance(
    a: Tensor, b: Tensor, weights: Tensor | None = None, *, epsilon: float = EPSILON
) -> Tensor:
    r"""Return the symmetric Kullback-Leibler distance between all pairs of descriptors.

    .. math:: d(a, b) = \sum_f w_f\, \tfrac{1}{2} \left[ \mathrm{KL}(a_f \| b_f)
              + \mathrm{KL}(b_f \| a_f) \right]
              = \tfrac{1}{2} \sum_f w_f \sum_k (a_{fk} - b_{fk}) (\log a_{fk} - \log b_{fk})

    where

    - a and b: (Na, F, bins) and (Nb, F, bins), histograms that sum to 1; :math:`\varepsilon` is
      added to every bin before they are made to sum to 1 again, so that an empty bin is finite;
    - :math:`w_f`, ``weights``: (F,), 1 / F each unless given; a bank's ``.weights`` gives each
      layer the same share.

    It is 0 for equal descriptors, up to rounding, in nats, and no metric: its square root is not
    one either. The product under the sum is bilinear, so all pairs are two matrix products.

    Parameters
    ----------
    a, b
        Descriptors of one bank with one set of edges, of one dtype.
    weights
        (F,), at least 0 each.
    epsilon
        Above 0, and no smaller than the dtype's smallest normal number. The smaller, the more a bin
        counts that is empty in one of the two.

    Returns
    -------
    Tensor
        (Na, Nb).

    Raises
    ------
    TypeError, ValueError
        If a and b differ in dtype, filters or bins, or are marked as those of different banks or
        edges (see :func:`describe`; one without a mark is not checked for this); if they are no
        histograms, or a setting is wrong.

    References
    ----------
    Ge and Yu (2017), section 3. In the chapter: ``eq-histogram-distance``.

    Examples
    --------
    >>> a = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]])
    >>> histogram_distance(a, a).round(decimals=3)
    tensor([[0.0000, 0.4390],
            [0.4390, 0.0000]])
    """
    a_terms, b_terms = smoothed(a, weights, epsilon, "a"), smoothed(b, weights, epsilon, "b")
    check_one_bank("a", a, "b", b)
    return pairwise(a_terms, b_terms)


@dataclass(frozen=True)
class Smoothed:
    """Descriptors made ready for the distance.

    Attributes
    ----------
    p, log_p
        (N, F bins): the histograms and their logarithms, each times the root of its weight.
    self_term
        (N,): the sum of p log p.
    """

    p: Tensor
    log_p: Tensor
    self_term: Tensor


def smoothed(
    descriptors: Tensor, weights: Tensor | None, epsilon: float, name: str = "descriptors"
) -> Smoothed:
    """Return what :func:`pairwise` takes, after the checks that every use needs."""
    check_descriptors(name, descriptors)
    # Below the smallest normal number epsilon rounds to 0, and the log of an empty bin is infinite.
    check_number("epsilon", epsilon, above=0, low=torch.finfo(descriptors.dtype).tiny)
    _, filters, bins = descriptors.shape
    if weights is None:
        weights = torch.full((filters,), 1 / filters, dtype=descriptors.dtype)
    check_float_tensor("weights", weights)
    if weights.shape != (filters,) or bool((weights < 0).any()):
        raise ValueError(
            f"weights must be {filters} numbers of at least 0, one for every filter; "
            f"got shape {shape_of(weights)}."
        )
    p = (descriptors + epsilon) / (1 + bins * epsilon)  # (N, F, bins)
    root = weights.to(p).sqrt()[:, None]
    log_p = (root * p.log()).flatten(1)
    p = (root * p).flatten(1)
    return Smoothed(p, log_p, (p * log_p).sum(1))


def pairwise(a: Smoothed, b: Smoothed) -> Tensor:
    """Return the distances of all pairs, (Na, Nb)."""
    crossed = a.p @ b.log_p.mT + a.log_p @ b.p.mT  # (Na, Nb)
    return (0.5 * (a.self_term[:, None] + b.self_term - crossed)).clamp(min=0)


def check_descriptors(name: str, value: Tensor) -> None:
    """Raise unless ``value`` is (N, F, bins) of histograms that sum to 1."""
    check_float_tensor(name, value)
    if value.ndim != 3 or value.numel() == 0:
        raise ValueError(f"{name} must have shape (N, F, bins), got {shape_of(value)}.")
    worst = (value.sum(-1) - 1).abs().max().item()
    if worst > 1e-3 or value.min().item() < 0:
        raise ValueError(
            f"{name} must hold histograms that sum to 1, as describe returns them; one is off by "
            f"{worst:g}, and the smallest value is {value.min().item():g}."
        )


def check_one_bank(first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raise unless both have as many filters and bins, one dtype, and no two different marks."""
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"{first} and {second} are descriptors of different banks: {a.shape[1]} filters with "
            f"{a.shape[2]} bins, and {b.shape[1]} with {b.shape[2]}. Describe both with one bank "
            "and one set of edges."
        )
    if a.dtype != b.dtype:
        raise TypeError(
            f"{first} and {second} must have the same dtype, got {a.dtype} and {b.dtype}."
        )
    marks = [getattr(descriptors, MARK, None) for descriptors in (a, b)]
    if None not in marks and marks[0] != marks[1]:
        raise ValueError(
            f"{first} and {second} are descriptors of different banks, or of one with different "
            f"edges: {marks[0]}, and {marks[1]}. Describe both with one bank and one set of edges."
        )
