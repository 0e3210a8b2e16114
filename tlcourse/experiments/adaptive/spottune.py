"""SpotTune on LSTM layers: from one motion sensor to another.

A network of three LSTM layers and two linear ones learns the six activities of the source. The
target has other people, another device and six activities of its own. Half of its people are kept,
and a fifth of those are the test, so that nobody is seen in training and in the test. From the
others learn:

1. the network from random weights;
2. fine-tuning, with one rate, or with a lower one for each earlier layer;
3. feature extraction: the LSTM layers are frozen, the two linear layers trained;
4. SpotTune with a decision for each layer, its agent begun with random weights, or warm: trained on
   the source, and tuning nearly everything at first;
5. SpotTune with finer decisions: what makes the cell state and what makes the hidden state of it
   apart, or each of the four gates;
6. a random forest on simple features: each channel's mean, deviation and spectrum.

A *case* is what there is to learn from: all windows or a few of every activity, with both sets
*matched* (one rate, one unit, standardised), or as in the *report* that this repeats: 125 samples
of whatever rate and unit there is. A *budget* is a number of epochs, the same for all, with a rate
that decays to 0.

A seed draws the people of the test, the windows where they are few, and all weights. On the other
half of the people, who are in no recorded run, learning from random weights does better with a rate
of 0.003 than with 0.001 (fine-tuning from few windows would take the lower one, by a point), and
twice the long budgets bring nothing. All read means of five steps, which is quicker and there a
point less accurate; one way reads every step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from tlcourse.adaptive import SpotTune, SpotTuneLSTM, policy_network
from tlcourse.data import Windows, dsa, few_per_class, hapt, imu, standardise
from tlcourse.data.hapt import ACTIVITIES
from tlcourse.data.imu import WAIST
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, per_cent
from tlcourse.finetuning import freeze, layerwise_parameter_groups
from tlcourse.metrics import predict
from tlcourse.models import Classifier, LSTMClassifier
from tlcourse.training import History, Objective, cosine_decay, fit

PLAIN = {
    "scratch": "from random weights",
    "finetune": "fine-tuning",
    "rates": "fine-tuning, slower in earlier layers",
    "extraction": "feature extraction",
}
ROUTED = {
    "spottune": "SpotTune",
    "warm": "SpotTune, warm agent",
    "states": "SpotTune, cell and hidden state apart",
    "gates": "SpotTune, each gate apart",
}
POLICIES = ("spottune", "warm")  # whose decisions are looked at
LSTMS = ("lstm1", "lstm2", "lstm3")
LAYERS = [*(f"backbone.{name}" for name in (*LSTMS, "hidden")), "head"]


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Let every way learn from every case within every budget."""
    found: dict[str, float] = {}
    for case, its_own in settings["cases"].items():
        how = {**settings, **its_own}
        source, train, test = parts(data, how, seed)
        net, agent = source_networks(source, how, seed, folder)
        for budget, epochs in how["epochs"].items():
            for way in how["ways"]:
                key = f"{way}-{case}-{budget}"
                model = make(way, net, agent, train.n_classes, how, seed)
                watch = _accuracy_on(test) if way == "scratch" else None
                history = learn(model, way, train, epochs, how, seed, folder / key, watch)
                found[key] = per_cent(answers(model), test)
                if case == "report" and budget == "short":
                    found[f"loss-{way}"] = log_loss(answers(model), test)
                    if way == "scratch":
                        early = {e: history.rows[e - 1]["test"] for e in EARLY}
                        found |= {f"scratch-epoch-{e}": value for e, value in early.items()}
                if case == "many" and budget == "long" and way in POLICIES:
                    found |= {f"{way}-{key}": value for key, value in policy(model, test).items()}
        found[f"forest-{case}"] = forest(train, test, how["trees"], seed)
    return found


