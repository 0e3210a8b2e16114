"""Adaptation without labels of the target: between digits, from print, to photographs, to sensors.

One small network with batch normalisation learns in every way with the same steps:

1. from the source alone; beside it simple classifiers on the inputs themselves;
2. the same network with its BatchNorm statistics computed again on the target's images;
3. with both domains in every batch and nothing aligned, so that BatchNorm sees the target: what of
   an alignment's effect is due to that;
4. by CORAL, DAN, DANN, RTN and DSN;
5. from the target's own labels, as many: what could be had.

1 has seen nothing of the target, 2 to 4 have seen 1,000 of its inputs without labels (fewer where
there are fewer), drawn without a look at the labels, and none of its test.

No setting was chosen with the target's labels. The weights of the methods are those of their
papers or of the authors' programs; DSN's difference is a mean over the code's units, as in its
program. Rate, batch and epochs were fixed beforehand: with them the network learns the source to a
loss near 0.

What it would bring to choose on the target is measured where ``factors`` are given: each method's
weights are also taken times each factor, and of these runs one is taken by its cross-entropy on
held-out source images, by the information between image and prediction on the target's images
without labels, or by the accuracy on the target's test, which nobody has in earnest.

Of the ways that ``renewed`` names, what they reach with BatchNorm statistics of the target alone is
measured, too, as in 2.

Where ``skewed`` names a pair, its target's images are also drawn with rare and frequent classes;
source and test stay as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tlcourse.adaptation import DAN, DANN, DSN, RTN, DeepCORAL, entropy_loss
from tlcourse.adaptation.aligned import Aligned
from tlcourse.data import (
    LabelledImages,
    Windows,
    digits,
    dsa,
    glyphs,
    hapt,
    imu,
    mnist5k,
    on_photographs,
    standardise,
    usps,
)
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, per_cent
from tlcourse.finetuning import recompute_batchnorm
from tlcourse.metrics import predict
from tlcourse.models import Classifier
from tlcourse.training import cosine_decay, fit

Set = LabelledImages | Windows


class Parts(NamedTuple):
    """What one comparison learns from and is tested on."""

    source: Any
    held_out: Any
    """Of the source: for a choice without the target."""
    target: Any
    """Its labels are for the upper bound alone."""
    test: Any


# --- the network ----------------------------------------------------------------------------------


class Images(nn.Module):
    """Two convolutions and a linear layer: (N, 1, 16, 16) -> (N, 64)."""

    n_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, self.n_features, bias=False),
            nn.BatchNorm1d(self.n_features),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.net(x)
        return features


class Readings(nn.Module):
    """Two convolutions in time and a linear layer: (N, 125, 6) -> (N, 64)."""

    n_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(6, 32, 5, stride=2, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Conv1d(32, 32, 5, stride=2, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.Linear(32 * 4, self.n_features, bias=False),
            nn.BatchNorm1d(self.n_features),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.net(x.transpose(1, 2))
        return features


def backbone_for(data: Set) -> Images | Readings:
    """Return a network without a head for images or for windows."""
    return Images() if isinstance(data, LabelledImages) else Readings()


# --- the ways -------------------------------------------------------------------------------------

SIMPLE = {
    "logistic": "logistic regression on the inputs; source alone",
    "svm": "SVM on the inputs; source alone",
}
ALIGNED = {
    "coral": "CORAL; target without labels",
    "dan": "DAN; target without labels",
    "dann": "DANN; target without labels",
    "rtn": "RTN; target without labels",
    "dsn": "DSN; target without labels",
}
WAYS = {
    **SIMPLE,
    "source": "network; source alone",
    "batchnorm": "its BatchNorm computed again; target without labels",
    "both": "both domains through BatchNorm; target without labels",
    **ALIGNED,
    "target": "network; the target's labels",
}
WEIGHED = ("coral", "dan", "dann", "rtn")  # by one weight, for which there may be factors


class Unaligned(Aligned):
    """Both domains in every batch, and no loss between them."""

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return 0."""
        return source[0].new_zeros(())


