"""Progressive networks, column by column: printed letters first, handwritten digits then.

The sequence is upper-case letters, lower-case letters, and the target: handwritten digits with few
labels. The rows are those of Rusu et al. (2016), who learnt to play Atari games:

1. baseline 1: one column, from scratch;
2. baseline 2: the column of the upper-case letters, frozen, with a new output layer;
3. baseline 3: the same column, fine-tuned whole with a new output layer;
4. baseline 4: two columns, of which the first is frozen with random weights: the size of a
   progressive network, and nothing that was learnt;
5. progressive networks, with linear and with MLP adapters: a new column beside that of the
   upper-case letters (2 columns), or beside those of upper- and lower-case letters (3 columns).

MLP adapters scale the old activations by a learnt alpha that begins small, and so begin late. Two
rows that the paper does not have begin the new column's alphas at 1, and tell whether that is why.

All rows learn from the same images with the same rate and number of epochs. A row's transfer score
is the area under its learning curve (test accuracy after every epoch) relative to that of baseline
1, in per cent. Two more rows say how well upper-case letters are read afterwards.

A seed draws the labelled digits, all weights and the order of the batches. The number of labels,
the rate and the epochs were fixed with another seed, on training digits held out.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcourse.continual import ProgressiveNetwork, transfer_score
from tlcourse.data import LabelledImages, few_per_class, glyphs
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, load_digits, per_cent
from tlcourse.experiments.continual._parts import train
from tlcourse.finetuning import freeze
from tlcourse.metrics import accuracy

METHODS = {
    "baseline1": "baseline 1: one column, from scratch",
    "baseline2": "baseline 2: frozen column, new output",
    "baseline3": "baseline 3: fine-tuned column",
    "baseline4": "baseline 4: two columns, the first random",
    "linear-2": "progressive, 2 columns, linear adapters",
    "linear-3": "progressive, 3 columns, linear adapters",
    "mlp-2": "progressive, 2 columns, MLP adapters",
    "mlp-3": "progressive, 3 columns, MLP adapters",
    "alpha-2": "progressive, 2 columns, MLP, alpha from 1",
    "alpha-3": "progressive, 3 columns, MLP, alpha from 1",
}


def run_seed(data: Data, settings: Settings, seed: int, _: Path) -> dict[str, float]:
    """Return every method's transfer score and final accuracy, in per cent."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    torch.manual_seed(seed)
    first = _network(settings, "mlp")
    _column(first, data["upper"], settings, seed)
    nets = {name: _prepared(name, first, data, settings, seed) for name in METHODS}

    curves = {}
    for name, net in nets.items():
        torch.manual_seed(seed)
        if name in ("baseline2", "baseline3"):  # a new output layer on the old column
            net.columns[0].get_submodule("output").own = nn.Linear(
                settings["widths"][-1], few.n_classes
            )
            if name == "baseline2":
                freeze(net.columns[0].get_submodule("layers"))
            curves[name] = _curve(net, few, data["test"], settings, seed)
        else:
            net.add_column(few.n_classes)
            if name.startswith("alpha"):
                _begin_at_1(net)
            curves[name] = _curve(net, few, data["test"], settings, seed)

    found = {}
    for name, curve in curves.items():
        found[f"{name}-score"] = 100 * transfer_score(curve, curves["baseline1"])
        found[f"{name}-accuracy"] = 100 * curve[-1]
    old = copy.deepcopy(nets["baseline3"])
    old.columns[0].output = first.columns[0].output
    return found | {
        "finetuned-old": per_cent(old.classifier(0), data["upper-test"]),
        "progressive-old": per_cent(nets["mlp-3"].classifier(0), data["upper-test"]),
    }


