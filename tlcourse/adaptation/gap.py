"""How much of the way from the source to the target an adaptation goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from tlcourse.data import LabelledImages, Windows
from tlcourse.metrics import accuracy


class Gap(NamedTuple):
    """Three accuracies on the same test set of the target, from 0 to 1."""

    source_only: float
    """Of a classifier that learnt the source and has seen nothing of the target."""
    adapted: float
    """Of one that learnt the source and has seen the target's inputs."""
    target_only: float
    """Of one that learnt the target's own labels: what could be had."""

    @property
    def closed(self) -> float:
        """The part of the gap that is closed: 0 as without adaptation, below 0 where it harms.

        NaN where the source alone is as good as the target's labels.
        """
        gap = self.target_only - self.source_only
        return (self.adapted - self.source_only) / gap if gap > 0 else float("nan")


def domain_gap(
    train: Callable[[Any], nn.Module],
    adapt: Callable[[Any, Tensor], nn.Module],
    source: LabelledImages | Windows,
    target: LabelledImages | Windows,
    test: LabelledImages | Windows,
) -> Gap:
    """Measure a method between learning from the source alone and from the target itself.

    Parameters
    ----------
    train
        ``train(labelled)`` returns a classifier that learnt a labelled set: the source, and for the
        upper bound the target.
    adapt
        ``adapt(source, inputs)`` returns one that learnt the labelled source and the target's
        inputs, (M, ...). It is given no labels of the target.
    source, target
        The sets to learn from.
    test
        Of the target, and of neither training set.

    Returns
    -------
    Gap
        The three accuracies on ``test``.

    Raises
    ------
    TypeError, ValueError
        If a set is not labelled, or the sets' classes differ: accuracies would not be comparable.

    Examples
    --------
    >>> from tlcourse.data import digits
    >>> from tlcourse.models import MLP
    >>> few, test = (part.subset(range(50)) for part in digits(size=28))
    >>> untrained = MLP((784, 8, 10))
    >>> gap = domain_gap(lambda _: untrained, lambda *_: untrained, few, few, test)
    >>> gap.adapted == gap.source_only, gap.closed
    (True, nan)
    """
    for name, data in {"source": source, "target": target, "test": test}.items():
        if not isinstance(data, LabelledImages | Windows):
            raise TypeError(
                f"{name} must be a LabelledImages or Windows, got {type(data).__name__}."
            )
        if data.classes != source.classes:
            raise ValueError(
                f"{name} must have the classes of source, {source.classes}, got {data.classes}. "
                "Choose the classes that both have, in one order."
            )
    inputs = target.tensors[0]
    return Gap(
        accuracy(train(source), test),
        accuracy(adapt(source, inputs), test),
        accuracy(train(target), test),
    )