def aligned(way: str, parts: Parts, how: Settings, steps: int, factor: float = 1.0) -> Aligned:
    """Return the model of one way, with its weight times a factor. It gets the target's inputs."""
    net, K = backbone_for(parts.source), parts.source.n_classes
    inputs = parts.target.tensors[0]
    if way == "both":
        return Unaligned(net, K, inputs, weight=0.0)
    if way == "dsn":
        D, shape = net.n_features, inputs.shape[1:]
        decoder = nn.Sequential(
            nn.Linear(D, 128), nn.ReLU(), nn.Linear(128, shape.numel()), nn.Unflatten(1, shape)
        )
        alpha, beta, gamma = how["dsn"]
        return DSN(
            net,
            K,
            inputs,
            private=(backbone_for(parts.source), backbone_for(parts.source)),
            decoder=decoder,
            steps=steps,
            start=round(how["dsn_start"] * steps),
            reconstruction_weight=alpha,
            difference_weight=beta / D**2,
            weight=gamma,
        )
    weight = factor * how["weights"][way]
    if way == "coral":
        return DeepCORAL(net, K, inputs, weight=weight)
    if way == "dan":
        return DAN(net, K, inputs, weight=weight)
    if way == "dann":
        return DANN(net, K, inputs, steps=steps, weight=weight)
    entropy = factor * how["entropy_weight"]
    return RTN(net, K, inputs, weight=weight, entropy_weight=entropy)


