"""Checks of the exercises of chapter adaptive/residual-and-separation."""

from __future__ import annotations

from typing import Any

import torch

from tlcourse.exercises._question import function


def _error(made: Any, image: Any, *, sign: float = -1, first: float = 1) -> Any:
    d = made - image
    return (first * d.square().mean(1) + sign * d.mean(1).square()).mean()


def _images() -> list[tuple[Any, Any]]:
    draw = torch.Generator().manual_seed(0)
    one = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    return [one, (torch.rand(4, 9, generator=draw) + 0.5, torch.rand(4, 9, generator=draw))]


q1 = function(
    "ex-separation-error",
    _error,
    _images,
    {
        "the second term is added: a common offset costs twice.": lambda made, image: _error(
            made, image, sign=1
        ),
        "this is the mean square alone; a common offset still costs.": lambda made, image: _error(
            made, image, sign=0
        ),
        "this is the second term alone.": lambda made, image: _error(made, image, sign=1, first=0),
        "this takes one mean over all images. Each image has its own.": lambda made, image: (
            made - image
        ).var(correction=0),
        "this divides by k - 1; the equation divides by k.": lambda made, image: (
            (made - image).var(1).mean()
        ),
    },
)


def _distances(a: Any, b: Any) -> Any:
    formed = torch.einsum("nd,nk->ndk", a, b).flatten(1)
    return (formed[:, None] - formed).square().sum(2)


def _layers() -> list[tuple[Any, Any]]:
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 4, generator=draw), torch.randn(5, 3, generator=draw))]


q2 = function(
    "ex-separation-fused",
    _distances,
    _layers,
    {
        "these are distances; squared ones are asked for.": lambda a, b: _distances(a, b).sqrt(),
        "this is the product of both layers' squared distances, another thing.": lambda a, b: (
            (a[:, None] - a).square().sum(2) * (b[:, None] - b).square().sum(2)
        ),
        "this is the sum of both layers' squared distances: of layers side by side.": (
            lambda a, b: (a[:, None] - a).square().sum(2) + (b[:, None] - b).square().sum(2)
        ),
        "these are the inner products alone. The squared lengths are missing.": lambda a, b: (
            (a @ a.T) * (b @ b.T)
        ),
        "the inner products count twice.": lambda a, b: _distances(a, b) + (a @ a.T) * (b @ b.T),
    },
)


def _leaked(test: Any, known: Any) -> Any:
    return (test.flatten(1)[:, None] == known.flatten(1)).all(2).any(1)


def _sets() -> list[tuple[Any, Any]]:
    draw = torch.Generator().manual_seed(0)
    test = torch.rand(6, 1, 3, 3, generator=draw)
    known = torch.cat([test[[4, 1]], torch.rand(3, 1, 3, 3, generator=draw)])
    known[2, 0, 0, 0] = test[0, 0, 0, 0]  # one pixel alike is no leak
    return [(test, known)]


q3 = function(
    "ex-separation-leak",
    _leaked,
    _sets,
    {
        "an image with one pixel alike is called a leak. All must be.": lambda test, known: (
            (test.flatten(1)[:, None] == known.flatten(1)).any(2).any(1)
        ),
        "this says it for each known image; one truth for each test image is asked for.": (
            lambda test, known: _leaked(known, test)
        ),
        "this is true for images that are not among the known ones.": lambda test, known: (
            ~_leaked(test, known)
        ),
        "this is how many there are; one truth for each test image is asked for.": (
            lambda test, known: _leaked(test, known).sum()
        ),
        "these are positions; one truth for each test image is asked for.": lambda test, known: (
            _leaked(test, known).nonzero()[:, 0]
        ),
    },
)
