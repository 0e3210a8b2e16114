"""Retrieval: exact search, the index against it, and the bound that the index rests on."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tlcourse.multitask import (
    DescriptorIndex,
    Retrieval,
    histogram_distance,
    retrieve,
    root_embedding,
)

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is an extra"
)


def clustered(n, *, seed=0, filters=3, bins=8):
    """Histograms around forty centres."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    centres = torch.rand(40, filters, bins, generator=fixed) ** 3 + 0.01
    chosen = centres[torch.randint(40, (n,), generator=generator)]
    raw = chosen * (0.4 * torch.randn(n, filters, bins, generator=generator)).exp()
    return raw / raw.sum(-1, keepdim=True)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.7, 0.1, 0.2])])
def test_exact_search_is_a_sort_of_all_distances(weights):
    source, target = clustered(60), clustered(7, seed=1)
    found = retrieve(source, target, k=9, weights=weights)
    d = histogram_distance(target, source, weights)
    ordered = d.sort(dim=1)
    torch.testing.assert_close(found.distances, ordered.values[:, :9])
    torch.testing.assert_close(d.gather(1, found.indices), found.distances)
    assert (found.distances.diff(dim=1) >= 0).all()


def test_every_image_finds_itself_first():
    source = clustered(50)
    found = retrieve(source, source[10:20], k=3)
    assert found.indices[:, 0].tolist() == list(range(10, 20))
    assert found.distances[:, 0].max() < 1e-5


def test_batches_change_nothing(monkeypatch):
    import tlcourse.multitask.retrieval as module

    source, target = clustered(60), clustered(11, seed=1)
    whole = retrieve(source, target, k=4)
    real, calls = module.pairwise, []
    monkeypatch.setattr(module, "pairwise", lambda a, b: calls.append(len(a.p)) or real(a, b))
    monkeypatch.setattr(module, "max", lambda *_: 3, raising=False)  # three target images at a time
    parts = retrieve(source, target, k=4)
    assert calls == [3, 3, 3, 2]
    assert torch.equal(parts.indices, whole.indices)


@pytest.mark.equation("eq-root-bound")
@pytest.mark.parametrize("weights", [None, torch.tensor([0.7, 0.1, 0.2])])
def test_the_roots_bound_the_distance_from_below(weights):
    a, b = clustered(40).double(), clustered(40, seed=1).double()
    x, y = root_embedding(a, weights), root_embedding(b, weights)
    bound = torch.cdist(x, y).pow(2)
    d = histogram_distance(a, b, weights)
    assert (bound <= d * (1 + 1e-9)).all()
    assert bound.max() < d.max()


@pytest.mark.equation("eq-root-bound")
def test_the_bound_is_tight_to_second_order():
    a, b = (0.5 * clustered(1, seed=s).double() + 0.5 / 8 for s in (0, 1))  # no bin is nearly empty
    step = b - a
    ratios = []
    for h in (1e-2, 1e-3):
        b = a + h * step
        d = histogram_distance(a, b, epsilon=1e-12).item()
        bound = (root_embedding(a, epsilon=1e-12) - root_embedding(b, epsilon=1e-12)).pow(2).sum()
        ratios.append(1 - bound.item() / d)
        second = 0.5 * ((b - a) ** 2 / a).sum(-1).mean().item()
        assert d == pytest.approx(second, rel=5 * h)
    assert 0 <= ratios[1] < ratios[0] / 50  # what is missing is of fourth order


@needs_faiss
def test_the_index_finds_nearly_all_and_orders_by_the_exact_distance():
    source, target = clustered(5_000), clustered(40, seed=1)
    exact = retrieve(source, target, k=10, method="exact")
    index = DescriptorIndex(source)
    found = index.search(target, 10)
    assert found.recall(exact) > 0.95
    assert index.recall(target, 10) == found.recall(exact)
    d = histogram_distance(target, source)
    torch.testing.assert_close(d.gather(1, found.indices), found.distances, rtol=1e-3, atol=1e-6)
    assert (found.distances.diff(dim=1) >= 0).all()
    same = retrieve(source, target, k=10, method="index")
    assert torch.equal(same.indices, found.indices)  # one set, one index


@needs_faiss
def test_a_longer_descriptor_is_reduced_and_still_found():
    source, target = clustered(4_000, filters=12), clustered(30, seed=1, filters=12)
    index = DescriptorIndex(source)
    assert index._index.d == 64
    assert index.recall(target, 5) > 0.9


@needs_faiss
def test_an_index_that_probes_every_cell_misses_nothing():
    source, target = clustered(800), clustered(20, seed=1)
    assert DescriptorIndex(source, probed=1_000).recall(target, 5) == 1


@needs_faiss
@pytest.mark.parametrize(("n", "cells"), [(39, 1), (800, 20), (1_520, 38), (1_600, 40)])
def test_faiss_has_enough_points_for_every_cell(n, cells, capfd):
    assert DescriptorIndex(clustered(n))._index.nlist == cells
    assert "WARNING" not in "".join(capfd.readouterr())  # written by C++, past Python's warnings


@needs_faiss
def test_more_neighbours_than_the_cells_hold():
    source, target = clustered(400), clustered(3, seed=1)
    found = DescriptorIndex(source, probed=1).search(target, 400)
    assert found.indices.sort(dim=1).values.tolist() == [list(range(400))] * 3


