"""The rule of four cases: small or large target, similar or different, every way at two budgets.

The source is the network that reads printed characters. The similar target is handwritten digits;
the different one the same images, cut into 16 tiles that are laid in another order. Small is 10
labels a digit, large 100: all training images, so that there the seeds differ in weights and
batches alone, and the two ways without chance do not differ at all. The ways, from the least that
learns to the most:

1. the head alone: logistic regression on the frozen features;
2. `stage3` and the head, 3. `stage2`, `stage3` and the head, the layers before them frozen;
4. all layers after the head, at one rate (d = 1), 5. and 6. with each earlier group 3 or 10 times
   slower;
7. new later layers: `stage2`, `stage3` and the head from random weights, on frozen early layers;
8. from scratch: the same network from random weights;
9. logistic regression on the pixels: no network, no transfer.

Ways 2 to 6 start at the head of way 1. Ways 2 to 8 have the same images, batches and number of
steps: few, at which training from scratch has only begun, and many, the plateau. That it is one,
training from scratch for twice as many steps says, in a row of its own for each case.

Nothing is chosen on test images. For each of the ways 2 to 8, in each case and at each budget, the
rate (0.001, 0.003, 0.01 or 0.03; at few steps also 0.1) and whether the images are shifted were
chosen on 500 training images held out, learning from 10 or 50 labels a digit of the other 500, with
another seed: as many candidates for training from scratch as for every other way. So were the
strengths of both logistic regressions, of four. Frozen layers keep their BatchNorm statistics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tlcourse.data import LabelledImages, few_per_class
from tlcourse.experiments._digits import on_pixels
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import per_cent
from tlcourse.experiments.finetuning._parts import linear_head, with_head
from tlcourse.experiments.finetuning._two_targets import (
    TARGETS,
    load_two_targets,
    train_steps,
)
from tlcourse.finetuning import extract_features, freeze, layerwise_parameter_groups
from tlcourse.models import Classifier, SmallResNet
from tlcourse.source import glyph_network

GROUPS = [["backbone.stem", "backbone.stage1"], ["backbone.stage2"], ["backbone.stage3"], ["head"]]
FROZEN = {"last-1": 2, "last-2": 1, "new-later": 1}  # of the groups, from the first on
DECAYS = {"all-d3": 3.0, "all-d10": 10.0}


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the test accuracy of every way in every case, in per cent."""
    found = {}
    for target in TARGETS:
        train, test = data[f"{target}-train"], data[f"{target}-test"]
        for size, n in settings["labels_per_class"].items():
            case = f"{target}-{size}"
            strength = settings["strengths"][case]
            everything = n * train.n_classes >= len(train)
            few = train if everything else few_per_class(train, n, seed=seed)
            found[f"pixels-{case}"] = on_pixels(few, test, strength["pixels"])
            start = probed(few, strength["head"])
            found[f"head-{case}"] = per_cent(start, test)
            for budget, steps in settings["steps"].items():
                for way in LEARN:
                    how = settings["chosen"][f"{case}-{budget}"][way]
                    model = learn(way, few, start, steps, how, settings["batch_size"], seed)
                    found[f"{way}-{case}-{budget}"] = per_cent(model, test)
            how = settings["chosen"][f"{case}-many"]["scratch"]
            twice = 2 * settings["steps"]["many"]
            model = learn("scratch", few, start, twice, how, settings["batch_size"], seed)
            found[f"scratch-{case}-twice"] = per_cent(model, test)
    return found


def probed(few: LabelledImages, strength: float) -> Classifier:
    """Return the source's backbone with the head that logistic regression finds on its features."""
    backbone = glyph_network(progress=False).backbone
    return with_head(backbone, linear_head(extract_features(backbone, few), [strength]))


