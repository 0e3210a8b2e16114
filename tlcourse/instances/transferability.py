r"""Will this source help? An estimate from one pass of the target through the source's classifier.

LEEP asks how well the source's answers, whatever they mean, foretell the target's labels (Nguyen et
al., 2020). Nothing is trained on the target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def leep(probabilities: ArrayLike, labels: ArrayLike) -> float:
    r"""Return the log expected empirical prediction, at most 0; more says easier transfer.

    .. math::

        \hat{P}(y, z) = \frac{1}{n} \sum_{i : y_i = y} \theta(x_i)_z, \qquad
        \hat{P}(y \mid z) = \frac{\hat{P}(y, z)}{\hat{P}(z)}

    .. math::

        \mathrm{LEEP} = \frac{1}{n} \sum_{i=1}^{n}
        \ln \Bigl( \sum_{z} \hat{P}(y_i \mid z)\, \theta(x_i)_z \Bigr)

    where

    - :math:`\theta(x_i)`: the source's probabilities of its Z classes for target sample i;
    - :math:`y_i`: the target's label, of classes of its own.

    Parameters
    ----------
    probabilities
        (n, Z), each row of sum 1.
    labels
        (n,), of any kind.

    Raises
    ------
    ValueError
        If shapes do not go together, a row is no distribution, or there is no sample.

    References
    ----------
    Nguyen, Hassner, Seeger and Archambeau, LEEP, 2020, equations 1 and 2. In the chapter:
    ``eq-leep``.

    Examples
    --------
    >>> round(leep([[0.9, 0.1], [0.1, 0.9]], ["a", "b"]), 3)
    -0.198
    """
    theta = np.asarray(probabilities, dtype=float)
    y = np.asarray(labels)
    if theta.ndim != 2 or theta.size == 0 or y.shape != (len(theta),):
        raise ValueError(
            f"probabilities must be (n, Z) and labels (n,), n at least 1, got {theta.shape} and "
            f"{y.shape}."
        )
    if not np.isfinite(theta).all() or (theta < 0).any() or abs(theta.sum(1) - 1).max() > 1e-4:
        raise ValueError(
            "probabilities must be distributions: no entry below 0, each row of sum 1, no NaN. "
            "Give the softmax of logits."
        )
    _, k = np.unique(y, return_inverse=True)
    joint = np.eye(k.max() + 1)[k].T @ theta / len(y)  # P(y, z): (classes, Z)
    total = joint.sum(0)  # P(z): (Z,)
    given = joint / np.where(total > 0, total, 1)  # P(y | z); a z of probability 0 is never asked
    expected = (given[k] * theta).sum(1)  # (n,)
    return float(np.log(expected).mean())
