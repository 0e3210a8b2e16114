r"""How much did transfer help? Three measures of a learning curve, and the area under it.

Two learners are trained on the target task for equally long, one with transferred knowledge and one
without. Transfer may start higher, climb faster, or end higher (Torrey and Shavlik, 2009); each is
one number, and each can be negative: then transfer has hurt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlcourse._checks import check_int, check_number
from tlcourse.metrics import Interval, interval


@dataclass(frozen=True)
class TransferMeasures:
    """What :func:`transfer_measures` found; intervals are over the seeds, 95 %.

    Attributes
    ----------
    jump_start
        Performance before any training on the target, with transfer minus without.
    threshold
        The performance that ``time_with`` and ``time_without`` are about.
    time_with, time_without
        For each seed, when the curve first reaches the threshold, in units of ``times``; infinite
        if it never does.
    asymptote
        Final performance, with transfer minus without.
    area
        The area between the curves as a part of the area under the one without.
    """

    jump_start: Interval
    threshold: float
    time_with: tuple[float, ...]
    time_without: tuple[float, ...]
    asymptote: Interval
    area: Interval

    @property
    def time_saved(self) -> Interval | None:
        """The time without transfer minus the time with; ``None`` if a seed never gets there."""
        pairs = zip(self.time_without, self.time_with, strict=True)
        saved = [without - with_ for without, with_ in pairs]
        return interval(saved) if all(math.isfinite(s) for s in saved) else None


def transfer_measures(
    with_transfer: Sequence[Sequence[float]],
    without: Sequence[Sequence[float]],
    *,
    times: Sequence[float] | None = None,
    threshold: float | None = None,
    tail: int = 1,
) -> TransferMeasures:
    r"""Measure the gain of transfer on pairs of learning curves, one pair per seed.

    .. math::

        J = a^{T}(0) - a(0), \qquad
        t_\theta = \min \{ t : a(t) \ge \theta \}, \qquad
        A = a^{T}(\infty) - a(\infty), \qquad
        R = \frac{\int a^{T} - \int a}{\int a}

    where

    - :math:`a^T` and :math:`a`: performance (larger is better) with and without transfer;
    - :math:`J`: the jump start, before the first step on the target;
    - :math:`t_\theta`: the time to the threshold :math:`\theta`, of either curve;
    - :math:`A`: the gain of the asymptote, here the mean of the last ``tail`` points;
    - :math:`R`: the area ratio of Taylor and Stone (2009), by the trapezoidal rule.

    Parameters
    ----------
    with_transfer, without
        Shape (S, M): S seeds, M points in time, the first before any training on the target. Row s
        of both must differ in the transfer alone (same seed, same data).
    times
        The M points in time, rising; by default 0, 1, ..., M - 1.
    threshold
        By default the lowest final performance of a seed without transfer, so that every curve
        without transfer reaches it.
    tail
        How many last points make the asymptote, from 1 to M.

    Raises
    ------
    TypeError, ValueError
        If the curves are empty, of different shapes, hold NaN, or a setting is out of range.

    References
    ----------
    Torrey and Shavlik (2009), Transfer Learning, figure 2. Taylor and Stone (2009), JMLR 10,
    section 3. In the chapter: ``eq-jump-start``, ``eq-time-to-threshold``, ``eq-asymptote`` and
    ``eq-area-ratio``.

    Examples
    --------
    >>> found = transfer_measures([[0.5, 0.8, 0.9]], [[0.1, 0.4, 0.8]])
    >>> round(found.jump_start.mean, 3), found.time_with, found.time_without
    (0.4, (1.0,), (2.0,))
    """
    a_T, a = _curves("with_transfer", with_transfer), _curves("without", without)  # (S, M) both
    if a_T.shape != a.shape:
        raise ValueError(
            f"with_transfer and without must have the same shape, got {a_T.shape} and {a.shape}: "
            "one pair of curves per seed, measured at the same times."
        )
    t = np.arange(a.shape[1], dtype=float) if times is None else np.asarray(times, dtype=float)
    if t.shape != (a.shape[1],) or not np.isfinite(t).all() or (np.diff(t) <= 0).any():
        raise ValueError(
            f"times must be {a.shape[1]} rising numbers, one per point of the curves, got {times}."
        )
    check_int("tail", tail, low=1, high=a.shape[1])
    if threshold is None:
        threshold = float(a[:, -1].min())
    check_number("threshold", threshold)

    area_T, area = np.trapezoid(a_T, t), np.trapezoid(a, t)  # (S,) both
    if len(t) < 2 or (area <= 0).any():
        raise ValueError(
            "without must have at least 2 points and a positive area under every curve; "
            "give a performance of which more is better, such as the accuracy."
        )
    return TransferMeasures(
        jump_start=interval((a_T[:, 0] - a[:, 0]).tolist()),
        threshold=threshold,
        time_with=_first_time(a_T, t, threshold),
        time_without=_first_time(a, t, threshold),
        asymptote=interval((a_T[:, -tail:].mean(1) - a[:, -tail:].mean(1)).tolist()),
        area=interval(((area_T - area) / area).tolist()),
    )


def _curves(name: str, values: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        curves = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be S rows of M numbers: {error}.") from error
    if curves.ndim != 2 or curves.size == 0:
        raise ValueError(f"{name} must have shape (seeds, points), got {curves.shape}.")
    if not np.isfinite(curves).all():
        raise ValueError(f"{name} contains NaN or infinite values.")
    return curves


def _first_time(curves: np.ndarray, times: np.ndarray, threshold: float) -> tuple[float, ...]:
    reached = curves >= threshold  # (S, M)
    first = np.where(reached.any(1), times[reached.argmax(1)], np.inf)  # (S,)
    return tuple(first.tolist())