def learn(
    way: str,
    few: LabelledImages,
    start: Classifier,
    steps: int,
    how: list[float],
    batch_size: int,
    seed: int,
) -> Classifier:
    """Return a network that learnt in one of the ways, in evaluation mode.

    ``how`` is the learning rate of the head and the largest shift of the images in pixels.
    """
    rate, shift = how
    torch.manual_seed(seed)
    fresh = SmallResNet(few.n_classes, width=start.head.in_features // 4)
    model: Classifier = fresh
    if way != "scratch":
        model = with_head(glyph_network(progress=False).backbone, start.head)
        for group in GROUPS[: FROZEN.get(way, 0)]:
            for part in group:
                freeze(model.get_submodule(part))
    if way == "new-later":
        model.backbone.stage2, model.backbone.stage3 = fresh.backbone.stage2, fresh.backbone.stage3
        model.head = fresh.head
    groups = layerwise_parameter_groups(model, GROUPS, rate, DECAYS.get(way, 1.0))
    train_steps(model, groups, few, steps, batch_size, int(shift), seed)
    return model


# --- the settings ---------------------------------------------------------------------------------

LEARN = {
    "last-1": "stage3 and the head",
    "last-2": "stage2, stage3 and the head",
    "all-d1": "all layers, one rate",
    "all-d3": "all layers, d = 3",
    "all-d10": "all layers, d = 10",
    "new-later": "new later layers on frozen early ones",
    "scratch": "from scratch",
}
SIZES = {"small": 10, "large": 100}
STRENGTHS = {  # scikit-learn's C
    "similar-small": {"pixels": 1.0, "head": 0.01},
    "similar-large": {"pixels": 1.0, "head": 1.0},
    "different-small": {"pixels": 10.0, "head": 0.1},
    "different-large": {"pixels": 0.1, "head": 10.0},
}
# For each case and budget: the rate of the head, and the largest shift in pixels.
CHOSEN: dict[str, dict[str, list[float]]] = {
    "similar-small-few": {
        "last-1": [0.01, 0],
        "last-2": [0.003, 0],
        "all-d1": [0.003, 0],
        "all-d3": [0.003, 2],
        "all-d10": [0.03, 2],
        "new-later": [0.01, 2],
        "scratch": [0.03, 2],
    },
    "similar-small-many": {
        "last-1": [0.01, 2],
        "last-2": [0.003, 2],
        "all-d1": [0.003, 2],
        "all-d3": [0.01, 2],
        "all-d10": [0.03, 2],
        "new-later": [0.01, 2],
        "scratch": [0.01, 2],
    },
    "similar-large-few": {
        "last-1": [0.003, 0],
        "last-2": [0.01, 2],
        "all-d1": [0.003, 2],
        "all-d3": [0.01, 2],
        "all-d10": [0.003, 0],
        "new-later": [0.01, 0],
        "scratch": [0.03, 0],
    },
    "similar-large-many": {
        "last-1": [0.01, 2],
        "last-2": [0.003, 0],
        "all-d1": [0.001, 0],
        "all-d3": [0.01, 0],
        "all-d10": [0.03, 2],
        "new-later": [0.01, 0],
        "scratch": [0.003, 2],
    },
    "different-small-few": {
        "last-1": [0.03, 0],
        "last-2": [0.003, 0],
        "all-d1": [0.01, 0],
        "all-d3": [0.01, 0],
        "all-d10": [0.1, 0],
        "new-later": [0.01, 0],
        "scratch": [0.03, 0],
    },
    "different-small-many": {
        "last-1": [0.01, 2],
        "last-2": [0.01, 0],
        "all-d1": [0.01, 2],
        "all-d3": [0.03, 0],
        "all-d10": [0.03, 2],
        "new-later": [0.01, 0],
        "scratch": [0.01, 2],
    },
    "different-large-few": {
        "last-1": [0.03, 0],
        "last-2": [0.01, 0],
        "all-d1": [0.003, 0],
        "all-d3": [0.03, 0],
        "all-d10": [0.1, 0],
        "new-later": [0.01, 0],
        "scratch": [0.03, 0],
    },
    "different-large-many": {
        "last-1": [0.01, 2],
        "last-2": [0.01, 2],
        "all-d1": [0.01, 0],
        "all-d3": [0.03, 2],
        "all-d10": [0.03, 0],
        "new-later": [0.03, 0],
        "scratch": [0.03, 0],
    },
}
FULL: dict[str, Any] = {
    "size": 32,
    "labels_per_class": SIZES,
    "steps": {"few": 40, "many": 320},
    "batch_size": 25,
    "strengths": STRENGTHS,
    "chosen": CHOSEN,
}
QUICK = FULL | {"steps": {"few": 10, "many": 40}}
WITHOUT_STEPS = {"pixels": "logistic regression on pixels", "head": "the head alone"}
BUDGETS = {"few": "few steps", "many": "plateau"}


def _rows_of(target: str, size: str) -> list[Row]:
    case, name = f"{target}-{size}", f"{size} and {target}"
    ways = [(f"{way}-{case}", f"{label}, {name}") for way, label in WITHOUT_STEPS.items()]
    ways += [
        (f"{way}-{case}-{budget}", f"{label}, {name}, {words}")
        for budget, words in BUDGETS.items()
        for way, label in LEARN.items()
    ]
    ways += [(f"scratch-{case}-twice", f"from scratch, {name}, twice the plateau's steps")]
    return [Row(key, label) for key, label in ways]


FINETUNE_CASES = Experiment(
    name="finetune-cases",
    title="The rule of four cases: small or large target, similar or different",
    chapter="methods/fine-tuning",
    unit="test accuracy, %",
    better="higher",
    rows=tuple(row for t in TARGETS for size in SIZES for row in _rows_of(t, size)),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load_two_targets,
    run_seed=run_seed,
)