def parts(data: Data, how: Settings, seed: int) -> tuple[Windows, Windows, Windows]:
    """Return the source, and windows of the target: those to learn from and those of the test."""
    source, target = data[f"source-{how['sets']}"], data[f"target-{how['sets']}"]
    train, test = target.by_person(target.draw_people(round(len(target.people) / 5), seed=seed))
    if how["labels_per_class"] is not None:
        train = few_per_class(train, how["labels_per_class"], seed=seed)
    if how["sets"] == "matched":
        (source,), (train, test) = standardise(source), standardise(train, test)
    return source, train, test


def source_networks(
    source: Windows, how: Settings, seed: int, folder: Path
) -> tuple[LSTMClassifier, LSTMClassifier]:
    """Return two networks that know the source: the one to transfer, and a narrow one."""
    K, pool, found = source.n_classes, how["pool"], []
    for name, width, n_layers in (
        ("net", how["width"], len(LSTMS)),
        ("agent", how["agent_width"], how["agent_layers"]),
    ):
        torch.manual_seed(seed)
        net = LSTMClassifier(K, width=width, n_layers=n_layers, pool=pool)
        file = folder / f"{name}-{how['sets']}"  # for all cases of these sets the same
        of_source = {**how, "batch_size": how["source_batch_size"]}
        learn(net, "scratch", source, how["source_epochs"], of_source, seed, file)
        found.append(net)
    return found[0], found[1]


def make(
    way: str, net: LSTMClassifier, agent: LSTMClassifier, K: int, how: Settings, seed: int
) -> Any:
    """Return the network of one way before it has seen the target."""
    torch.manual_seed(seed)
    if way in ("scratch", "steps"):
        pool = 1 if way == "steps" else how["pool"]
        return LSTMClassifier(K, width=how["width"], pool=pool)
    if way in PLAIN:
        return Classifier(copy.deepcopy(net.backbone), K)
    warm = copy.deepcopy(agent.backbone) if way == "warm" else None
    return SpotTuneLSTM.from_pretrained(
        net,
        K,
        choose=way if way in ("states", "gates") else "layer",
        agent=None if warm is None else policy_network(warm, len(LSTMS), start=how["start"]),
        temperature=how["temperature"],
    )


def learn(
    model: Any,
    way: str,
    train: Windows,
    epochs: int,
    how: Settings,
    seed: int,
    file: Path,
    on_epoch: Callable[[nn.Module], dict[str, float]] | None = None,
) -> History:
    """Train what the way trains, in place; a killed run goes on at its checkpoint."""
    rate = how["rate"]
    objective: Objective = cross_entropy
    if way in ROUTED:
        objective = SpotTune.loss
        agent = {"params": [*model.agent.parameters()], "lr": how["agent_rate"]}
        groups = [{"params": model.learners(), "lr": rate}, agent]
    elif way == "rates":
        groups = layerwise_parameter_groups(model, LAYERS, rate, how["decay"])
    else:
        if way == "extraction":
            for name in LSTMS:
                freeze(model.get_submodule(f"backbone.{name}"))
        groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}]
    history = fit(
        model,
        objective,
        train,
        optimizer=torch.optim.Adam(groups),
        epochs=epochs,
        batch_size=how["batch_size"],
        schedule=cosine_decay,
        on_epoch=on_epoch,
        clip_norm=how["clip_norm"],
        seed=seed,
        checkpoint=file.with_suffix(".safetensors"),
        progress=False,
    )
    model.cpu().eval()
    return history


def _accuracy_on(test: Windows) -> Callable[[nn.Module], dict[str, float]]:
    return lambda model: {"test": per_cent(model, test)}


def answers(model: Any) -> nn.Module:
    """Return what classifies: the model, or SpotTune without its decisions."""
    classifier: nn.Module = model.classifier() if isinstance(model, SpotTune) else model
    return classifier


def log_loss(model: nn.Module, test: Windows) -> float:
    """Return the negative log-likelihood of the test, for logits and log-probabilities alike."""
    return float(nll_loss(predict(model, test).log_softmax(1), test.labels))


