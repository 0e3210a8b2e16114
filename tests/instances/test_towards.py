"""Weights towards the source: the ends of the pull, the optimum, the choice, scikit-learn's API."""

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlcourse.instances import TowardsSource, resolutions


def task(n, move=0.0, seed=0):
    """Three classes in four dimensions, their centres moved."""
    draw = np.random.default_rng(seed)
    centres = np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]) + move
    y = np.arange(n) % 3
    return centres[y] + draw.normal(size=(n, 4)), y


X, Y = task(18)
SOURCE = LogisticRegression().fit(*task(300, 0.3, seed=1))
OTHER = LogisticRegression().fit(task(300, seed=2)[0], (task(300)[1] + 1) % 3)  # names exchanged


def test_without_a_pull_it_is_logistic_regression():
    plain = LogisticRegression(C=0.7, tol=1e-8).fit(X, Y)
    for model in (
        TowardsSource(0.7, [0.0]).fit(X, Y, source=SOURCE),
        TowardsSource(0.7, [1.0]).fit(X, Y),
    ):
        np.testing.assert_allclose(model.coef_, plain.coef_, atol=2e-3)
        np.testing.assert_allclose(model.predict_proba(X), plain.predict_proba(X), atol=2e-3)
        assert model.solution_ is None


def test_with_hardly_any_weight_on_the_samples_it_is_the_source():
    model = TowardsSource(1e-9, [1.0]).fit(X, Y, source=SOURCE)
    np.testing.assert_allclose(model.coef_, SOURCE.coef_, atol=1e-6)
    half = TowardsSource(1e-9, [0.5]).fit(X, Y, source=SOURCE)
    np.testing.assert_allclose(half.coef_, SOURCE.coef_ / 2, atol=1e-6)


@pytest.mark.equation("eq-towards-source")
def test_the_weights_are_where_the_loss_is_least():
    model = TowardsSource(0.5, [0.8]).fit(X, Y, source=SOURCE)

    def loss(W, b):
        z = X @ W.T + b
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -0.5 * log_p[np.arange(18), Y].sum() + ((W - 0.8 * SOURCE.coef_) ** 2).sum() / 2

    least = loss(model.coef_, model.intercept_)
    draw = np.random.default_rng(0)
    for size in (0.3, 0.05):
        for _ in range(20):
            W = model.coef_ + size * draw.normal(size=(3, 4))
            assert loss(W, model.intercept_ + size * draw.normal(size=3)) > least


def test_two_classes_with_a_single_row_of_weights():
    two = Y < 2
    binary = LogisticRegression().fit(task(300)[0][task(300)[1] < 2], np.tile([0, 1], 100))
    model = TowardsSource(1e-9, [1.0]).fit(X[two], Y[two], source=binary)
    np.testing.assert_allclose(
        model.decision_function(X) - model.decision_function(X).mean(),
        binary.decision_function(X) - binary.decision_function(X).mean(),
        atol=1e-5,
    )
    assert model.predict_proba(X).shape == (18, 2)
    np.testing.assert_array_equal(model.predict(X), (model.decision_function(X) > 0).astype(int))


def test_the_pull_is_chosen_by_held_out_samples():
    pulls = [TowardsSource().fit(*task(9, seed=s), source=SOURCE).pull_ for s in range(4, 9)]
    assert sorted(pulls)[1] > 0  # of five draws, in four at least
    rejected = TowardsSource().fit(X, Y, source=OTHER)
    assert (rejected.pull_, rejected.solution_) == (0, None)
    assert max(rejected.scores_, key=rejected.scores_.get) == (None, 0.0)
    assert len(rejected.scores_) == 3


def test_a_solution_is_chosen_among_several():
    model = TowardsSource().fit(X, Y, source={"other": OTHER, "alike": SOURCE})
    assert model.solution_ == "alike"
    assert set(model.scores_) == {(None, 0.0)} | {
        (name, pull) for name in ("other", "alike") for pull in (0.5, 1.0)
    }


def test_coarse_solutions_use_few_directions_and_the_finest_is_the_sources_own():
    Xs, ys = task(300, seed=1)
    found = resolutions(Xs, ys, [1, 2, 4])
    assert [np.linalg.matrix_rank(m.coef_, tol=1e-6) for m in found.values()][:2] == [1, 2]
    own = LogisticRegression().fit(Xs, ys)
    np.testing.assert_allclose(found["4"].predict_proba(X), own.predict_proba(X), atol=2e-3)
    assert found["1"].score(Xs, ys) < found["4"].score(Xs, ys)


def test_a_source_goes_through_a_pipeline_and_a_search():
    with sklearn.config_context(enable_metadata_routing=True):
        model = TowardsSource().set_fit_request(source=True)
        made = make_pipeline(StandardScaler(), model).fit(X, Y, source=SOURCE)
        assert made[-1].scores_
        search = GridSearchCV(model, {"C": [0.1, 1.0]}, cv=2).fit(X, Y, source=SOURCE)
        assert search.best_estimator_.scores_


@parametrize_with_checks([TowardsSource()])
def test_it_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("model", "call", "error", "said"),
    [
        (TowardsSource(C=0), (X, Y, SOURCE), ValueError, "C must be greater than 0"),
        (TowardsSource(pulls=[]), (X, Y, SOURCE), ValueError, "pulls"),
        (TowardsSource(pulls=[-1.0]), (X, Y, SOURCE), ValueError, "pulls"),
        (TowardsSource(folds=1), (X, Y, SOURCE), ValueError, "folds"),
        (TowardsSource(), (X, np.zeros(18), SOURCE), ValueError, "one class"),
        (TowardsSource(), (X, Y, DecisionTreeClassifier()), TypeError, "fitted and linear"),
        (TowardsSource(), (X, Y, LogisticRegression()), TypeError, "no coef_"),
        (TowardsSource(), (X[:, :3], Y, SOURCE), ValueError, "4 features and the target 3"),
        (TowardsSource(), (X, Y + 1, SOURCE), ValueError, "must be the same"),
        (TowardsSource(), (X[:4], Y[:4], SOURCE), ValueError, "A class has one sample"),
        (TowardsSource(), (X * np.nan, Y, SOURCE), ValueError, "NaN"),
    ],
)
def test_bad_input_is_named(model, call, error, said):
    X, y, source = call
    with pytest.raises(error, match=said):
        model.fit(X, y, source=source)


def test_bad_resolutions_are_named():
    with pytest.raises(ValueError, match="components"):
        resolutions(*task(30), [5])
    with pytest.raises(NotFittedError):
        TowardsSource().predict(X)
