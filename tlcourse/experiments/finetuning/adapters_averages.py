"""Low-rank adapters, and averages of weights, beside fine-tuning and the head alone.

The source is the network that reads printed characters, its head cut down to the ten digits, so
that it can be asked about both: the printed digits (the old task) and handwritten digits, 10 labels
each (the new one). All ways start at that network and have the same images, the same batches and
60 steps.

1. the start: the source network, which has not seen handwriting;
2. the head alone, on frozen features;
3. low-rank adapters of rank 1, 4, 16 on every layer, and the head;
4. fine-tuning of all layers, at one rate;
5. five runs of fine-tuning: the mean of their five accuracies, their ensemble (the mean of their
   probabilities), and their soup (the mean of their weights), with the mean of BatchNorm's
   statistics and with statistics computed again on the target's images;
6. networks on the line from the start to fine-tuning, at 1/4, 1/2, 3/4 of the way, likewise.

The rate of each of the ways 2 to 4 is that of 0.001, 0.003, 0.01 and 0.03 which reads most of 500
training images held out, on two other draws of the labelled images. The five runs are not chosen:
half and twice the rate, another order, shifted images.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlcourse.data import LabelledImages, few_per_class, glyphs
from tlcourse.experiments._digits import digit_reader
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import load_digits, per_cent
from tlcourse.experiments.finetuning._two_targets import train_steps
from tlcourse.finetuning import (
    add_adapters,
    average_weights,
    freeze,
    interpolate,
    merge_adapters,
    recompute_batchnorm,
)
from tlcourse.metrics import predict
from tlcourse.models import SmallResNet

WAYS = ("head", "rank-1", "rank-4", "rank-16", "all")
ALPHAS = (0.25, 0.5, 0.75)


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of every way on both tasks, in per cent."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    ways: dict[str, nn.Module] = {"start": digit_reader()}
    for way in WAYS:
        ways[way] = learn(way, few, settings["rates"][way], settings, seed)
    runs = [ways["all"]]
    for factor, shift, later in settings["runs"]:
        rate = factor * settings["rates"]["all"]
        runs.append(learn("all", few, rate, settings, seed + later, shift=shift))
    ways |= averaged(ways["start"], runs, few)
    found: dict[str, float] = {}
    for task, exam in (("new", data["test"]), ("old", data["printed"])):
        found |= {f"{way}-{task}": per_cent(network, exam) for way, network in ways.items()}
        each = [per_cent(run, exam) for run in runs]
        found[f"mean-of-five-{task}"] = sum(each) / len(each)
        together = torch.stack([predict(run, exam).softmax(1) for run in runs]).mean(0)  # (N, 10)
        right = together.argmax(1) == exam.labels
        found[f"ensemble-{task}"] = 100 * right.double().mean().item()
    return found


def averaged(start: nn.Module, runs: list[nn.Module], few: LabelledImages) -> dict[str, nn.Module]:
    """Return the soup of the runs and the line to the first, each before and after BatchNorm's."""
    means = {"soup": average_weights(runs)}
    means |= {f"line-{alpha:g}": interpolate(start, runs[0], alpha) for alpha in ALPHAS}
    found = {f"{way}-as-is": copy.deepcopy(model) for way, model in means.items()}
    for model in means.values():
        recompute_batchnorm(model, few)
    return found | means


def learn(
    way: str, few: LabelledImages, rate: float, settings: Settings, seed: int, *, shift: int = 0
) -> SmallResNet:
    """Return a network that learnt the digits, in evaluation mode, its adapters merged."""
    torch.manual_seed(seed)
    model = digit_reader()
    if way == "head":
        freeze(model.backbone)
    elif way != "all":
        add_adapters(model, "backbone", rank=int(way.removeprefix("rank-")))
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}]
    train_steps(model, groups, few, settings["steps"], settings["batch_size"], shift, seed)
    if way.startswith("rank-"):
        merge_adapters(model)
    return model


def load(settings: Settings) -> dict[str, LabelledImages]:
    """Return handwritten digits to learn from and for the test, and printed ones."""
    _, everything = glyphs(n_train=1, n_test=settings["n_printed"])
    chosen = everything.subset(everything.labels < 10)
    classes, name = everything.classes[:10], "printed digits"
    printed = LabelledImages(chosen.images, chosen.labels, classes, name)
    return {**load_digits(settings), "printed": printed}


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "size": 32,
    "labels_per_class": 10,
    "n_printed": 3_000,  # of all characters; about a fifth are digits
    "steps": 60,
    "batch_size": 20,
    "rates": {"head": 0.03, "rank-1": 0.03, "rank-4": 0.01, "rank-16": 0.01, "all": 0.003},
    "runs": [[0.5, 0, 0], [2, 0, 0], [1, 0, 1_000], [1, 2, 2_000]],  # rate, shift, seed
}
QUICK = FULL | {"steps": 20}
LABELS = {
    "start": "the source network",
    "head": "the head alone",
    "rank-1": "adapters of rank 1",
    "rank-4": "adapters of rank 4",
    "rank-16": "adapters of rank 16",
    "all": "fine-tuning",
}
AVERAGES = {
    "mean-of-five": "five runs of fine-tuning, mean of their accuracies",
    "ensemble": "their ensemble",
    "soup-as-is": "their soup, BatchNorm's statistics averaged",
    "soup": "their soup, BatchNorm's statistics anew",
}
AVERAGES |= {
    f"line-{alpha:g}{key}": f"{alpha:g} of the way, BatchNorm's statistics {words}"
    for alpha in ALPHAS
    for key, words in (("-as-is", "averaged"), ("", "anew"))
}


ADAPTERS_AVERAGES = Experiment(
    name="adapters-averages",
    title="Adapters and averages of weights, from printed to handwritten digits",
    chapter="methods/adapters-and-averages",
    unit="test accuracy, %",
    better="higher",
    rows=tuple(
        Row(f"{way}-{task}", f"{label}, {task} task")
        for task in ("new", "old")
        for way, label in (LABELS | AVERAGES).items()
    ),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load,
    run_seed=run_seed,
)
