"""The weights against the paper's formulas, the cases it leaves open, and scikit-learn's API."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn
from sklearn.ensemble import AdaBoostClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlcourse.instances import TrAdaBoost


def domains(n_source=60, n_target=20, seed=0, n_classes=2):
    """A source whose boundary is turned against the target's."""
    draw = np.random.default_rng(seed)
    Xs, Xt = draw.normal(size=(n_source, 2)), draw.normal(size=(n_target, 2))

    def label(X, angle):
        turn = np.arctan2(X[:, 1], X[:, 0]) + angle
        return ((turn + 4 * np.pi) // (2 * np.pi / n_classes)).astype(int) % n_classes

    def noisy(y):
        return np.where(draw.random(len(y)) < 0.15, (y + 1) % n_classes, y)

    return (Xs, noisy(label(Xs, 0.6))), (Xt, noisy(label(Xt, 0.0)))


def fitted(n_estimators=8, **sizes):
    source, (X, y) = domains(**sizes)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    return TrAdaBoost(tree, n_estimators).fit(X, y, source=source), source, (X, y)


def test_after_each_round_its_classifier_is_wrong_on_half_of_the_targets_weight():
    model, (Xs, _), (X, y) = fitted()
    better = [t for t, error in enumerate(model.errors_) if error < 0.5]
    assert len(better) > 3
    for t in better:
        after = model.weights_[t + 1][len(Xs) :]
        wrong = model.estimators_[t].predict(X) != y
        assert model.errors_[t] > 0
        assert after[wrong].sum() / after.sum() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.equation("eq-tradaboost-error")
@pytest.mark.equation("eq-tradaboost-weights")
def test_the_weights_are_those_of_the_paper():
    model, (Xs, ys), (X, y) = fitted(n_estimators=4, n_source=50)
    beta = 1 / (1 + math.sqrt(2 * math.log(50) / 4))
    w = np.full(70, 1 / 70)
    for t, learner in enumerate(model.estimators_):
        np.testing.assert_allclose(model.weights_[t], w, rtol=1e-12)
        wrong_s, wrong_t = learner.predict(Xs) != ys, learner.predict(X) != y
        e = w[50:][wrong_t].sum() / w[50:].sum()
        assert model.errors_[t] == pytest.approx(e)
        w = np.concatenate(
            [w[:50] * beta**wrong_s, w[50:] * (e / (1 - e)) ** -wrong_t.astype(float)]
        )
        w = w / w.sum()


def test_as_many_source_samples_as_rounds_still_lose_weight():
    """A bracket in the wrong place, ln(n_S / N), would leave them as they are."""
    model, (Xs, ys), _ = fitted(n_estimators=20, n_source=20)
    wrong = model.estimators_[0].predict(Xs) != ys
    assert wrong.any()
    assert not wrong.all()
    share = model.weights_[1][:20] / model.weights_[0][:20]
    assert share[wrong].max() < share[~wrong].min()


@pytest.mark.equation("eq-tradaboost-vote")
@pytest.mark.parametrize("rounds", [7, 8])
def test_the_vote_is_over_the_second_half_of_the_rounds(rounds):
    model, _, (X, _) = fitted(n_estimators=rounds)
    total, strength = np.zeros(len(X)), 0.0
    for t in range(math.ceil(rounds / 2), rounds + 1):  # as in the paper, counted from 1
        e = min(model.errors_[t - 1], 0.5)
        total += np.log((1 - e) / e) * model.estimators_[t - 1].predict(X)
        strength += np.log((1 - e) / e)
    np.testing.assert_array_equal(model.predict(X), (total > strength / 2).astype(int))
    np.testing.assert_allclose(model.decision_function(X), total / strength - 0.5)


def test_source_samples_that_contradict_the_target_lose_and_others_keep_their_weight():
    (Xs, ys), (X, y) = domains()
    flipped = np.arange(len(ys)) < 20
    ys = np.where(flipped, 1 - ys, ys)
    model = TrAdaBoost(DecisionTreeClassifier(max_depth=3), 12).fit(X, y, source=(Xs, ys))
    last = model.weights_[-1][: len(ys)]
    assert np.median(last[flipped]) < 0.5 * np.median(last[~flipped])


def test_perfect_rounds_have_finite_votes():
    (Xs, ys), (X, y) = domains()
    deep = DecisionTreeClassifier(random_state=0)
    model = TrAdaBoost(deep, 4).fit(X, y, source=(Xs, ys))
    assert (model.errors_ == 0).all()
    assert np.isfinite(model.decision_function(X)).all()
    np.testing.assert_array_equal(model.predict(X), y)


class Scripted(DecisionTreeClassifier):
    """Says in its first round whether the first feature is above 0, and 0 in all others."""

    def fit(self, X, y, sample_weight=None):
        self.first = np.allclose(sample_weight, sample_weight[0])
        return super().fit(X, y)

    def predict(self, X):
        return (X[:, 0] > 0).astype(int) * self.first


def test_a_perfect_round_votes_as_with_half_a_sample_wrong_and_the_source_goes_on_losing():
    (Xs, _), (X, _) = domains()
    ones = (X[:, 0] > 0).mean()
    assert ones < 0.5  # so that saying 0 is better than a guess
    model = TrAdaBoost(Scripted(), 2).fit(X, X[:, 0] > 0, source=(Xs, Xs[:, 0] <= 0))
    assert model.errors_ == pytest.approx([0, ones])
    before, after = model.weights_[:2]
    assert after[:60].sum() < before[:60].sum()
    np.testing.assert_allclose(after[60:] / after[60:].sum(), before[60:] / before[60:].sum())
    perfect, other = np.log(39), np.log((1 - ones) / ones)  # of errors 1/40 and `ones`
    votes = (X[:, 0] > 0) * perfect / (perfect + other)
    np.testing.assert_allclose(model.decision_function(X), votes - 0.5, atol=1e-12)


def test_without_a_source_a_perfect_round_is_the_last():
    _, (X, y) = domains()
    assert len(TrAdaBoost(DecisionTreeClassifier(random_state=0), 5).fit(X, y).estimators_) == 1


class Opposite(DecisionTreeClassifier):
    """Wrong on nearly everything."""

    def predict(self, X):
        return 1 - super().predict(X)


def test_a_round_no_better_than_a_guess_leaves_the_target_alone_and_the_source_loses():
    source, (X, y) = domains()
    with pytest.warns(RuntimeWarning, match="No round of TrAdaBoost's second half"):
        model = TrAdaBoost(Opposite(random_state=0), 5).fit(X, y, source=source)
    assert (model.errors_ >= 0.5).all()
    before, after = model.weights_[0], model.weights_[-1]
    np.testing.assert_allclose(after[60:] / after[60:].sum(), before[60:] / before[60:].sum())
    assert after[:60].sum() < before[:60].sum()
    assert set(model.predict(X)) <= {0, 1}


def test_a_source_that_fills_the_first_rounds_gets_no_vote():
    """Of so many opposite samples the learner is right, and they lose nothing."""
    (Xs, ys), (X, y) = domains(400, 20)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    with pytest.warns(RuntimeWarning, match="No round"):
        model = TrAdaBoost(tree, 10).fit(X, y, source=(Xs, 1 - ys))
    assert (model.predict(X) == y).mean() < 0.5


def test_a_source_of_one_class_is_a_source():
    (Xs, ys), (X, y) = domains(200, 40)
    ones = (Xs[ys == 1], ys[ys == 1])
    model = TrAdaBoost(DecisionTreeClassifier(max_depth=3), 10).fit(X, y, source=ones)
    assert set(model.predict(X)) == {0, 1}
    assert (model.predict(X) == y).mean() > 0.8


@pytest.mark.filterwarnings("ignore:No round of TrAdaBoost:RuntimeWarning")
def test_weights_that_vanish_are_zero_and_never_nan():
    (Xs, ys), (X, y) = domains(60, 20)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    model = TrAdaBoost(tree, 400).fit(X, y, source=(Xs, 1 - ys))
    assert np.isfinite(model.weights_).all()
    np.testing.assert_allclose(model.weights_.sum(1), 1)
    assert model.weights_[-1][:60].min() < 1e-12
    assert np.isfinite(model.decision_function(X)).all()


def test_without_a_source_it_is_adaboost():
    _, (X, y) = domains(n_target=80)
    stump = DecisionTreeClassifier(max_depth=1, random_state=0)
    ours = TrAdaBoost(stump, 10).fit(X, y)
    theirs = AdaBoostClassifier(stump, n_estimators=10).fit(X, y)
    np.testing.assert_allclose(ours.errors_, theirs.estimator_errors_[: len(ours.errors_)])
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_more_than_two_classes():
    source, (X, y) = domains(200, 60, n_classes=4)
    model = TrAdaBoost(DecisionTreeClassifier(max_depth=3), 10).fit(X, y, source=source)
    votes = model.decision_function(X)
    assert votes.shape == (60, 4)
    np.testing.assert_allclose(votes.sum(1), 1)
    assert (model.predict(X) == y).mean() > 0.6


def test_labels_are_given_back_as_they_were():
    source, (X, y) = domains()
    names = np.array(["no", "yes"])
    model = TrAdaBoost().fit(X, names[y], source=(source[0], names[source[1]]))
    assert set(model.predict(X)) <= {"no", "yes"}


@pytest.mark.filterwarnings("ignore:No round of TrAdaBoost:RuntimeWarning")
def test_a_source_goes_through_a_pipeline_and_a_search():
    source, (X, y) = domains()
    with sklearn.config_context(enable_metadata_routing=True):
        model = TrAdaBoost(LogisticRegression().set_fit_request(sample_weight=True), 3)
        model.set_fit_request(source=True)
        made = make_pipeline(StandardScaler(), model).fit(X, y, source=source)
        assert made[-1].weights_.shape == (4, 80)
        search = GridSearchCV(model, {"n_estimators": [2, 4]}, cv=2).fit(X, y, source=source)
        assert search.best_estimator_.weights_.shape[1] == 80


@pytest.mark.filterwarnings("ignore:No round of TrAdaBoost:RuntimeWarning")
@parametrize_with_checks([TrAdaBoost()])
def test_it_is_an_estimator_of_scikit_learn(estimator, check):
    check(estimator)


SOURCE, (X, Y) = domains()


@pytest.mark.parametrize(
    ("model", "call", "error", "said"),
    [
        (TrAdaBoost(n_estimators=0), (X, Y, SOURCE), ValueError, "n_estimators"),
        (TrAdaBoost(KNeighborsClassifier()), (X, Y, SOURCE), TypeError, "sample_weight"),
        (TrAdaBoost(), (X, np.zeros(20), SOURCE), ValueError, "The target has one class"),
        (TrAdaBoost(), (X, Y, SOURCE[0]), TypeError, "source must be a pair"),
        (TrAdaBoost(), (X, Y, (SOURCE[0][:, :1], SOURCE[1])), ValueError, "1 features"),
        (TrAdaBoost(), (X, Y, (SOURCE[0], SOURCE[1] + 5)), ValueError, "target lacks"),
        (TrAdaBoost(), (X, Y, (SOURCE[0] * np.nan, SOURCE[1])), ValueError, "NaN"),
        (TrAdaBoost(), (X, Y, (SOURCE[0][:0], SOURCE[1][:0])), ValueError, "minimum of 1"),
    ],
)
def test_bad_input_is_named(model, call, error, said):
    X, y, source = call
    with pytest.raises(error, match=said):
        model.fit(X, y, source=source)
