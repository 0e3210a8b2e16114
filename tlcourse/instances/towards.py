r"""Learn the target towards the source: the source's weights are where those of the target begin.

A penalty holds the weights of logistic regression near a multiple of the source's, in the place of
near 0 (Chelba and Acero, 2004). How near is chosen on held-out samples of the target, and 0 is
among the choices: then nothing is transferred. So is which solution of the source, where several
are given, such as coarse and fine ones (Eaton and desJardins, 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tlcourse._checks import check_int, check_number
from tlcourse.instances.selection import checked

Array = NDArray[Any]
Linear = tuple[Array, Array]  # weights (K, D), offsets (K,)


class TowardsSource(ClassifierMixin, BaseEstimator):
    r"""Logistic regression whose weights are held near those of the source.

    .. math::

        \min_{W, b} \; C \sum_{i=1}^{n} -\ln \operatorname{softmax}(W x_i + b)_{y_i}
        + \tfrac{1}{2} \lVert W - \gamma W_S \rVert^2

    where

    - :math:`W` (K, D) and :math:`b` (K,): weights and offsets, one row a class;
    - :math:`W_S` (K, D): the source's weights;
    - :math:`\gamma`: the pull, chosen from ``pulls`` by the likelihood of held-out target samples;
      at 0 the source is rejected, and this is plain logistic regression;
    - :math:`C`: the weight of the n labelled samples against the penalty.

    Offsets are free, and begin at the source's.

    Parameters
    ----------
    C
        Above 0.
    pulls
        What :math:`\gamma` is chosen from, at least one number of 0 or more. One alone is taken
        without choosing.
    folds
        At least 2; no more are made than the rarest class has samples.

    Attributes
    ----------
    coef_, intercept_ : ndarray
        W, (K, D), and b, (K,).
    classes_ : ndarray
        The classes of the target.
    solution_ : str or None
        The name of the chosen solution of the source; ``None`` where the pull is 0.
    pull_ : float
        The chosen pull.
    scores_ : dict
        The mean log-likelihood of held-out samples by (solution, pull); empty without a choice.

    References
    ----------
    Chelba and Acero, Adaptation of Maximum Entropy Capitalizer, 2004. Li, Grandvalet and Davoine
    (2018) do so with networks and call it L2-SP. In the chapter: ``eq-towards-source``.

    Examples
    --------
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> source = LogisticRegression().fit(np.repeat(X, 20, 0) + 0.2, np.repeat(y, 20))
    >>> TowardsSource(pulls=[1.0]).fit(X, y, source=source).predict([[0.5], [2.5]])
    array([0, 1])
    """

    def __init__(
        self, C: float = 1.0, pulls: Sequence[float] = (0.0, 0.5, 1.0), folds: int = 5
    ) -> None:
        self.C = C
        self.pulls = pulls
        self.folds = folds

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, source: Any | Mapping[str, Any] | None = None
    ) -> TowardsSource:
        """Learn from the target X (n, D), y (n,), towards fitted linear classifiers of the source.

        ``source`` is one such classifier, of the target's classes, or several by name; without one,
        this is plain logistic regression.

        Raises
        ------
        TypeError, ValueError
            If a source is not linear or of other features or classes, a setting is out of range,
            the target has one class, or there is nothing to hold out where there is a choice.
        """
        check_number("C", self.C, above=0)
        check_int("folds", self.folds, low=2)
        pulls = [float(pull) for pull in self.pulls]
        if not pulls or not all(np.isfinite(pull) and pull >= 0 for pull in pulls):
            raise ValueError(f"pulls must be numbers of 0 or more, at least one, got {self.pulls}.")
        target, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        self.classes_, k = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"The target has one class, {self.classes_[0]!r}: nothing can be told apart. Give "
                "labels of 2 classes or more."
            )
        K, D = len(self.classes_), target.shape[1]
        named = source if isinstance(source, Mapping) else {} if source is None else {"": source}
        solutions = {name: self._weights(model, name) for name, model in named.items()}
        nothing: Linear = (np.zeros((K, D)), np.zeros(K))

        choices: dict[tuple[str | None, float], Linear] = {}
        for pull in pulls if solutions else [0.0]:
            if pull == 0:
                choices[None, 0.0] = nothing
            else:
                for name, (W, b) in solutions.items():
                    choices[name, pull] = (pull * W, pull * b)
        self.scores_: dict[tuple[str | None, float], float] = {}
        if len(choices) > 1:
            rarest = int(np.bincount(k).min())
            if rarest < 2:
                raise ValueError(
                    "A class has one sample: nothing can be held out to choose the pull by. Give "
                    "2 samples of each class or more, or a single pull."
                )
            folds = StratifiedKFold(min(self.folds, rarest), shuffle=True, random_state=0)
            splits = list(folds.split(target, k))
            for choice, near in choices.items():
                found = 0.0
                for known, held in splits:
                    W, b = _fit(target[known], k[known], self.C, near)
                    found += _log_p(target[held], k[held], W, b).sum()
                self.scores_[choice] = found / len(k)
            best = max(self.scores_, key=self.scores_.__getitem__)
        else:
            best = next(iter(choices))
        self.solution_, self.pull_ = best
        self.coef_, self.intercept_ = _fit(target, k, self.C, choices[best])
        return self

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the logits, (n, K); for two classes, those of the second less those of the first.

        Raises
        ------
        sklearn.exceptions.NotFittedError, ValueError
            Before ``fit``; if X has other features than those fitted, or there is NaN.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of each class, (n, K)."""
        probabilities: Array = softmax(self._logits(X), axis=1)
        return probabilities

    def predict(self, X: ArrayLike) -> Array:
        """Return the class of each sample, (n,)."""
        logits = self._logits(X)  # before classes_, which is not there without a fit
        return self.classes_[logits.argmax(1)]

    def _logits(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        logits: Array = validate_data(self, X, reset=False) @ self.coef_.T + self.intercept_
        return logits

    def _weights(self, model: Any, name: str) -> Linear:
        """Return a linear classifier's weights (K, D) and offsets (K,), a row for each class."""
        for needed in ("coef_", "intercept_", "classes_"):
            if not hasattr(model, needed):
                raise TypeError(
                    f"source must be fitted and linear: {type(model).__name__} {name!r} has no "
                    f"{needed}. A LogisticRegression has after its fit."
                )
        if not np.array_equal(model.classes_, self.classes_):
            raise ValueError(
                f"source {name!r} has the classes {np.asarray(model.classes_).tolist()}, the "
                f"target {self.classes_.tolist()}; they must be the same."
            )
        W, b = np.asarray(model.coef_, float), np.asarray(model.intercept_, float)
        if len(W) == 1:  # of two classes: the second's logit against the first's
            W, b = np.concatenate([-W, W]) / 2, np.concatenate([-b, b]) / 2
        if W.shape[1] != self.n_features_in_:
            raise ValueError(
                f"source {name!r} has {W.shape[1]} features and the target {self.n_features_in_}; "
                "they must be the same."
            )
        return W, b


def resolutions(
    X: ArrayLike, y: ArrayLike, components: Sequence[int], *, C: float = 1.0
) -> dict[str, LogisticRegression]:
    """Return solutions of a source from coarse to fine, each a linear classifier of its samples.

    A solution sees the samples' first principal components only: few are coarse, many fine. Eaton
    and desJardins (2006) choose from ensembles of such solutions where to stop sharing: what is
    fine is more particular to its source. Theirs differ in the complexity of the model; here
    components stand for it, so that all solutions are weights of the same features.

    Parameters
    ----------
    X, y
        The source's samples (n_S, D) and labels (n_S,).
    components
        How many components for each solution, from 1 to min(n_S, D).
    C
        Of logistic regression.

    Returns
    -------
    dict
        By the number of components, in words, a classifier of the D features.

    Raises
    ------
    TypeError, ValueError
        If ``components`` is out of range, or shapes do not go together.

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [3.0, 0.5]])
    >>> found = resolutions(X, [0, 0, 1, 1], [1, 2])
    >>> list(found), found["1"].coef_.shape
    (['1', '2'], (1, 2))
    """
    samples, labels = checked(X, y)
    found: dict[str, LogisticRegression] = {}
    for r in components:
        check_int("components", r, low=1, high=min(samples.shape))
        pca, coarse = make_pipeline(PCA(r), LogisticRegression(C=C, max_iter=2_000)).fit(
            samples, labels
        )
        fine = LogisticRegression(C=C)
        fine.classes_, fine.n_features_in_ = coarse.classes_, samples.shape[1]
        fine.coef_ = coarse.coef_ @ pca.components_
        fine.intercept_ = coarse.intercept_ - fine.coef_ @ pca.mean_
        found[str(r)] = fine
    return found


def _fit(X: Array, k: Array, C: float, near: Linear) -> Linear:
    """Return the W and b of least loss; ``near`` is the W that the penalty holds to, and its b."""
    (W0, b0), one_hot = near, np.eye(len(near[1]))[k]

    def loss_and_gradient(flat: Array) -> tuple[float, Array]:
        W, b = flat[: W0.size].reshape(W0.shape), flat[W0.size :]
        log_p = log_softmax(X @ W.T + b, axis=1)
        error = C * (np.exp(log_p) - one_hot)  # (n, K)
        loss = -C * log_p[np.arange(len(k)), k].sum() + ((W - W0) ** 2).sum() / 2
        return loss, np.concatenate([(error.T @ X + W - W0).ravel(), error.sum(0)])

    start = np.concatenate([W0.ravel(), b0])
    # A tolerance as of scikit-learn's own: weights are the same to three digits, in half the time.
    tolerance = {"maxiter": 2_000, "ftol": 1e-7, "gtol": 1e-4}
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=tolerance)
    return found.x[: W0.size].reshape(W0.shape), found.x[W0.size :]


def _log_p(X: Array, k: Array, W: Array, b: Array) -> Array:
    log_p: Array = log_softmax(X @ W.T + b, axis=1)[np.arange(len(k)), k]
    return np.maximum(log_p, np.log(1e-6))
