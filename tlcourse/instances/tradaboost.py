r"""TrAdaBoost: boosting that trusts less and less in source samples which the target contradicts.

Source samples that are misclassified are taken for unlike the target, and lose weight; target
samples that are misclassified are taken for hard, and gain it (Dai et al., 2007).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_X_y, has_fit_parameter, validate_data

from tlcourse._checks import check_int

Array = NDArray[Any]


class TrAdaBoost(ClassifierMixin, BaseEstimator):
    r"""Boost a classifier on a small target with a larger source beside it.

    In round t a classifier :math:`h_t` is fitted to both with the weights w. Its error counts on
    the target alone,

    .. math::

        e_t = \frac{\sum_{i \in T} w_i [h_t(x_i) \ne y_i]}{\sum_{i \in T} w_i}, \qquad
        \beta_t = \frac{e_t}{1 - e_t}, \qquad
        \beta = \frac{1}{1 + \sqrt{2 \ln n_S / N}}

    .. math::

        w_i \leftarrow w_i\, \beta^{[h_t(x_i) \ne y_i]} \quad (i \in S), \qquad
        w_i \leftarrow w_i\, \beta_t^{-[h_t(x_i) \ne y_i]} \quad (i \in T)

    where

    - S and T: the source's and the target's samples, :math:`n_S` and :math:`n_T` of them;
    - :math:`N`, ``n_estimators``: the number of rounds.

    After its round a classifier is wrong on exactly half of the target's weight. The answer is the
    class with the largest sum of :math:`\ln(1 / \beta_t)`, over the second half of the rounds: in
    the first half the source still has its say. The paper has two classes; with more, the same
    holds with an error that is any other class.

    The paper leaves open two cases. With :math:`e_t = 0` a vote would be infinite: it is counted as
    that of an error of :math:`1 / (2 n_T)`. With :math:`e_t \ge 1/2`, as where the source still has
    most of the weight, the target's weights would shrink where the classifier is wrong: they stay,
    the round has no vote, and the source loses weight as ever. If no round of the second half is
    better than a guess, a warning says so. So it may be with a large source that says the opposite:
    the classifier agrees with it, and what it agrees with loses no weight.

    Without a source it is AdaBoost.M1, whose vote is over all rounds.

    Parameters
    ----------
    estimator
        A classifier whose ``fit`` takes ``sample_weight``; by default a decision tree of depth 1.
    n_estimators
        N, at least 1.

    Attributes
    ----------
    estimators_ : list
        The classifiers, one a round.
    errors_ : ndarray
        e, shape (rounds,).
    weights_ : ndarray
        Shape (rounds + 1, n_S + n_T): the weights before each round and after the last, the
        source's first; each row has the sum 1.
    classes_ : ndarray
        The classes of the target.

    References
    ----------
    Dai, Yang, Xue and Yu, Boosting for Transfer Learning, 2007, figure 2.
    In the chapter: ``eq-tradaboost-error``, ``eq-tradaboost-weights`` and ``eq-tradaboost-vote``.

    Examples
    --------
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> shifted, same = X + 1, y
    >>> model = TrAdaBoost(n_estimators=5).fit(X, y, source=(shifted, same))
    >>> model.predict([[1.1], [2.1]])
    array([0, 1])
    """

    def __init__(self, estimator: Any = None, n_estimators: int = 10) -> None:
        self.estimator = estimator
        self.n_estimators = n_estimators

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, source: tuple[ArrayLike, ArrayLike] | None = None
    ) -> TrAdaBoost:
        """Boost on the target X (n_T, D), y (n_T,), and a source, a pair of the same form.

        In a pipeline or a search the source comes by metadata routing: ``set_fit_request(
        source=True)``. It is then passed through no step before this one.

        Raises
        ------
        TypeError, ValueError
            If shapes do not go together, there is NaN, the target has one class, the source has
            classes that the target lacks, or the estimator takes no weights.
        """
        check_int("n_estimators", self.n_estimators, low=1)
        learner = DecisionTreeClassifier(max_depth=1) if self.estimator is None else self.estimator
        if not has_fit_parameter(learner, "sample_weight"):
            raise TypeError(
                f"estimator must take sample_weight in fit; {type(learner).__name__} does not. A "
                "tree, a logistic regression or an SVM does."
            )
        target, given = validate_data(self, X, y)
        check_classification_targets(given)
        self.classes_, target_labels = np.unique(given, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"The target has one class, {self.classes_[0]!r}: nothing can be told apart. Give "
                "labels of 2 classes or more."
            )
        source_X, source_labels = self._source(source, target)
        n_source, n_target = len(source_X), len(target)
        samples = np.concatenate([source_X, target])
        labels = np.concatenate([source_labels, target_labels])
        own = np.arange(len(samples)) >= n_source  # the target's

        beta = 1 / (1 + np.sqrt(2 * np.log(n_source) / self.n_estimators)) if n_source else 1.0
        weights = np.full(len(samples), 1 / len(samples))
        self.estimators_: list[Any] = []
        errors: list[float] = []
        kept = [weights]
        for _ in range(self.n_estimators):
            fitted = clone(learner).fit(samples, labels, sample_weight=weights)
            wrong = fitted.predict(samples) != labels
            error = weights[own & wrong].sum() / weights[own].sum()
            self.estimators_.append(fitted)
            errors.append(error)
            if 0 < error < 0.5:
                weights = np.where(own & wrong, weights * (1 - error) / error, weights)
            weights = np.where(~own & wrong, weights * beta, weights)
            weights = weights / weights.sum()
            kept.append(weights)
            if not n_source and not 0 < error < 0.5:
                break  # nothing changes any more
        self.errors_, self.weights_ = np.array(errors), np.stack(kept)
        first = (len(errors) - 1) // 2 if n_source else 0  # the rounds ceil(N/2) to N
        counted = np.minimum(self.errors_[first:], 0.5)
        bounded = np.where(counted > 0, counted, 1 / (2 * n_target))
        self._voters = self.estimators_[first:]
        self._votes = np.log((1 - bounded) / bounded)
        if self._votes.sum() == 0:
            warnings.warn(
                "No round of TrAdaBoost's second half is better than a guess on the target's "
                "weight; all of them vote alike. Try a stronger estimator or more rounds, or look "
                "whether the source says anything of the target.",
                RuntimeWarning,
                stacklevel=2,
            )
            self._votes = np.ones(len(bounded))
        return self

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the votes, (n, K), each row of sum 1; for two classes, that of the second - 1/2.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        ValueError
            If X has other features than those fitted, or there is NaN.
        """
        check_is_fitted(self)
        samples: Array = validate_data(self, X, reset=False)
        total = np.zeros((len(samples), len(self.classes_)))
        for learner, vote in zip(self._voters, self._votes, strict=True):
            total[np.arange(len(samples)), learner.predict(samples)] += vote
        total /= self._votes.sum()
        return total[:, 1] - 0.5 if len(self.classes_) == 2 else total

    def predict(self, X: ArrayLike) -> Array:
        """Return the class of each sample, (n,); a tie goes to the first."""
        votes = self.decision_function(X)
        chosen = (votes > 0).astype(int) if votes.ndim == 1 else votes.argmax(1)
        return self.classes_[chosen]

    def _source(self, source: tuple[ArrayLike, ArrayLike] | None, X: Array) -> tuple[Array, Array]:
        """Return the source's samples, and its labels as positions in ``classes_``."""
        if source is None:
            return np.empty((0, X.shape[1]), X.dtype), np.empty(0, np.int64)
        if not isinstance(source, tuple) or len(source) != 2:
            raise TypeError(
                f"source must be a pair (X, y) of samples and labels, got {type(source).__name__}."
            )
        source_X, source_y = check_X_y(*source)
        if source_X.shape[1] != X.shape[1]:
            raise ValueError(
                f"The source has {source_X.shape[1]} features and the target {X.shape[1]}; they "
                "must be the same."
            )
        strange = set(np.unique(source_y).tolist()) - set(self.classes_.tolist())
        if strange:
            raise ValueError(
                f"The source has classes that the target lacks: {sorted(strange)}; those of the "
                f"target are {self.classes_.tolist()}. Leave them out of the source."
            )
        return source_X, np.searchsorted(self.classes_, source_y)