def policy(model: SpotTune, test: Windows) -> dict[str, float]:
    """Return, in per cent, what the agent decides on the test, and what it would cost not to ask.

    - ``tuned-L``: the windows that take the tuned copy of layer L, and ``tuned-L-k`` those of
      activity k; ``people-L``: the largest difference of that part between two people;
    - ``paths``: the windows that do not take the commonest path;
    - ``all-tuned`` and ``all-frozen``: the accuracy with all decisions set to 1 or to 0.
    """
    with torch.no_grad():
        decisions = torch.cat([model.decide(x) for x in test.windows.split(512)])  # (N, 3)
        found = {}
        for name, tuned in zip(LSTMS, decisions.T, strict=True):
            found[f"tuned-{name}"] = _share(tuned)
            for k in range(test.n_classes):
                found[f"tuned-{name}-{k}"] = _share(tuned[test.labels == k])
            of_person = [_share(tuned[test.persons == p]) for p in test.people]
            found[f"people-{name}"] = max(of_person) - min(of_person)
        _, of_path = decisions.unique(dim=0, return_counts=True)
        found["paths"] = 100.0 * (1 - float(of_path.max()) / len(test))
        for name, value in (("all-tuned", 1.0), ("all-frozen", 0.0)):
            forced = torch.full_like(decisions, value)
            log_probs = model.classify(test.windows, forced)
            found[name] = _share((log_probs.argmax(1) == test.labels).float())
    return found


def _share(x: Tensor) -> float:
    return 100.0 * float(x.mean())


def forest(train: Windows, test: Windows, n_trees: int, seed: int) -> float:
    """Return the accuracy of a random forest on simple features, in per cent."""
    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(n_trees, random_state=seed)
    trees.fit(simple_features(train.windows), train.labels.numpy())
    return 100.0 * float(trees.score(simple_features(test.windows), test.labels.numpy()))


def simple_features(windows: Tensor) -> np.ndarray:
    """Return the mean, deviation and lower spectrum of every channel: (N, T, C) -> (N, 27 C)."""
    mean, deviation = windows.mean(1, keepdim=True), windows.std(1, keepdim=True)
    spectrum = torch.fft.rfft(windows - mean, dim=1).abs()[:, 1:26]  # 25 lines
    return np.asarray(torch.cat([mean, deviation, spectrum], dim=1).flatten(1))


# --- the data -------------------------------------------------------------------------------------


def load_imu(settings: Settings) -> dict[str, Windows]:
    """Return the simulated devices; of the target, every second person."""
    pairs = {
        sets: imu(settings["people"], settings["windows"], matched=sets == "matched")
        for sets in ("matched", "report")
    }
    return _kept(pairs)


def load_har(_: Settings) -> dict[str, Windows]:
    """Return DSA and HAPT; of HAPT, every second person."""
    # Windows that share half of their samples with the next are for 50 Hz more than are needed.
    return _kept(
        {
            "matched": (dsa(matched=True), hapt(matched=True)),
            "report": (dsa(), hapt(hop=125)),
        }
    )


def _kept(pairs: dict[str, tuple[Windows, Windows]]) -> dict[str, Windows]:
    data = {}
    for sets, (source, target) in pairs.items():
        data[f"source-{sets}"] = source
        data[f"target-{sets}"] = target.by_person(target.people[::2])[1]
    return data


# --- the settings ---------------------------------------------------------------------------------

WAYS = PLAIN | ROUTED | {"steps": "from random weights, every step read"}
CASES = {
    "many": "all windows, matched",
    "few": "10 of each activity, matched",
    "report": "all windows, as in the report",
}
BUDGETS = {"short": "10 epochs", "long": "to the plateau"}
EARLY = (1, 2, 4)  # the epochs after which learning from random weights is looked at

