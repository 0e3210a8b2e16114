"""Where a source hurts, from how many labels on, and what each remedy does about it.

The pairs are all that there are of four kinds of digits (printed, scanned at 8 x 8 pixels, MNIST,
USPS), and five of people with motion sensors: from the torso to the leg and back, from a phone at
the waist to a sensor at the torso and back, and from one person to many. Test people are others
than those with labels. The target has 2 to 50 labelled samples of each class, the source up to 500
in all. The learner is logistic regression, always of one strength:

1. on the target alone: what transfer must beat;
2. on the source alone;
3. on both, each sample with the same weight;
4. TrAdaBoost, 10 rounds of logistic regression (Dai et al., 2007);
5. on the target and the source samples that the classifier of 1 does not contradict (Jiang and
   Zhai, 2007);
6. this source or none, as held-out target samples say;
7. of all sources of this target, or none, the one that held-out target samples say;
8. towards the source: its weights are where the penalty pulls to (Chelba and Acero, 2004);
9. the same, and how strong the pull is, or that there is none, as held-out target samples say;
10. the same with a solution of the source chosen from coarse to fine, too; the pull is then one of
    none, half and full.

For each pair there is what the source costs in 3 and how accurate 2 is; for each way the mean over
all pairs, and the harm: the points below 1, where a pair lies below, averaged over all pairs. Do
estimates tell beforehand where 3 gains? Three are ranked against the gains over the pairs of
digits: LEEP (Nguyen et al., 2020), the accuracy of 2 on the labelled target samples, and what 6 is
decided by. And a source of several sizes, like the target and unlike it.

Held out is one of three folds. The strength was fixed beforehand, on another draw.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import rows
from tlcourse.experiments.instances._parts import (
    DIGITS,
    PAIRS,
    Pair,
    Samples,
    balanced,
    joined,
    load,
    name_of,
    pairs,
)
from tlcourse.instances import (
    TowardsSource,
    TrAdaBoost,
    leep,
    reject_contradicted,
    resolutions,
    select_source,
)

OF_DIGITS = [key for key, (source, _) in PAIRS.items() if source in DIGITS]


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return what transfer costs and gains, and what each remedy does."""
    every = pairs(data, settings, seed)
    found: dict[str, float] = {}
    source_models = {key: _fit(settings, pair.source) for key, pair in every.items()}
    for key, pair in every.items():
        found[f"source-{key}"] = _score(source_models[key], pair)
    for n in settings["labels_per_class"]:
        got: dict[str, dict[str, float]] = {}
        said: dict[str, dict[str, float]] = defaultdict(dict)
        for target in dict.fromkeys(key.partition(">")[2] for key in every):
            same = {k: pair for k, pair in every.items() if k.partition(">")[2] == target}
            groups = [same] if target in map(str.lower, DIGITS) else [{k: same[k]} for k in same]
            for group in groups:
                known = _labelled(next(iter(group.values())), n, seed)
                chosen = select_source(
                    _learner(settings),
                    *known,
                    {k: pair.source for k, pair in group.items()},
                    folds=settings["folds"],
                )
                for key, pair in group.items():
                    got[key] = ways(pair, known, source_models[key], settings)
                    own, none = chosen.scores[key], chosen.scores[None]
                    got[key]["whether"] = got[key]["both" if own > none else "target"]
                    said["validated"][key] = own - none
                    model = source_models[key]
                    said["leep"][key] = leep(model.predict_proba(known[0]), known[1])
                    said["accuracy"][key] = float(model.score(*known))
                for key in group:  # after all of the group have their accuracies
                    best = got[key]["target"] if chosen.name is None else got[chosen.name]["both"]
                    got[key]["which"] = best
        gains = {key: one["both"] - one["target"] for key, one in got.items()}
        found |= {f"gain-{key}-{n}": gain for key, gain in gains.items()}
        for way in WAYS:
            accuracies = [got[key][way] for key in PAIRS]
            harms = [max(0.0, got[key]["target"] - got[key][way]) for key in PAIRS]
            found[f"{way}-{n}"] = float(np.mean(accuracies))
            if way != "target":
                found[f"harm-{way}-{n}"] = float(np.mean(harms))
        for estimate, values in said.items():
            ranked = [[of[key] for key in OF_DIGITS] for of in (values, gains)]
            found[f"rank-{estimate}-{n}"] = float(spearmanr(*ranked).statistic)
        found[f"right-{n}"] = 100 * float(
            np.mean([(said["validated"][key] > 0) == (gains[key] > 0) for key in PAIRS])
        )
    for n in settings["sizes"]:
        drawn = pairs(data, {**settings, "source": n}, seed)
        for key in SIZED:
            known = _labelled(drawn[key], settings["sized_labels"], seed)
            alone, both = _fit(settings, known), _fit(settings, drawn[key].source, known)
            found[f"size-{key}-{n}"] = _score(both, drawn[key]) - _score(alone, drawn[key])
    return found


