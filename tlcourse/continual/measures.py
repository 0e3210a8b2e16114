r"""What a sequence of tasks leaves behind: the accuracy matrix, and what is read off it.

All measures but the last are numbers of one matrix R: :math:`R_{ij}` is the test accuracy on task j
after learning task i.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tlcourse._checks import check_int, check_number, shape_of


def accuracy_matrix(
    learn: Callable[[int], object],
    test: Callable[[int], float],
    n_tasks: int,
    *,
    ahead: bool = False,
) -> Tensor:
    r"""Learn tasks one after the other, and test all of them after each.

    .. math:: R_{ij} = \text{test accuracy on task } j \text{ after learning tasks } 0, \dots, i

    Parameters
    ----------
    learn
        ``learn(i)`` trains the learner on task i. It is called for 0, 1, ... in order.
    test
        ``test(j)`` returns the accuracy on task j's test data, in [0, 1].
    n_tasks
        The number of tasks, M, at least 1.
    ahead
        Whether tasks that are not learnt yet are tested too. :func:`forward_transfer` needs it; a
        network that has no head for them cannot.

    Returns
    -------
    Tensor
        Shape (M, M), float64: rows i in the order of learning, columns j the tasks tested. Without
        ``ahead``, what lies above the diagonal is NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, or a test gives no number in [0, 1].

    References
    ----------
    Lopez-Paz and Ranzato (2017), section 2. In the chapter: ``eq-accuracy-matrix``.

    Examples
    --------
    >>> seen = []
    >>> accuracy_matrix(seen.append, lambda j: 1.0 if seen[-1] == j else 0.25, n_tasks=2)
    tensor([[1.0000,    nan],
            [0.2500, 1.0000]], dtype=torch.float64)
    """
    check_int("n_tasks", n_tasks, low=1)
    for name, function in (("learn", learn), ("test", test)):
        if not callable(function):
            raise TypeError(
                f"{name} must be a function of a task's number, got {type(function).__name__}."
            )
    R = torch.full((n_tasks, n_tasks), torch.nan, dtype=torch.float64)
    for i in range(n_tasks):
        learn(i)
        for j in range(n_tasks if ahead else i + 1):
            value = test(j)
            if not isinstance(value, (bool, str, bytes)):  # NumPy and torch have numbers as well
                with contextlib.suppress(TypeError, ValueError):
                    value = float(value)
            check_number(f"test({j}) after task {i}", value, low=0, high=1)
            R[i, j] = value
    return R


def average_accuracy(matrix: Tensor, step: int = -1) -> float:
    r"""Return the mean accuracy over the tasks learnt so far.

    .. math:: A_i = \frac{1}{i + 1} \sum_{j=0}^{i} R_{ij}

    Parameters
    ----------
    matrix
        R, shape (M, M), from :func:`accuracy_matrix`.
    step
        i: after which task; -1 is the last.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        If the matrix is not square, holds NaN on or below the diagonal or numbers outside [0, 1],
        or there is no such step.

    References
    ----------
    Lopez-Paz and Ranzato (2017), equation 2; Chaudhry et al. (2018), section 3. In the chapter:
    ``eq-average-accuracy``.

    Examples
    --------
    >>> average_accuracy(torch.tensor([[1.0, 0.0], [0.4, 0.8]]))
    0.6...
    """
    R = _checked(matrix)
    i = _step(step, len(R))
    return float(R[i, : i + 1].mean())


def forgetting(matrix: Tensor, step: int = -1) -> float:
    r"""Return how far the old tasks have fallen from their best, on average.

    .. math:: F_i = \frac{1}{i} \sum_{j=0}^{i-1} \Big( \max_{j \le l < i} R_{lj} - R_{ij} \Big)

    The best of a task is taken from the time when it was learnt on. It is negative where later
    tasks have made the old ones better. The paper's maximum begins with the first task; before its
    own turn a task has no head to be tested, or a chance result.

    Parameters
    ----------
    matrix
        R, shape (M, M), from :func:`accuracy_matrix`.
    step
        i: after which task, at least the second; -1 is the last.

    Returns
    -------
    float
        In [-1, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`average_accuracy`; and for the first step, before which there is nothing to
        forget.

    References
    ----------
    Chaudhry et al., Riemannian Walk for Incremental Learning, 2018, section 3.2. In the chapter:
    ``eq-forgetting``.

    Examples
    --------
    >>> round(forgetting(torch.tensor([[1.0, 0.0], [0.4, 0.8]])), 3)
    0.6
    """
    R = _checked(matrix)
    i = _step(step, len(R))
    if i == 0:
        raise ValueError("There is nothing to forget after the first task: it takes two or more.")
    fallen = [R[j:i, j].max() - R[i, j] for j in range(i)]
    return float(torch.stack(fallen).mean())


def backward_transfer(matrix: Tensor) -> float:
    r"""Return what learning later tasks did to the earlier ones, on average.

    .. math:: \mathrm{BWT} = \frac{1}{M - 1} \sum_{j=0}^{M-2} \big( R_{M-1,j} - R_{jj} \big)

    Negative is forgetting, measured from the accuracy that a task had when it was just learnt;
    positive means that later tasks have helped.

    Parameters
    ----------
    matrix
        R, shape (M, M), M at least 2.

    Returns
    -------
    float
        In [-1, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`average_accuracy`; and for the matrix of one task.

    References
    ----------
    Lopez-Paz and Ranzato, Gradient Episodic Memory, 2017, equation 3. In the chapter:
    ``eq-backward-transfer``.

    Examples
    --------
    >>> round(backward_transfer(torch.tensor([[0.9, 0.0], [0.4, 0.8]])), 3)
    -0.5
    """
    R = _checked(matrix)
    last = _last_of_several(R, "Backward transfer")
    return float((R[last, :last] - R.diagonal()[:last]).mean())


def forward_transfer(matrix: Tensor, untrained: Sequence[float]) -> float:
    r"""Return what earlier tasks did for later ones before these were learnt, on average.

    .. math:: \mathrm{FWT} = \frac{1}{M - 1} \sum_{j=1}^{M-1} \big( R_{j-1,j} - b_j \big)

    where :math:`b_j`, ``untrained``, is the accuracy of the untrained network on task j.

    Parameters
    ----------
    matrix
        R, shape (M, M), M at least 2, made with ``ahead=True``.
    untrained
        M accuracies in [0, 1]; the first is not used.

    Returns
    -------
    float
        In [-1, 1].

    Raises
    ------
    TypeError, ValueError
        As :func:`backward_transfer`; if the matrix has NaN above the diagonal, or there are not M
        accuracies.

    References
    ----------
    Lopez-Paz and Ranzato, Gradient Episodic Memory, 2017, equation 4. In the chapter:
    ``eq-forward-transfer``.

    Examples
    --------
    >>> round(forward_transfer(torch.tensor([[0.9, 0.7], [0.4, 0.8]]), [0.5, 0.5]), 3)
    0.2
    """
    R = _checked(matrix)
    last = _last_of_several(R, "Forward transfer")
    _check_numbers("untrained", untrained, high=1)
    if len(untrained) != len(R):
        raise ValueError(
            f"untrained must be {len(R)} accuracies, one a task; got {len(untrained)}."
        )
    before = R.diagonal(offset=1)  # (M - 1,): R[j - 1, j]
    if bool(torch.isnan(before).any()):
        raise ValueError(
            "matrix is NaN above the diagonal: tasks that were not learnt yet were not tested. "
            "Make it with accuracy_matrix(..., ahead=True), of a learner that can answer them."
        )
    b = torch.tensor([float(value) for value in untrained[1:]], dtype=torch.float64)
    return float((before - b).sum() / last)


def transfer_score(curve: Sequence[float], baseline: Sequence[float]) -> float:
    r"""Return the performance with transfer relative to training from scratch.

    .. math:: S = \frac{\sum_t a_t}{\sum_t b_t}

    where

    - :math:`a_t`, ``curve``: performance at M points in training, more is better;
    - :math:`b_t`, ``baseline``: that of baseline 1, a single column trained on the target alone.

    1 means no gain; it is often given in per cent. With one point each, it compares the final
    performances; with a whole curve, the areas under them, so that learning sooner counts as well.

    Parameters
    ----------
    curve, baseline
        M numbers of at least 0 each, at the same evenly spaced points in training.

    Returns
    -------
    float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If the lengths differ, a number is negative or NaN, or the baseline is 0 throughout.

    References
    ----------
    Rusu et al., Progressive Neural Networks, 2016, section 4. In the chapter:
    ``eq-transfer-score``.

    Examples
    --------
    >>> round(transfer_score([0.6, 0.9], [0.3, 0.7]), 2)
    1.5
    """
    _check_numbers("curve", curve)
    _check_numbers("baseline", baseline)
    if len(curve) != len(baseline) or len(curve) == 0:
        raise ValueError(
            "curve and baseline must have the same number of points, at least 1; got "
            f"{len(curve)} and {len(baseline)}."
        )
    if sum(baseline) == 0:
        raise ValueError("baseline is 0 at all points: nothing can be measured relative to it.")
    return float(sum(curve) / sum(baseline))


def _checked(matrix: Tensor) -> Tensor:
    """Return R in float64; raise unless it is square, with accuracies up to the diagonal."""
    try:
        R = torch.as_tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"matrix must be a tensor of accuracies, (M, M), got {type(matrix).__name__}."
        ) from None
    if R.ndim != 2 or R.shape[0] != R.shape[1] or len(R) == 0:
        raise ValueError(f"matrix must have shape (M, M), a row a step; got {shape_of(R)}.")
    below = R[torch.ones_like(R).tril().bool()]
    if bool(torch.isnan(below).any()):
        raise ValueError("matrix contains NaN on or below the diagonal: a result is missing.")
    known = R[~torch.isnan(R)]
    if bool((known < 0).any()) or bool((known > 1).any()):
        raise ValueError(
            "matrix must hold accuracies in [0, 1], got values from "
            f"{float(known.min()):g} to {float(known.max()):g}. Divide per cents by 100."
        )
    return R


def _step(step: int, n: int) -> int:
    check_int("step", step, low=-n, high=n - 1)
    return step % n


def _last_of_several(R: Tensor, measure: str) -> int:
    if len(R) == 1:
        raise ValueError(f"{measure} is measured between tasks: the matrix has one, it takes two.")
    return len(R) - 1


def _check_numbers(name: str, values: Sequence[float], *, high: float | None = None) -> None:
    """Raise unless ``values`` is a sequence of numbers from 0 to ``high``."""
    try:
        len(values)
    except TypeError:  # one number, or NumPy's and torch's arrays of no dimension
        raise TypeError(
            f"{name} must be a sequence of numbers, such as a list; got {values!r} "
            f"({type(values).__name__})."
        ) from None
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, low=0, high=high)