FULL: dict[str, Any] = {
    "cases": {
        "many": {
            "sets": "matched",
            "labels_per_class": None,
            "batch_size": 64,
            "epochs": {"short": 10, "long": 60},
            "ways": list(WAYS),
        },
        "few": {
            "sets": "matched",
            "labels_per_class": 10,
            "batch_size": 16,
            "epochs": {"short": 10, "long": 150},
            "ways": [*PLAIN, *ROUTED],
        },
        "report": {
            "sets": "report",
            "labels_per_class": None,
            "batch_size": 64,
            "epochs": {"short": 10, "long": 60},
            "ways": ["scratch", "finetune", "extraction", "spottune"],
        },
    },
    "width": 32,
    "pool": 5,
    "agent_width": 16,
    "agent_layers": 2,
    "start": 0.9,
    "temperature": 5.0,
    "rate": 3e-3,
    "agent_rate": 1e-3,
    "decay": 2.0,
    "clip_norm": 1.0,
    "source_epochs": 30,
    "source_batch_size": 64,
    "trees": 300,
}
IMU = FULL | {"people": 24, "windows": 10}
QUICK_CASES = {
    case: how | {"epochs": {"short": 4, "long": long}}
    for (case, how), long in zip(FULL["cases"].items(), (6, 20, 6), strict=True)
}
QUICK = FULL | {"cases": QUICK_CASES, "source_epochs": 10, "trees": 100}


def table(activities: Sequence[str], figures: Mapping[str, float]) -> tuple[Row, ...]:
    """Return the rows; ``figures`` are the report's, by key."""
    accuracies = {}
    for case, how in FULL["cases"].items():
        for budget in how["epochs"]:
            for way in how["ways"]:
                accuracies[f"{way}-{case}-{budget}"] = (
                    f"{CASES[case]}, {BUDGETS[budget]}: {WAYS[way]}"
                )
        accuracies[f"forest-{case}"] = f"{CASES[case]}: random forest on simple features"
    for epoch in EARLY:
        label = f"as in the report, {WAYS['scratch']}, after epoch {epoch} of 10"
        accuracies[f"scratch-epoch-{epoch}"] = label
    losses = {
        f"loss-{way}": f"{CASES['report']}, {BUDGETS['short']}: {WAYS[way]}, loss"
        for way in FULL["cases"]["report"]["ways"]
    }
    shares = {}
    for way in POLICIES:
        agent = f"{WAYS[way]}, {CASES['many']}"
        for value in ("tuned", "frozen"):
            accuracies[f"{way}-all-{value}"] = f"{agent}: every decision set to {value}"
        shares[f"{way}-paths"] = f"{agent}: off the commonest path"
        for name in LSTMS:
            shares[f"{way}-tuned-{name}"] = f"{agent}: {name} tuned"
            shares[f"{way}-people-{name}"] = f"{agent}: {name} tuned, between two people at most"
            for k, activity in enumerate(activities):
                shares[f"{way}-tuned-{name}-{k}"] = f"{agent}: {name} tuned, {activity}"
    units = ((accuracies, None), (losses, "negative log-likelihood"), (shares, "test windows, %"))
    return tuple(
        Row(key, label, figures.get(key), unit)
        for labels, unit in units
        for key, label in labels.items()
    )


def _experiment(**of: Any) -> Experiment:
    return Experiment(
        chapter="adaptive/spottune",
        unit="test accuracy, %",
        better="higher",
        run_seed=run_seed,
        **of,
    )


SPOTTUNE_IMU = _experiment(
    name="spottune-imu",
    title="SpotTune on LSTM layers, simulated motion sensors",
    rows=table(list(WAIST.activities), {}),
    source="",
    settings={"quick": QUICK | {"people": 10, "windows": 6}, "full": IMU},
    seeds={"quick": 1, "full": 8},
    load=load_imu,
)
SPOTTUNE_HAR = _experiment(
    name="spottune-har",
    title="SpotTune on LSTM layers, DSA (torso) to HAPT",
    rows=table(
        [ACTIVITIES[a] for a in range(1, 7)],
        {
            "scratch-report-short": 34.781133355955207,
            "spottune-report-short": 31.964709874448594,
            "loss-scratch": 1.146884560585022,
            "loss-spottune": 1.4175454378128052,
        },
    ),
    source="Chen, Guo and Konti, project report, section 4",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 10},
    load=load_har,
)
