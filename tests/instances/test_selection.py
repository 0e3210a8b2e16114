"""Choosing a source by held-out samples, and rejecting samples that the target contradicts."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from tlcourse.instances import reject_contradicted, select_source

LEARNER = LogisticRegression()


def task(n, turn=0.0, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(n, 2))
    return X, (X @ [np.cos(turn), np.sin(turn)] > 0).astype(int)


X, Y = task(12)
ALIKE, OPPOSITE = task(200, 0.1, seed=1), task(200, np.pi, seed=2)


def test_the_alike_source_is_chosen_whatever_its_place():
    for sources in ({"a": ALIKE, "b": OPPOSITE}, {"b": OPPOSITE, "a": ALIKE}):
        found = select_source(LEARNER, X, Y, sources)
        assert found.name == "a"
        assert found.scores["a"] > found.scores[None] > found.scores["b"]


def test_what_only_hurts_is_rejected():
    assert select_source(LEARNER, X, Y, {"b": OPPOSITE}).name is None


@pytest.mark.equation("eq-select-source")
def test_a_score_is_the_mean_likelihood_of_samples_held_out():
    found = select_source(LEARNER, X, Y, {"a": ALIKE}, folds=3, seed=5)
    for name, (Xs, ys) in {"a": ALIKE, None: (X[:0], Y[:0])}.items():
        said = []
        for known, held in StratifiedKFold(3, shuffle=True, random_state=5).split(X, Y):
            model = LogisticRegression().fit(np.vstack([Xs, X[known]]), np.r_[ys, Y[known]])
            said += [
                np.log(model.predict_proba([x])[0, y])
                for x, y in zip(X[held], Y[held], strict=True)
            ]
        assert len(said) == len(Y)
        assert found.scores[name] == pytest.approx(np.mean(said))


def test_the_estimator_and_the_samples_are_left_alone():
    mine, before = LogisticRegression(), X.copy()
    select_source(mine, X, Y, {"a": ALIKE})
    assert not hasattr(mine, "coef_")
    np.testing.assert_array_equal(X, before)


def test_a_class_of_which_the_model_is_sure_and_wrong_counts_finitely():
    sure = LogisticRegression(C=1e6, max_iter=10_000)
    found = select_source(sure, X, Y, {"b": (np.repeat(X, 50, 0) * 100, np.repeat(1 - Y, 50))})
    assert np.isfinite(list(found.scores.values())).all()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"estimator": LinearSVC()}, TypeError, "must have predict_proba, LinearSVC has not"),
        ({"y": np.r_[np.zeros(11), 1]}, ValueError, "at least 2 samples of each"),
        ({"y": np.zeros(12)}, ValueError, "at least 2 samples of each"),
        ({"sources": {}}, ValueError, "sources is empty"),
        ({"sources": {"a": ALIKE[0]}}, TypeError, r"a must be a pair \(X, y\)"),
        ({"sources": {"a": (ALIKE[0][:, :1], ALIKE[1])}}, ValueError, "a has 1 features"),
        ({"sources": {"a": (ALIKE[0], ALIKE[1] + 7)}}, ValueError, "target lacks"),
        ({"sources": {"a": (ALIKE[0] * np.nan, ALIKE[1])}}, ValueError, "NaN"),
        ({"folds": 1}, ValueError, "folds"),
    ],
)
def test_bad_input_is_named(change, error, said):
    given = {"estimator": LEARNER, "X": X, "y": Y, "sources": {"a": ALIKE}} | change
    with pytest.raises(error, match=said):
        select_source(**given)


def test_samples_that_the_target_contradicts_are_rejected():
    model = LogisticRegression().fit(*task(300, seed=3))
    flipped = np.arange(200) < 60
    Xs, ys = ALIKE[0], np.where(flipped, 1 - ALIKE[1], ALIKE[1])
    kept_X, kept_y = reject_contradicted(model, (Xs, ys))
    right = model.predict(Xs) == ys
    np.testing.assert_array_equal(kept_X, Xs[right])
    np.testing.assert_array_equal(kept_y, ys[right])
    assert len(kept_y) < 150
    assert right[flipped].mean() < 0.1 < 0.9 < right[~flipped].mean()


def test_a_source_of_nothing_but_contradictions_leaves_no_sample():
    model = LogisticRegression().fit(X, Y)
    kept_X, kept_y = reject_contradicted(model, (X, 1 - model.predict(X)))
    assert kept_X.shape == (0, 2)
    assert len(kept_y) == 0


def test_rejecting_needs_a_fitted_model_of_the_same_features():
    with pytest.raises(NotFittedError):
        reject_contradicted(LogisticRegression(), ALIKE)
    with pytest.raises(ValueError, match="source has 1 features and the target 2"):
        reject_contradicted(LogisticRegression().fit(X, Y), (ALIKE[0][:, :1], ALIKE[1]))
    with pytest.raises(ValueError, match="target lacks"):
        reject_contradicted(LogisticRegression().fit(X, Y), (ALIKE[0], ALIKE[1] + 1))