def learn(
    way: str, parts: Parts, how: Settings, seed: int, file: Path, factor: float = 1.0
) -> nn.Module:
    """Return a network that learnt in one way. All begin with the same weights."""
    torch.manual_seed(seed)
    train = parts.target if way == "target" else parts.source
    batch = how["batch_size"]
    per_epoch = -(-len(parts.source) // batch)
    steps = how["epochs"] * per_epoch
    model: nn.Module
    if way in ("source", "target"):
        model = Classifier(backbone_for(train), train.n_classes)
        objective: Any = cross_entropy
    else:
        model = aligned(way, parts, how, steps, factor)
        objective = type(model).loss
    fit(
        model,
        objective,
        train,
        optimizer=torch.optim.Adam(model.parameters(), lr=how["rate"]),
        # The target may have fewer samples: as many steps, not as many epochs.
        epochs=round(steps / -(-len(train) // batch)),
        batch_size=batch,
        schedule=cosine_decay,
        seed=seed,
        checkpoint=file.with_suffix(".safetensors"),
        progress=False,
    )
    return model.cpu().eval()


def renewed(model: nn.Module, target: Set) -> nn.Module:
    """Return a copy with BatchNorm's statistics of the target's inputs."""
    again = copy.deepcopy(model)
    recompute_batchnorm(again, TensorDataset(target.tensors[0]), batch_size=len(target))
    return again.eval()


def with_own_statistics(
    nets: Mapping[str, nn.Module], parts: Parts, how: Settings
) -> dict[str, float]:
    """Return what adapted networks reach with BatchNorm statistics of the target alone.

    In training they see both domains at once, and keep the statistics of the mixture.
    """
    return {
        f"{way}-own": per_cent(renewed(nets[way], parts.target), parts.test)
        for way in how.get("renewed", ())
    }


def on_inputs(parts: Parts, how: Settings) -> dict[str, float]:
    """Return the accuracy of simple classifiers that learnt the source, in per cent."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def plain(data: Set) -> np.ndarray:
        x = data.tensors[0]
        # Of windows the mean and the deviation of each channel: readings themselves have no order.
        x = (
            x.flatten(1)
            if isinstance(data, LabelledImages)
            else torch.cat([x.mean(1), x.std(1)], 1)
        )
        values: np.ndarray = x.numpy()
        return values

    known, labels = plain(parts.source), parts.source.labels.numpy()
    found = {}
    for way, model in (
        ("logistic", LogisticRegression(C=how["strength"], max_iter=5_000)),
        ("svm", SVC()),
    ):
        # Pixels have one scale already.
        scaled = make_pipeline(StandardScaler(), model) if known.shape[1] < 256 else model
        scaled.fit(known, labels)
        found[way] = 100 * float(scaled.score(plain(parts.test), parts.test.labels.numpy()))
    return found


def information(model: nn.Module, inputs: Tensor) -> float:
    """Return the information between input and prediction, H(mean p) - mean H(p), in nats."""
    logits = predict(model, TensorDataset(inputs))
    whole = logits.softmax(1).mean(0, keepdim=True).log()
    return float(entropy_loss(whole) - entropy_loss(logits))


def chosen(
    parts: Parts, how: Settings, seed: int, folder: Path, at_1: Mapping[str, Any]
) -> dict[str, float]:
    """Return what each method reaches by the factor on its weights that each criterion takes.

    ``at_1`` are the networks of the factor 1.
    """
    found = {}
    for way in WEIGHED:
        nets = {
            factor: at_1[way]
            if factor == 1
            else learn(way, parts, how, seed, folder / f"{way}-{factor}", factor)
            for factor in how["factors"]
        }
        reached = {factor: per_cent(net, parts.test) for factor, net in nets.items()}
        held_out = {
            factor: -float(F.cross_entropy(predict(net, parts.held_out), parts.held_out.labels))
            for factor, net in nets.items()
        }
        told = {f: information(net, parts.target.tensors[0]) for f, net in nets.items()}
        for by, values in (("held", held_out), ("told", told), ("best", reached)):
            found[f"{way}-{by}"] = reached[max(values, key=values.__getitem__)]
        found[f"{way}-worst"] = min(reached.values())
    return found


def every_way(
    parts: Parts, how: Settings, seed: int, folder: Path, known: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """Return the networks of all ways; those that are ``known`` are not trained again."""
    nets = dict(known)
    for way in ("source", *(w for w in WAYS if w not in SIMPLE)):
        if way == "batchnorm":
            nets[way] = renewed(nets["source"], parts.target)
        elif way not in nets:
            nets[way] = learn(way, parts, how, seed, folder / way, 1.0)
    return nets


# --- the experiments ------------------------------------------------------------------------------


def drawn(data: Set, n: int, seed: int) -> Any:
    """Return n samples, or all in another order, drawn without a look at the labels."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.subset(order[:n])


def run_digits(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """All ordered pairs of the three sets, then one with a target of skewed classes."""
    found: dict[str, float] = {}
    train = {name: drawn(data[f"{name}-train"], settings["n"], seed) for name in SETS}
    own = {}  # a set's own network is the source's in two pairs and the upper bound in two others
    for name in SETS:
        alone = Parts(train[name], None, train[name], data[f"{name}-test"])
        own[name] = learn("source", alone, settings, seed, folder / name)
    for source in SETS:
        for target in SETS:
            if source == target:
                continue
            pair = f"{source}-{target}"
            held_out, test = data[f"{source}-test"], data[f"{target}-test"]
            parts = Parts(train[source], held_out, train[target], test)
            known = {"source": own[source], "target": own[target]}
            nets = every_way(parts, settings, seed, _below(folder, pair), known)
            reached = on_inputs(parts, settings) | {w: per_cent(n, test) for w, n in nets.items()}
            found |= {f"{way}-{pair}": reached[way] for way in WAYS}
            if pair == settings["skewed"]:
                rare = test.subset(test.labels >= RARE)
                found |= {f"{way}-even-rare": per_cent(nets[way], rare) for way in SEEN}
                target_ = skewed(data[f"{target}-train"], settings, seed)
                parts = parts._replace(target=target_)
                nets = every_way(parts, settings, seed, _below(folder, "skewed"), known)
                found |= {f"{way}-skewed": per_cent(nets[way], test) for way in SEEN}
                found |= {f"{way}-skewed-rare": per_cent(nets[way], rare) for way in SEEN}
    for way in WAYS:
        pairs = [found[f"{way}-{pair}"] for pair in PAIRS]
        found[f"{way}-mean"] = sum(pairs) / len(pairs)
    return found


def skewed(data: LabelledImages, settings: Settings, seed: int) -> LabelledImages:
    """Return images of which those from the digit 5 on are rare, as many as ``n`` or all."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    often = order[data.labels[order] < RARE]
    seldom = order[data.labels[order] >= RARE]
    n_rare = round(settings["n"] * settings["rare_share"])
    return data.subset(torch.cat([often[: settings["n"] - n_rare], seldom[:n_rare]]))


def run_pair(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """One pair, and the price of choosing on the target."""
    parts = Parts(
        drawn(data["source"], settings["n"], seed),
        data["held out"],
        # Not the same digits with another look: that would be pairs, and those are a label.
        drawn(data["target"], settings["n"], seed),
        data["test"],
    )
    nets = every_way(parts, settings, seed, folder, {})
    found = on_inputs(parts, settings) | {w: per_cent(net, parts.test) for w, net in nets.items()}
    found |= with_own_statistics(nets, parts, settings)
    return found | chosen(parts, settings, seed, folder, nets)


def run_sensors(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Other people, another place on the body, another device."""
    found: dict[str, float] = {}
    for shift in SHIFTS:
        source, target = data[f"{shift}-source"], data[f"{shift}-target"]
        if shift != "devices":  # the same people wear both: each person is in one part
            there = source.draw_people(len(source.people) // 2, seed=seed)
            source, target = source.by_person(there)[1], target.by_person(there)[0]
        held = target.draw_people(len(target.people) // 2, seed=seed)
        target, test = target.by_person(held)
        source, target, test = standardise(source, target, test)
        n = settings["n"]
        parts = Parts(drawn(source, n, seed), None, drawn(target, n, seed), test)
        nets = every_way(parts, settings, seed, _below(folder, shift), {})
        reached = on_inputs(parts, settings) | {w: per_cent(m, test) for w, m in nets.items()}
        reached |= with_own_statistics(nets, parts, settings)
        found |= {f"{way}-{shift}": value for way, value in reached.items()}
    return found


def _below(folder: Path, name: str) -> Path:
    below = folder / name
    below.mkdir(parents=True, exist_ok=True)
    return below


# --- the data -------------------------------------------------------------------------------------


def small(data: LabelledImages) -> LabelledImages:
    """Cut the empty border of MNIST off and average: (N, 1, 28, 28) -> (N, 1, 16, 16)."""
    inner = data.images[:, :, 4:24, 4:24]
    images = F.interpolate(inner, (16, 16), mode="bilinear", antialias=True).clamp(0, 1)
    return LabelledImages(images, data.labels, data.classes, data.name)


def load_three_sets(settings: Settings) -> dict[str, LabelledImages]:
    """Return three sets of handwritten digits at 16 x 16 pixels."""
    mnist = [small(part) for part in mnist5k()]
    third = usps() if settings["usps"] else [_thinner(part) for part in mnist]
    both = {"digits": digits(size=16), "mnist": mnist, "usps": third}
    return {
        f"{n}-{p}": s for n, of in both.items() for p, s in zip(("train", "test"), of, strict=True)
    }


def _thinner(data: LabelledImages) -> LabelledImages:
    """Stand in for USPS where it is not: thinner strokes, the pixel's least neighbour."""
    images = -F.max_pool2d(-data.images, 2, stride=1)
    images = F.interpolate(images, (16, 16), mode="bilinear", align_corners=False).clamp(0, 1)
    return LabelledImages(images, data.labels, data.classes, f"{data.name}, thinner")


def load_print(settings: Settings) -> dict[str, LabelledImages]:
    """Return printed and handwritten digits at 16 x 16 pixels."""
    train, held_out = (
        data.subset(data.labels < 10) for data in glyphs(9_000, 4_500, size=settings["size"])
    )
    target, test = digits(size=settings["size"])
    train, held_out = (
        LabelledImages(p.images, p.labels, target.classes, "printed digits")
        for p in (train, held_out)
    )
    return {"source": train, "held out": held_out, "target": target, "test": test}


def load_photographs(_: Settings) -> dict[str, LabelledImages]:
    """Return digits of MNIST, and others of them on pieces of photographs."""
    train, test = (small(part) for part in mnist5k())
    half = len(train) // 2
    return {
        "source": train.subset(range(half)),
        "held out": test,
        "target": on_photographs(train.subset(range(half, len(train))), part="train"),
        "test": on_photographs(test, part="test"),
    }


def load_sensors(settings: Settings) -> dict[str, Windows]:
    """Return three shifts of motion sensors, in one unit and rate."""
    if settings["sensors"] == "simulated":
        a, b = imu(people=8, windows=6, matched=True)
        sets = {"persons": (b, b), "place": (a, _turned(a)), "devices": (a, b)}
    else:
        a, b = dsa(matched=True), hapt(matched=True)
        sets = {"persons": (b, b), "place": (a, dsa(unit="right leg", matched=True))}
        sets["devices"] = (a, b)
    a, b = sets["devices"]
    sets["devices"] = (_only(a, COMMON), _only(b, COMMON))
    return {
        f"{shift}-{part}": data
        for shift, both in sets.items()
        for part, data in zip(("source", "target"), both, strict=True)
    }


def _turned(data: Windows) -> Windows:
    """Return the windows of a device that lies on its side."""
    return _like(data, data.windows[:, :, [1, 0, 2, 4, 3, 5]], data.labels, data.classes)


def _only(data: Windows, names: Sequence[str]) -> Windows:
    """Return the windows of the activities that both devices know, in one order and wording."""
    at = [names.index(ALSO.get(c, c)) if ALSO.get(c, c) in names else -1 for c in data.classes]
    known = torch.tensor(at)[data.labels]
    part = data.subset(known >= 0)
    return _like(part, part.windows, known[known >= 0], names)


def _like(data: Windows, windows: Tensor, labels: Tensor, classes: Sequence[str]) -> Windows:
    return Windows(
        windows,
        labels,
        data.persons,
        classes=classes,
        channels=data.channels,
        units=data.units,
        rate=data.rate,
        name=data.name,
    )


# --- the settings ---------------------------------------------------------------------------------

SETS = ("digits", "mnist", "usps")
SPOKEN = {"digits": "scikit-learn's digits", "mnist": "MNIST", "usps": "USPS"}
PAIRS = tuple(f"{a}-{b}" for a in SETS for b in SETS if a != b)
SEEN = ("source", "batchnorm", "both", *ALIGNED)  # of these the rare classes are looked at
RARE = 5  # digits from here on
SHIFTS = {"persons": "other people", "place": "torso to leg", "devices": "another device"}
COMMON = ("walking", "standing", "lying")
ALSO = {"lying on the back": "lying", "standing in a lift": "standing"}
BY = {
    "held": "by held-out source images",
    "told": "by its predictions on the target, without labels",
    "best": "best on the target's test: not to be had",
    "worst": "worst on the target's test",
}
RENEWED = ("both", *ALIGNED)
OWN = {f"{way}-own": f"{WAYS[way]}; then its statistics alone" for way in RENEWED}
HOW: dict[str, Any] = {
    "n": 1_000,
    "epochs": 12,
    "batch_size": 64,
    "rate": 2e-3,
    "strength": 1.0,
    "weights": {"coral": 1.0, "dan": 1.0, "dann": 1.0, "rtn": 0.3},
    "entropy_weight": 0.3,
    "dsn": [0.01, 0.075, 0.25],
    "dsn_start": 0.2,
}
THREE: dict[str, Any] = HOW | {"usps": True, "skewed": "mnist-usps", "rare_share": 0.1}
PAIR: dict[str, Any] = HOW | {"size": 16, "factors": [0.1, 1.0, 10.0]}
TEXTURES: dict[str, Any] = PAIR | {"renewed": [*RENEWED]}
SENSORS: dict[str, Any] = HOW | {"sensors": "recorded", "epochs": 20, "renewed": [*RENEWED]}
QUICK = {"n": 200, "epochs": 4}


def _of_pairs(pairs: Mapping[str, str], ways: Mapping[str, str] = WAYS) -> tuple[Row, ...]:
    return tuple(
        Row(f"{way}-{pair}", f"{name}: {label}")
        for pair, name in pairs.items()
        for way, label in ways.items()
    )


def _chosen_rows() -> tuple[Row, ...]:
    return tuple(
        Row(f"{way}-{by}", f"{way.upper()}, weight {label}")
        for way in WEIGHED
        for by, label in BY.items()
    )


def _skewed_rows() -> tuple[Row, ...]:
    return tuple(
        Row(f"{way}-{key}", f"{text}: {WAYS[way]}")
        for key, text in {
            "skewed": "MNIST to USPS, its digits from 5 on rare in training",
            "even-rare": "MNIST to USPS, test digits from 5 on",
            "skewed-rare": "MNIST to USPS, these rare in training, test digits from 5 on",
        }.items()
        for way in SEEN
    )


ADAPT_DIGITS = Experiment(
    name="adapt-digits",
    title="From one set of handwritten digits to another, without labels of the target",
    chapter="adaptive/domain-adaptation",
    unit="test accuracy, %",
    better="higher",
    rows=(
        *_of_pairs({"mean": "mean of six pairs"}),
        *_of_pairs(
            {f"{a}-{b}": f"{SPOKEN[a]} to {SPOKEN[b]}" for a in SETS for b in SETS if a != b}
        ),
        *_skewed_rows(),
    ),
    source="",
    settings={"quick": THREE | QUICK | {"usps": False}, "full": THREE},
    seeds={"quick": 1, "full": 8},
    load=load_three_sets,
    run_seed=run_digits,
)

ADAPT_GLYPHS_DIGITS = Experiment(
    name="adapt-glyphs-digits",
    title="From printed to handwritten digits, without labels of the target",
    chapter="adaptive/domain-adaptation",
    unit="test accuracy, %",
    better="higher",
    rows=(*(Row(way, label) for way, label in WAYS.items()), *_chosen_rows()),
    source="",
    settings={"quick": PAIR | QUICK | {"factors": [0.1, 1.0]}, "full": PAIR},
    seeds={"quick": 1, "full": 8},
    load=load_print,
    run_seed=run_pair,
)

ADAPT_MNIST = Experiment(
    name="adapt-mnist",
    title="From MNIST to MNIST on pieces of photographs, without labels of the target",
    chapter="adaptive/domain-adaptation",
    unit="test accuracy, %",
    better="higher",
    rows=(*(Row(way, label) for way, label in (WAYS | OWN).items()), *_chosen_rows()),
    source="",
    settings={"quick": TEXTURES | QUICK | {"factors": [0.1, 1.0]}, "full": TEXTURES},
    seeds={"quick": 1, "full": 8},
    load=load_photographs,
    run_seed=run_pair,
)

ADAPT_SENSORS = Experiment(
    name="adapt-sensors",
    title="Motion sensors on other people, in another place, of another device, without labels",
    chapter="adaptive/domain-adaptation",
    unit="test accuracy, %",
    better="higher",
    rows=_of_pairs(SHIFTS, WAYS | OWN),
    source="",
    settings={"quick": SENSORS | QUICK | {"sensors": "simulated"}, "full": SENSORS},
    seeds={"quick": 1, "full": 8},
    load=load_sensors,
    run_seed=run_sensors,
)
