"""Multi-task and joint training: the search for neighbours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.timing import Case, Row, alternate

if TYPE_CHECKING:
    import torch


def retrieval() -> list[Row]:
    """Compare the index with the exact search on 10^4 to 10^6 generated source descriptors.

    The descriptors are histograms of 4 filters with 16 bins around 200 centres, as images of a few
    kinds give them. The cost of a query may not grow as the set does, and few neighbours may be
    missed.
    """
    import torch

    from tlcourse.multitask import DescriptorIndex, retrieve

    k, n_queries = 10, 500
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        centres = torch.distributions.Dirichlet(torch.ones(16)).sample((200, 4))

        def descriptors(n: int) -> torch.Tensor:
            parts = []
            for start in range(0, n, 100_000):  # Dirichlet draws in parts: less memory
                at = torch.randint(200, (min(100_000, n - start),), generator=generator)
                drawn = torch.distributions.Gamma(60 * centres[at] + 0.05, torch.ones(1)).sample()
                parts.append(drawn / drawn.sum(-1, keepdim=True))
            return torch.cat(parts)

        target, everything = descriptors(n_queries), descriptors(10**6)
    queries, searches, missed, details = [], [], [], []
    for n in (10**4, 10**5, 10**6):
        source = everything[:n]
        begun = time.perf_counter()
        index = DescriptorIndex(source)
        build = time.perf_counter() - begun
        few = target[: 10**6 // n * 100]  # the exact search of a million takes its time
        begun = time.perf_counter()
        exact = retrieve(source, few, k, method="exact")
        searches.append((time.perf_counter() - begun) / len(few))
        missed.append(1 - index.search(few, k).recall(exact))
        (times,) = alternate([lambda index=index: index.search(target, k)], seconds=1, least=3)  # type: ignore[misc]
        queries.append(min(times) / n_queries)
        details.append(
            f"built in {build:.1f} s; a query {1e3 * queries[-1]:.2f} ms, "
            f"exact {1e3 * searches[-1]:.2f} ms"
        )
        del index
    rows = [
        Row("neighbours missed, of all", f"{10**p:,} descriptors", share, 0.05, detail=detail)
        for p, share, detail in zip((4, 5, 6), missed, details, strict=True)
    ]
    growth = queries[-1] / queries[0] / 100
    rows.append(Row("query time / size of the set", "10^6 / 10^4", growth, 0.5))
    rows.append(Row("index / exact search", "10^6", queries[-1] / searches[-1], 0.1))
    return rows


CASES: tuple[Case, ...] = (retrieval,)