def _prepared(
    name: str, first: ProgressiveNetwork, data: Data, settings: Settings, seed: int
) -> ProgressiveNetwork:
    """Return the network of a row as it is before the target."""
    torch.manual_seed(seed + 1)
    if name in ("baseline2", "baseline3"):
        return copy.deepcopy(first)
    net = _network(settings, "linear" if name.startswith("linear") else "mlp")
    if name == "baseline1":
        return net
    net.eval().add_column(data["upper"].n_classes)
    net.eval()
    if name != "baseline4":
        net.load_state_dict(first.state_dict())
    if name.endswith("-3"):
        _column(net, data["lower"], settings, seed)
    return net


def _begin_at_1(net: ProgressiveNetwork) -> None:
    """Set every alpha of the newest column to 1."""
    for name, parameter in net.columns[-1].named_parameters():
        if name.endswith("alpha"):
            nn.init.ones_(parameter)


def _network(settings: Settings, adapter: str) -> ProgressiveNetwork:
    return ProgressiveNetwork(1, settings["widths"], kind="conv", adapter=adapter)


def _column(net: ProgressiveNetwork, data: LabelledImages, settings: Settings, seed: int) -> None:
    net.add_column(data.n_classes)
    names = {"epochs": "source_epochs", "batch_size": "source_batch_size"}
    train(net, cross_entropy, data, settings, seed, **names)


def _curve(
    net: ProgressiveNetwork,
    few: LabelledImages,
    test: LabelledImages,
    settings: Settings,
    seed: int,
) -> list[float]:
    """Train the newest column; return the test accuracy after every epoch."""

    def measure(net: ProgressiveNetwork) -> dict[str, float]:
        return {"accuracy": accuracy(net, test)}

    history = train(net, cross_entropy, few, settings, seed, on_epoch=measure)
    return [row["accuracy"] for row in history]


def load_letters_and_digits(settings: Settings) -> dict[str, LabelledImages]:
    """Return the printed letters, upper- and lower-case, and the handwritten digits."""
    train, test = glyphs(settings["glyphs"], settings["test_glyphs"], seed=0)
    return load_digits(settings) | {
        "upper": _letters(train, str.isupper),
        "upper-test": _letters(test, str.isupper),
        "lower": _letters(train, str.islower),
    }


def _letters(data: LabelledImages, which: Any) -> LabelledImages:
    kept = [k for k, name in enumerate(data.classes) if which(name)]
    number = torch.full((data.n_classes,), -1)
    number[kept] = torch.arange(len(kept))
    labels: Tensor = number[data.labels]  # -1 for what is left out
    chosen = labels >= 0
    classes = tuple(data.classes[k] for k in kept)
    return LabelledImages(data.images[chosen], labels[chosen], classes, f"{data.name}, part")


SETTINGS: dict[str, Any] = {
    "size": 32,
    "glyphs": 12_000,
    "test_glyphs": 2_000,
    "labels_per_class": 5,
    "widths": [16, 32, 64],
    "rate": 3e-3,
    "weight_decay": 1e-2,
    "source_batch_size": 64,
    "source_epochs": 10,
    "batch_size": 10,
    "epochs": 30,
}


def _rows() -> tuple[Row, ...]:
    rows = []
    for name, label in METHODS.items():
        rows.append(Row(f"{name}-score", f"{label}: transfer score", unit="% of baseline 1"))
        rows.append(Row(f"{name}-accuracy", f"{label}: digits, at the end"))
    return (
        *rows,
        Row("finetuned-old", "upper-case letters, after baseline 3"),
        Row("progressive-old", "upper-case letters, after 3 columns"),
    )


PROGRESSIVE = Experiment(
    name="progressive",
    title="Printed letters, then handwritten digits with 5 labels each, column by column",
    chapter="methods/progressive",
    unit="test accuracy, %",
    better="higher",
    rows=_rows(),
    source="",
    settings={"quick": SETTINGS, "full": SETTINGS},
    seeds={"quick": 1, "full": 8},
    load=load_letters_and_digits,
    run_seed=run_seed,
)
