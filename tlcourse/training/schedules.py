"""How the learning rate falls over a run."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from tlcourse._checks import check_number

Schedule = Callable[[float], float]


def cosine_decay(progress: float) -> float:
    r"""Return the factor on the learning rate that falls from 1 to 0 along half a cosine.

    .. math:: f(t) = \tfrac{1}{2} (1 + \cos \pi t)

    where t is the progress, the part of all steps that is done, in [0, 1).

    Examples
    --------
    >>> [round(cosine_decay(t), 3) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]

    References
    ----------
    Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, eq. 5,
    with one period and no restart.
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def step_decay(milestones: Sequence[float], factor: float) -> Schedule:
    """Return a schedule that multiplies the learning rate by ``factor`` at every milestone.

    Parameters
    ----------
    milestones
        Parts of the run, rising, in (0, 1): epochs 60, 120 and 160 of 200 are (0.3, 0.6, 0.8).
    factor
        In (0, 1).

    Raises
    ------
    ValueError
        If the milestones do not rise or lie outside (0, 1), or the factor does.

    Examples
    --------
    >>> schedule = step_decay((0.3, 0.6, 0.8), 0.2)
    >>> [round(schedule(epoch / 200), 3) for epoch in (0, 59, 60, 120, 160)]
    [1.0, 1.0, 0.2, 0.04, 0.008]
    """
    points = list(milestones)
    if not all(0 < p < 1 for p in points) or points != sorted(set(points)):
        raise ValueError(
            f"milestones must rise and lie in (0, 1), parts of the whole run; got {points}."
        )
    check_number("factor", factor, above=0)
    if factor >= 1:
        raise ValueError(f"factor must be less than 1, got {factor:g}.")
    return lambda progress: factor ** bisect.bisect_right(points, progress)
