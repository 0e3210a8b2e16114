r"""Transfer only what holds on the target: reject samples, or a whole source, that contradict it.

What may be rejected is a sample (Jiang and Zhai, 2007) or a source. What decides are the labelled
samples of the target: they are few, so a decision may be wrong, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import check_is_fitted, check_X_y

from tlcourse._checks import check_int

Array = NDArray[Any]
Samples = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True)
class SourceChoice:
    """What :func:`select_source` chose.

    Attributes
    ----------
    name
        The chosen source, or ``None`` where all are rejected.
    scores
        The mean log-likelihood of a held-out target sample, for each source and for ``None``.
    """

    name: str | None
    scores: Mapping[str | None, float]


def select_source(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    sources: Mapping[str, Samples],
    *,
    folds: int = 5,
    seed: int = 0,
) -> SourceChoice:
    r"""Choose the source that helps most on held-out samples of the target, or none.

    .. math::

        \hat{s} = \arg\max_{s \in \{\emptyset, 1, \ldots, S\}} \;
        \frac{1}{n} \sum_{i=1}^{n} \ln p_{s, -f(i)}(y_i \mid x_i)

    where

    - :math:`p_{s, -f}`: the estimator, fitted to source s and to the target's samples outside fold
      f, as they are; :math:`\emptyset` is no source;
    - :math:`x_i, y_i`: the n labelled samples of the target, each held out once.

    The likelihood is compared rather than the accuracy, since of so few samples it says more.

    Parameters
    ----------
    estimator
        A classifier with ``predict_proba``. It is cloned.
    X, y
        The target's samples (n, D) and labels (n,), at least two of each class.
    sources
        A pair (samples, labels) by name; their classes are among the target's.
    folds
        At least 2; no more are made than the rarest class has samples.
    seed
        Of the folds.

    Raises
    ------
    TypeError, ValueError
        If a class has a single sample, so that nothing can be held out, there is no source, a
        shape or a class does not fit, or the estimator gives no probabilities.

    References
    ----------
    Torrey and Shavlik, Transfer Learning, 2009, on rejecting bad information and choosing a source
    task. In the chapter: ``eq-select-source``.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> sources = {"alike": (X + 0.2, y), "opposite": (X, 1 - y)}
    >>> select_source(LogisticRegression(), X, y, sources).name
    'alike'
    """
    check_int("folds", folds, low=2)
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"estimator must have predict_proba, {type(estimator).__name__} has not. A logistic "
            "regression has."
        )
    target, labels = checked(X, y)
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise ValueError(
            f"The target must have at least 2 samples of each of 2 classes or more, one to learn "
            "from and one to hold out; got "
            f"{dict(zip(classes.tolist(), counts.tolist(), strict=True))}."
        )
    if not sources:
        raise ValueError("sources is empty: there is nothing to choose from.")
    candidates: dict[str | None, tuple[Array, Array]] = {None: (target[:0], labels[:0])}
    candidates |= {
        name: check_source(source, target, classes, name) for name, source in sources.items()
    }
    splits = StratifiedKFold(min(folds, int(counts.min())), shuffle=True, random_state=seed)
    scores: dict[str | None, float] = {}
    for name, (Xs, ys) in candidates.items():
        total = 0.0
        for known, held in splits.split(target, labels):
            model = clone(estimator).fit(
                np.concatenate([Xs, target[known]]), np.concatenate([ys, labels[known]])
            )
            total += log_likelihood(model, target[held], labels[held]).sum()
        scores[name] = total / len(labels)
    return SourceChoice(max(scores, key=scores.__getitem__), scores)


def reject_contradicted(model: Any, source: Samples) -> tuple[Array, Array]:
    """Return the source's samples that a model of the target does not contradict.

    Jiang and Zhai (2007) leave out the source samples that a classifier learnt on the target alone
    gets wrong, those of which it is most sure first; here all are left out. A classifier that has
    seen few samples contradicts good ones, too.

    Parameters
    ----------
    model
        A classifier, fitted to the target.
    source
        A pair (samples (n_S, D), labels (n_S,)).

    Returns
    -------
    (ndarray, ndarray)
        The samples and labels that stay; there may be none.

    Raises
    ------
    TypeError, ValueError
        If the source is no such pair, or of other features or classes than the model.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    References
    ----------
    Jiang and Zhai, Instance Weighting for Domain Adaptation in NLP, 2007, section 3.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> model = LogisticRegression().fit(X, y)
    >>> reject_contradicted(model, ([[0.5], [2.5], [0.5]], [0, 1, 1]))[1]
    array([0, 1])
    """
    check_is_fitted(model)
    Xs, ys = check_source(source, np.empty((0, model.n_features_in_)), model.classes_, "source")
    kept = model.predict(Xs) == ys
    return Xs[kept], ys[kept]


def check_source(source: Samples, X: Array, classes: Array, name: str) -> tuple[Array, Array]:
    """Return a source as arrays, or raise where it does not go with the target."""
    if not isinstance(source, tuple) or len(source) != 2:
        raise TypeError(
            f"{name} must be a pair (X, y) of samples and labels, got {type(source).__name__}."
        )
    Xs, ys = checked(*source)
    if Xs.shape[1] != X.shape[1]:
        raise ValueError(
            f"{name} has {Xs.shape[1]} features and the target {X.shape[1]}; they must be the same."
        )
    strange = set(np.unique(ys).tolist()) - set(classes.tolist())
    if strange:
        raise ValueError(
            f"{name} has classes that the target lacks: {sorted(strange)}; those of the target are "
            f"{classes.tolist()}. Leave them out of the source."
        )
    return Xs, ys


def checked(X: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Return samples and labels as arrays, or raise what scikit-learn raises."""
    found: tuple[Array, Array] = check_X_y(X, y)
    return found


def log_likelihood(model: Any, X: Array, y: Array) -> Array:
    """Return the log-probability of each label, (n,), not below that of a millionth."""
    column = np.searchsorted(model.classes_, y)
    probability: Array = model.predict_proba(X)[np.arange(len(y)), column]
    return np.log(np.maximum(probability, 1e-6))
