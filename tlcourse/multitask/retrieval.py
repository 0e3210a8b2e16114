r"""Find the source images that are nearest to each target image, among thousands or millions.

The symmetric Kullback-Leibler distance is not Euclidean, and index libraries know Euclidean
distances. The roots of two histograms are: their squared distance is a lower bound of ours, and
nearly equal to it for histograms that are near to each other. So an index of the roots names
candidates, and the exact distance orders them.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tlcourse._checks import check_choice, check_int
from tlcourse.multitask.descriptors import (
    EPSILON,
    Smoothed,
    check_descriptors,
    check_one_bank,
    pairwise,
    smoothed,
)

METHODS = ("auto", "exact", "index")
LARGE = 20_000  # source images from which an index is worth its building
DIMENSIONS = 64  # to which the index reduces longer descriptors
PROBED = 16  # of the index's cells, those that a query looks into
SAMPLE = 16  # target images that are also searched exactly, to see whether that is enough
ENOUGH = 0.95  # the part of their neighbours that must be as near as the exact ones
LIST = 20  # candidates for each neighbour asked for


@dataclass(frozen=True)
class Retrieval:
    """The nearest source images of every target image, the nearest first.

    Attributes
    ----------
    indices
        (Nt, k), int64: positions in the source set.
    distances
        (Nt, k): the symmetric Kullback-Leibler distance of each, exact for both methods.
    """

    indices: Tensor
    distances: Tensor

    def recall(self, exact: Retrieval) -> float:
        """Return the part of the exact neighbours that were found, in [0, 1].

        Raises
        ------
        ValueError
            If the two have not the same number of target images and of neighbours.
        """
        if self.indices.shape != exact.indices.shape:
            raise ValueError(
                "exact must be of the same target images and the same k: shape "
                f"{tuple(self.indices.shape)}, got {tuple(exact.indices.shape)}."
            )
        found = (self.indices[:, :, None] == exact.indices[:, None, :]).any(1)  # (Nt, k)
        return found.double().mean().item()


def retrieve(
    source: Tensor,
    target: Tensor,
    k: int,
    *,
    weights: Tensor | None = None,
    epsilon: float = EPSILON,
    method: str = "auto",
) -> Retrieval:
    """Return the k source images that are nearest to each target image.

    Parameters
    ----------
    source, target
        Descriptors of one bank with one set of edges, (Ns, F, bins) and (Nt, F, bins); see
        :func:`~tlcourse.multitask.describe`.
    k
        In [1, Ns].
    weights, epsilon
        Of :func:`~tlcourse.multitask.histogram_distance`.
    method
        ``"exact"`` compares all pairs, in batches. ``"index"`` asks a faiss index for candidates
        and orders them by the exact distance. It may miss a few neighbours, see
        :class:`DescriptorIndex`; a few target images are searched exactly, too, and the index looks
        closer until 95 % of theirs are as near, or warns. ``"auto"`` takes the index for 20,000
        source images or more where faiss is installed (``pip install "tlcourse[retrieval]"``), else
        the exact search.

    Raises
    ------
    TypeError, ValueError
        If the descriptors are no histograms, differ in dtype, filters or bins, or are marked as
        those of different banks or edges; or a setting is wrong.
    ModuleNotFoundError
        For ``method="index"`` without faiss.

    References
    ----------
    Ge and Yu (2017), section 3.

    Examples
    --------
    >>> source = torch.rand(100, 4, 8).softmax(-1)
    >>> found = retrieve(source, source[:3], k=5)
    >>> found.indices[:, 0]  # each image finds itself first
    tensor([0, 1, 2])
    """
    check_choice("method", method, METHODS)
    if method == "auto":
        installed = importlib.util.find_spec("faiss") is not None
        method = "index" if installed and len(source) >= LARGE else "exact"
    if method == "index":
        index = DescriptorIndex(source, weights=weights, epsilon=epsilon)
        near = index.probe(target, k)
        if near < ENOUGH:
            warnings.warn(
                f"Of the {k} neighbours that the index finds, {near:.0%} are as near as the exact "
                'ones, measured on a few target images: method="exact" misses none.',
                stacklevel=2,
            )
        return index.search(target, k)
    ready = smoothed(source, weights, epsilon, "source")
    query = smoothed(target, weights, epsilon, "target")
    check_one_bank("source", source, "target", target)
    check_int("k", k, low=1, high=len(source))
    rows = max(1, 20_000_000 // len(source))  # target images whose distances fill 80 MB
    indices, distances = [], []
    for start in range(0, len(target), rows):
        part = slice(start, start + rows)
        d = pairwise(Smoothed(query.p[part], query.log_p[part], query.self_term[part]), ready)
        nearest = d.topk(k, dim=1, largest=False)
        indices.append(nearest.indices)
        distances.append(nearest.values)
    return Retrieval(torch.cat(indices), torch.cat(distances))


def root_embedding(
    descriptors: Tensor, weights: Tensor | None = None, *, epsilon: float = EPSILON
) -> Tensor:
    r"""Return points whose squared Euclidean distance bounds the histogram distance from below.

    .. math:: 2 \sum_f w_f \sum_k \left( \sqrt{a_{fk}} - \sqrt{b_{fk}} \right)^2 \le d(a, b)

    with equality for a = b, and to second order around it: with :math:`b = a + \delta`, both sides
    are :math:`\frac{1}{2} \sum_f w_f \sum_k \delta_{fk}^2 / a_{fk}` and terms of third order.

    Returns
    -------
    Tensor
        (N, F bins): the factor of 2 and the weights are in it.

    Raises
    ------
    TypeError, ValueError
        As :func:`~tlcourse.multitask.histogram_distance`.

    References
    ----------
    The squared Hellinger distance; the bound is that of the logarithmic mean by the arithmetic. In
    the chapter: ``eq-root-bound``.

    Examples
    --------
    >>> a = torch.tensor([[[0.5, 0.5]], [[0.6, 0.4]]])
    >>> x = root_embedding(a)
    >>> round((x[0] - x[1]).pow(2).sum().item(), 4)  # the distance itself is 0.0203
    0.0202
    """
    ready = smoothed(descriptors, weights, epsilon)
    n, filters, _ = descriptors.shape
    if weights is None:
        weights = torch.full((filters,), 1 / filters, dtype=descriptors.dtype)
    root = weights.to(descriptors).sqrt()[:, None]
    p = ready.p.view(n, filters, -1)  # root w p
    return ((2 * root * p).sqrt()).view(n, -1)  # sqrt(2 w p)


class DescriptorIndex:
    r"""A faiss index over source descriptors, built once and asked many times.

    The points of :func:`root_embedding`, reduced to at most 64 dimensions by their principal
    components, are sorted into :math:`\sqrt{N_s}` cells, or fewer below 1,521 points. A query looks
    into the 16 nearest cells, so that its cost grows as :math:`\sqrt{N_s}` while the set grows as
    :math:`N_s`. The 20 k nearest of what it finds there are ordered by the exact distance.

    A neighbour that lies in another cell is missed. On a million clustered descriptors of 8 filters
    the recall of ten neighbours is above 0.95 (the course's benchmark measures it); :meth:`recall`
    tells it for yours, and :meth:`probe` looks into more cells where it is low.

    Parameters
    ----------
    source
        Descriptors, (Ns, F, bins). They are kept, for the exact distances.
    weights, epsilon
        Of :func:`~tlcourse.multitask.histogram_distance`.
    probed
        Cells that a query looks into; more find more and take longer.

    Raises
    ------
    TypeError, ValueError
        As :func:`~tlcourse.multitask.histogram_distance`.
    ModuleNotFoundError
        If faiss is not installed: then ``retrieve(..., method="exact")`` does without.

    References
    ----------
    Douze et al., The Faiss library, 2024.
    """

    def __init__(
        self,
        source: Tensor,
        *,
        weights: Tensor | None = None,
        epsilon: float = EPSILON,
        probed: int = PROBED,
    ) -> None:
        check_int("probed", probed, low=1)
        check_descriptors("source", source)
        faiss = _faiss()
        source = source.cpu()  # where faiss is; it is the same tensor if it was there
        self._source, self._weights, self._epsilon = source, weights, epsilon
        points = root_embedding(source, weights, epsilon=epsilon).float()
        n, dimensions = points.shape
        self._centre = points.mean(0)
        self._axes = None
        if dimensions > DIMENSIONS:
            sample = points[_spread(n, 20_000)] - self._centre
            _, vectors = torch.linalg.eigh(sample.mT @ sample)
            self._axes = vectors[:, -DIMENSIONS:]  # (F bins, 64)
        reduced = self._reduced(points).numpy()
        cells = max(1, min(math.isqrt(n), n // 39))  # faiss warns below 39 points a cell
        quantizer = faiss.IndexFlatL2(reduced.shape[1])
        self._index: Any = faiss.IndexIVFFlat(quantizer, reduced.shape[1], cells)
        self._index.train(reduced[_spread(n, 40 * cells).numpy()])
        self._index.add(reduced)
        self._index.nprobe = min(probed, cells)

    def search(self, target: Tensor, k: int) -> Retrieval:
        """Return the k nearest source images of each target image.

        Raises
        ------
        TypeError, ValueError
            If the target's descriptors differ from the source's in dtype, filters or bins, or are
            marked as those of another bank or other edges; or k is not in [1, Ns].
        """
        check_descriptors("target", target)
        query = smoothed(target.cpu(), self._weights, self._epsilon, "target")
        check_one_bank("source", self._source, "target", target)
        check_int("k", k, low=1, high=len(self._source))
        target = target.cpu()
        points = root_embedding(target, self._weights, epsilon=self._epsilon).float()
        wanted = min(len(self._source), LIST * k)
        _, found_by_index = self._index.search(self._reduced(points).numpy(), wanted)
        named = torch.from_numpy(found_by_index)  # (Nt, wanted), -1 where the cells held fewer
        indices = torch.empty(len(target), k, dtype=torch.int64)
        distances = torch.empty(len(target), k, dtype=query.p.dtype)
        for i, row in enumerate(named):
            candidates = row[row >= 0]
            if len(candidates) < k:  # the cells that were probed hold too few
                found = self._exact(target[i : i + 1], k)
                indices[i], distances[i] = found.indices[0], found.distances[0]
                continue
            near = smoothed(self._source[candidates], self._weights, self._epsilon, "source")
            one = Smoothed(query.p[i : i + 1], query.log_p[i : i + 1], query.self_term[i : i + 1])
            best = pairwise(one, near)[0].topk(k, largest=False)
            indices[i], distances[i] = candidates[best.indices], best.values
        return Retrieval(indices, distances)

    def recall(self, target: Tensor, k: int) -> float:
        """Return the part of the exact k neighbours that `search` finds, in [0, 1]."""
        return self.search(target, k).recall(self._exact(target, k))

    def probe(self, target: Tensor, k: int, *, enough: float = ENOUGH) -> float:
        """Look into more cells, until what is found for a few target images is near enough.

        Where most of the source is nearly one picture, most cells lie in that heap, and a few
        probed ones tell little. So up to 16 of the target images are also searched exactly.

        Returns
        -------
        float
            The part of what is found for them that is no farther than the exact neighbours.
        """
        check_descriptors("target", target)
        some = target[_spread(len(target), SAMPLE)]
        farthest = self._exact(some, k).distances[:, -1:].cpu()  # (S, 1)
        while True:
            found = self.search(some, k).distances  # (S, k)
            near = (found <= farthest * (1 + 1e-3) + 1e-5).double().mean().item()
            if near >= enough or self._index.nprobe >= self._index.nlist:
                return near
            self._index.nprobe = min(2 * self._index.nprobe, self._index.nlist)

    def _exact(self, target: Tensor, k: int) -> Retrieval:
        return retrieve(
            self._source, target, k, weights=self._weights, epsilon=self._epsilon, method="exact"
        )

    def _reduced(self, points: Tensor) -> Tensor:
        if self._axes is None:
            return points.contiguous()
        return ((points - self._centre) @ self._axes).contiguous()


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'method="index" needs faiss: pip install "tlcourse[retrieval]". '
            'method="exact" does without.'
        ) from error
    return faiss


def _spread(n: int, at_most: int) -> Tensor:
    """Return at most so many positions, drawn from all n with a seed of their own."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(n, generator=generator)[:at_most]