def ways(
    pair: Pair, known: Samples, source_model: LogisticRegression, settings: Settings
) -> dict[str, float]:
    """Return the accuracy of every way that looks at one pair alone, in per cent."""
    C, alone = settings["strength"], _fit(settings, known)
    n = len(known[1]) + len(pair.source[1])  # TrAdaBoost's weights have the sum 1, not n
    boosted = TrAdaBoost(_learner(settings, C * n), settings["rounds"])
    near = TowardsSource(C, [1.0]).fit(*known, source=source_model)
    pulled = TowardsSource(C, settings["pulls"], settings["folds"]).fit(*known, source=source_model)
    fine = [r for r in settings["components"] if r <= min(pair.source[0].shape)]
    solutions: dict[str, Any] = {**resolutions(*pair.source, fine, C=C), "all": source_model}
    chosen = TowardsSource(C, settings["pulls"][::2], settings["folds"]).fit(
        *known, source=solutions
    )
    models: dict[str, Any] = {
        "target": alone,
        "source": source_model,
        "both": _fit(settings, pair.source, known),
        "tradaboost": boosted.fit(*known, source=pair.source),
        "reject": _fit(settings, reject_contradicted(alone, pair.source), known),
        "towards": near,
        "pull": pulled,
        "resolution": chosen,
    }
    return {way: _score(model, pair) for way, model in models.items()}


def _learner(settings: Settings, C: float | None = None) -> LogisticRegression:
    return LogisticRegression(C=settings["strength"] if C is None else C, max_iter=2_000)


def _fit(settings: Settings, *samples: Samples) -> LogisticRegression:
    return _learner(settings).fit(*joined(*samples))


def _score(model: Any, pair: Pair) -> float:
    return 100 * float(model.score(*pair.test))


def _labelled(pair: Pair, n: int, seed: int) -> Samples:
    """Return n labelled target samples of each class; fewer are among more."""
    K = len(np.unique(pair.pool[1]))
    return balanced(pair.pool, n * K, np.random.default_rng(seed))


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "real": True,
    "source": 500,
    "labels_per_class": [2, 3, 4, 5, 7, 10, 15, 20, 30, 50],
    "strength": 1.0,
    "rounds": 10,
    "pulls": [0.0, 0.25, 0.5, 0.75, 1.0],
    "components": [2, 5, 20],
    "folds": 3,
    "sizes": [50, 100, 200, 500, 1_000],
    "sized_labels": 5,
}
QUICK = FULL | {"real": False, "source": 60, "rounds": 3, "components": [2], "folds": 2}
WAYS = {
    "target": "target alone",
    "source": "source alone",
    "both": "both, samples alike",
    "tradaboost": "TrAdaBoost",
    "reject": "contradicted samples rejected",
    "whether": "this source or none, validated",
    "which": "any source or none, validated",
    "towards": "towards the source",
    "pull": "towards the source, pull validated",
    "resolution": "towards a solution, coarse to fine",
}
ESTIMATES = {
    "leep": "LEEP",
    "accuracy": "accuracy of the source's classifier",
    "validated": "held-out likelihood, with less without",
}
SIZED = tuple(
    name_of(*pair)
    for pair in (("MNIST", "USPS"), ("USPS", "MNIST"), ("scanned", "MNIST"), ("MNIST", "scanned"))
)
LABELS = {key: f"{source} to {target}" for key, (source, target) in PAIRS.items()}


def _of_every_count(profile: Settings) -> list[Row]:
    found: list[Row] = []
    for n in profile["labels_per_class"]:
        found += rows(WAYS, key=f"{{}}-{n}", label=f"{{}}, {n} a class")
        harmed = {way: label for way, label in WAYS.items() if way != "target"}
        found += [
            Row(f"harm-{way}-{n}", f"{label}, {n} a class", unit="harm, points")
            for way, label in harmed.items()
        ]
        found += [
            Row(f"rank-{key}-{n}", f"{label}, {n} a class", unit="rank correlation with the gain")
            for key, label in ESTIMATES.items()
        ]
        found.append(Row(f"right-{n}", f"validation is right, {n} a class", unit="pairs, %"))
    return found


NEGATIVE_TRANSFER = Experiment(
    name="negative-transfer",
    title="Negative transfer among digits of four kinds and people with motion sensors",
    chapter="adaptive/instance-transfer",
    unit="accuracy, mean of all pairs, %",
    better="higher",
    rows=(
        *_of_every_count(FULL),
        *(
            Row(f"source-{key}", f"{label}, source alone", unit="accuracy, %")
            for key, label in LABELS.items()
        ),
        *(
            Row(f"gain-{key}-{n}", f"{label}, {n} a class", unit="gain of both, points")
            for key, label in LABELS.items()
            for n in FULL["labels_per_class"]
        ),
        *(
            Row(
                f"size-{key}-{n}",
                f"{LABELS[key]}, {n} source samples",
                unit="gain of both, points",
            )
            for key in SIZED
            for n in FULL["sizes"]
        ),
    ),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load,
    run_seed=run_seed,
)