def test_which_method_is_taken(monkeypatch):
    import tlcourse.multitask.retrieval as module

    class Index:
        def __init__(self, source, **_):
            self.n = len(source)

        def probe(self, target, k):
            return 1.0

        def search(self, target, k):
            return self.n, k

    monkeypatch.setattr(module, "DescriptorIndex", Index)
    monkeypatch.setattr(module, "LARGE", 50)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    assert retrieve(clustered(50), clustered(2), 3) == (50, 3)
    assert isinstance(retrieve(clustered(49), clustered(2), 3), Retrieval)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert isinstance(retrieve(clustered(50), clustered(2), 3), Retrieval)


def heap(n, alone):
    """Nearly one picture many times, and a few others: the index's cells lie in the heap."""
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, 3, 8, generator=generator).softmax(-1)
    raw = torch.cat(
        [
            one + 1e-4 * torch.rand(n - alone, 3, 8, generator=generator),
            torch.rand(alone, 3, 8, generator=generator).pow(6) + 1e-6,
        ]
    )
    return raw / raw.sum(-1, keepdim=True)


@needs_faiss
@pytest.mark.parametrize("method", ["auto", "index"])
def test_among_near_duplicates_the_index_looks_into_more_cells(method, monkeypatch):
    import tlcourse.multitask.retrieval as module

    monkeypatch.setattr(module, "LARGE", 6_000)
    source = heap(6_000, 400)
    target = source[-40:]
    exact = retrieve(source, target, 10, method="exact")
    assert DescriptorIndex(source).search(target, 10).recall(exact) < 0.9  # as it is built
    assert retrieve(source, target, 10, method=method).recall(exact) > 0.95
    in_heap = retrieve(source, source[:20], 10, method=method)  # equal but for rounding: no warning
    assert in_heap.distances.max() < 1e-3


@needs_faiss
def test_an_index_that_finds_enough_looks_no_further():
    source, target = clustered(5_000), clustered(40, seed=1)
    index = DescriptorIndex(source)
    before = index._index.nprobe
    assert index.probe(target, 10) >= 0.95
    assert index._index.nprobe == before


@needs_faiss
def test_an_index_that_cannot_find_enough_says_so(monkeypatch):
    import tlcourse.multitask.retrieval as module

    monkeypatch.setattr(module, "LIST", 1)  # no spare candidates: the roots alone decide
    source = clustered(2_000)
    source = torch.cat([source, source.flip(-1)])
    target = 0.999 * torch.nn.functional.one_hot(torch.arange(24).view(8, 3) % 8, 8) + 0.001 / 8
    with pytest.warns(UserWarning, match=r'Of the 10 neighbours .*%.*method="exact" misses none'):
        retrieve(source, target, 10, method="index")


def test_without_faiss_the_error_says_what_does_instead(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install .*retrieval.*method="exact" does'):
        retrieve(clustered(20), clustered(2), 3, method="index")


def test_recall():
    exact = Retrieval(torch.tensor([[1, 2], [3, 4]]), torch.zeros(2, 2))
    found = Retrieval(torch.tensor([[2, 9], [4, 3]]), torch.zeros(2, 2))
    assert found.recall(exact) == 0.75
    with pytest.raises(ValueError, match="same k"):
        found.recall(Retrieval(torch.zeros(2, 3).long(), torch.zeros(2, 3)))


@pytest.mark.parametrize(
    ("target", "k", "method", "error", "message"),
    [
        (clustered(2, filters=4), 3, "exact", ValueError, "descriptors of different banks"),
        (clustered(2, bins=9), 3, "exact", ValueError, "3 filters with 8 bins, and 3 with 9"),
        (clustered(2), 0, "exact", ValueError, r"k must be in \[1, 30\], got 0"),
        (clustered(2), 31, "exact", ValueError, r"k must be in \[1, 30\], got 31"),
        (clustered(2), 2.0, "exact", TypeError, "k must be an integer"),
        (clustered(2), 2, "faiss", ValueError, "method is 'faiss'; it takes 'auto', 'exact'"),
        (clustered(2) * float("nan"), 2, "exact", ValueError, "target contains NaN"),
        (torch.rand(2, 3, 8), 2, "exact", ValueError, "target must hold histograms"),
    ],
)
def test_bad_arguments(target, k, method, error, message):
    with pytest.raises(error, match=message):
        retrieve(clustered(30), target, k, method=method)


def marked(descriptors, key):
    descriptors.bank_key = key  # as describe marks them
    return descriptors


def test_descriptors_of_another_bank_with_as_many_filters_and_bins():
    source, target = marked(clustered(30), "conv 1"), marked(clustered(2, seed=1), "conv 2")
    with pytest.raises(
        ValueError, match="source and target .* different banks, .*conv 1, and conv"
    ):
        retrieve(source, target, 3)
    assert len(retrieve(source, marked(target, "conv 1"), 3).indices) == 2
    assert len(retrieve(source, clustered(2), 3).indices) == 2  # without a mark


@needs_faiss
def test_bad_arguments_of_an_index():
    index = DescriptorIndex(marked(clustered(300), "conv 1"))
    with pytest.raises(
        ValueError, match="source and target .* different banks, .*conv 1, and conv"
    ):
        index.search(marked(clustered(2), "conv 2"), 3)
    with pytest.raises(TypeError, match="source and target must have the same dtype"):
        index.search(clustered(2).double(), 3)
    with pytest.raises(ValueError, match="different banks"):
        index.search(clustered(2, filters=4), 3)
    with pytest.raises(ValueError, match=r"k must be in \[1, 300\]"):
        index.search(clustered(2), 301)
    with pytest.raises(ValueError, match="probed must be at least 1"):
        DescriptorIndex(clustered(300), probed=0)
