r"""Negative transfer: the same learner does worse with the source than without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlcourse.metrics import Interval, interval


def negative_transfer_gap(error_with: Sequence[float], error_without: Sequence[float]) -> Interval:
    r"""Return by how much the source raises the target's error, with its 95 % interval.

    .. math:: \mathrm{NTG} = \epsilon_T(A(S, T)) - \epsilon_T(A(\emptyset, T))

    where

    - :math:`\epsilon_T`: the error on the target's test set;
    - :math:`A(S, T)`: the learner A, given the source S and the target's labelled samples T, and
      :math:`A(\emptyset, T)`: the same learner without the source.

    Above 0 transfer is negative. The learner is the same on both sides: a source may hurt one
    learner and help another.

    Parameters
    ----------
    error_with, error_without
        One error a seed, both of the same draw of samples: they are compared in pairs.

    Returns
    -------
    Interval
        In the unit of the errors.

    Raises
    ------
    TypeError, ValueError
        If the two are not of the same length, empty, or hold NaN.

    References
    ----------
    Wang, Dai, Póczos and Carbonell, Characterizing and Avoiding Negative Transfer, 2019, section 3.
    In the chapter: ``eq-negative-transfer-gap``.

    Examples
    --------
    >>> gap = negative_transfer_gap([30.0, 34.0, 32.0], [28.0, 29.0, 30.0])
    >>> gap.mean, gap.low > 0
    (3.0, False)
    """
    try:
        with_, without = np.asarray(error_with, float), np.asarray(error_without, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The errors must be numbers, one a seed: {error}.") from error
    if with_.ndim != 1 or with_.shape != without.shape or not len(with_):
        raise ValueError(
            "error_with and error_without must hold one number for each seed, the same seeds, got "
            f"the shapes {with_.shape} and {without.shape}."
        )
    if not np.isfinite(with_).all() or not np.isfinite(without).all():
        raise ValueError("The errors contain NaN or infinite values.")
    return interval((with_ - without).tolist())
