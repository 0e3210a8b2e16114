"""TrAdaBoost against what it is compared with in its paper (Dai et al., 2007), as labels grow.

The pairs are those of three handwritten kinds of digits (scanned at 8 x 8 pixels, MNIST, USPS), and
of people with motion sensors. The source has up to 1,000 samples, and the target labelled ones as a
share of that, at least one of each class. As in the paper, the learner is a linear SVM:

1. SVM: on the target alone;
2. SVMt: on the target and the source, all with the same weight;
3. AUX: on both, the source's samples with less weight (Wu and Dietterich, 2004);
4. TrAdaBoost with 10 rounds, as in public reproductions, and with 50;
5. AdaBoost, 10 rounds on the target alone: what boosting does without a source.

The SVM's strength (a weaker one is better inside TrAdaBoost) and the weight of AUX, one for all
pairs, were fixed beforehand on another draw: AUX has the best of a few weights on the whole, where
TrAdaBoost finds one for each sample. A mean over the pairs of a kind is there for every share, each
pair by itself for three.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.svm import LinearSVC

from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments.instances._parts import (
    PAIRS,
    SENSORS,
    Pair,
    Samples,
    balanced,
    joined,
    load,
    pairs,
)
from tlcourse.instances import TrAdaBoost

KINDS = {
    "digits": [key for key, pair in PAIRS.items() if pair not in SENSORS and "printed" not in pair],
    "sensors": [key for key, pair in PAIRS.items() if pair in SENSORS],
}
CHOSEN = [key for keys in KINDS.values() for key in keys]


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the test error of every way, in per cent."""
    every = pairs(data, settings, seed)
    found: dict[str, float] = {}
    for share in settings["shares"]:
        got: dict[str, dict[str, float]] = {}
        for key in CHOSEN:
            pair = every[key]
            n = round(share * len(pair.source[1]) / 100)
            known = balanced(pair.pool, n, np.random.default_rng(seed))
            got[key] = errors(pair, known, settings)
            if share in settings["shown"]:
                found |= {f"{way}-{key}-{share}": error for way, error in got[key].items()}
        for kind, keys in KINDS.items():
            for way in WAYS:
                found[f"{way}-{kind}-{share}"] = float(np.mean([got[key][way] for key in keys]))
    return found


def errors(pair: Pair, known: Samples, settings: Settings) -> dict[str, float]:
    """Return the test error of every way for one pair, in per cent."""
    C, weak, (X, y) = settings["strength"], settings["boosted_strength"], joined(pair.source, known)
    weights = np.ones(len(y))
    weights[: len(pair.source[1])] = settings["aux"]
    # Boosting's weights have the sum 1, not n.
    both, alone = _svm(weak * len(y)), _svm(C * len(known[1]))
    with warnings.catch_warnings():
        # That no round is better than a guess is a result here, and the error says it.
        warnings.filterwarnings("ignore", "No round of TrAdaBoost", RuntimeWarning)
        models: dict[str, Any] = {
            "svm": _svm(C).fit(*known),
            "svmt": _svm(C).fit(X, y),
            "aux": _svm(C).fit(X, y, sample_weight=weights),
            "tradaboost": TrAdaBoost(both, settings["rounds"]).fit(*known, source=pair.source),
            "tradaboost-long": TrAdaBoost(both, settings["long"]).fit(*known, source=pair.source),
            "adaboost": TrAdaBoost(alone, settings["rounds"]).fit(*known),
        }
    return {way: 100 - 100 * float(model.score(*pair.test)) for way, model in models.items()}


def _svm(C: float) -> LinearSVC:
    return LinearSVC(C=C, dual=False)


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "real": True,
    "source": 1_000,
    "shares": [1, 2, 5, 10, 20, 50],
    "shown": [1, 5, 20],
    "strength": 1.0,
    "boosted_strength": 0.1,
    "aux": 0.01,
    "rounds": 10,
    "long": 50,
}
QUICK = FULL | {"real": False, "source": 300, "long": 20}
WAYS = {
    "svm": "SVM, target alone",
    "svmt": "SVMt, both alike",
    "aux": "AUX, source with less weight",
    "tradaboost": "TrAdaBoost, 10 rounds",
    "tradaboost-long": "TrAdaBoost, 50 rounds",
    "adaboost": "AdaBoost, target alone",
}
LABELS = {key: f"{source} to {target}" for key, (source, target) in PAIRS.items()}

TRADABOOST = Experiment(
    name="tradaboost",
    title="TrAdaBoost among digits of three kinds and people with motion sensors",
    chapter="adaptive/instance-transfer",
    unit="test error, %",
    better="lower",
    rows=tuple(
        Row(f"{way}-{key}-{share}", f"{label}, {what}, {share} % labels")
        for what, key, shares in (
            *((f"mean of {kind}", kind, FULL["shares"]) for kind in KINDS),
            *((LABELS[key], key, FULL["shown"]) for key in CHOSEN),
        )
        for share in shares
        for way, label in WAYS.items()
    ),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load,
    run_seed=run_seed,
)
