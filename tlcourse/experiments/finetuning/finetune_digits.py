"""From printed characters to handwritten digits: frozen, fine-tuned, staged, from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlcourse.data import few_per_class
from tlcourse.experiments._engine.experiment import Data, Experiment, Settings
from tlcourse.experiments._shared import load_digits, per_cent
from tlcourse.experiments.finetuning._parts import (
    from_scratch,
    linear_head,
    table,
    train,
    with_head,
)
from tlcourse.finetuning import UnfreezeSchedule, extract_features, layerwise_parameter_groups
from tlcourse.source import glyph_network


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """From printed characters to handwritten digits: frozen, fine-tuned, staged, from scratch."""
    test, groups = data["test"], settings["groups"]
    found = {}
    for i, n in enumerate(settings["labels_per_class"]):
        few = few_per_class(data["train"], n, seed=seed)
        epochs = settings["epochs"][i]

        file = folder / f"scratch-{n}.safetensors"
        scratch = from_scratch(few, settings, epochs, seed, file)
        found[f"scratch-{n}"] = per_cent(scratch, test)

        backbone = glyph_network(progress=False).backbone
        head = linear_head(extract_features(backbone, few), settings["strengths"])
        found[f"frozen-{n}"] = per_cent(with_head(backbone, head), test)

        tuned = with_head(backbone, head)
        rates = layerwise_parameter_groups(
            tuned, groups, settings["finetune_rate"], settings["rate_decay"]
        )
        train(tuned, rates, few, settings, epochs, seed, folder / f"tuned-{n}.safetensors")
        found[f"finetuned-{n}"] = per_cent(tuned, test)

        staged = with_head(glyph_network(progress=False).backbone, head)
        schedule = UnfreezeSchedule(staged, groups[::-1])
        while not schedule.done:
            schedule.advance()
            rates = layerwise_parameter_groups(
                staged, groups, settings["finetune_rate"], settings["rate_decay"]
            )
            file = folder / f"staged-{n}-{schedule.stage}.safetensors"
            train(staged, rates, few, settings, epochs // (len(groups) - 1), seed, file)
        found[f"staged-{n}"] = per_cent(staged, test)
    return found


# --- the settings ---------------------------------------------------------------------------------

DIGITS: dict[str, Any] = {
    "size": 32,
    "labels_per_class": [1, 5, 20],
    "strengths": [1.0],  # a fifth of one image per class is none: C cannot be chosen there
    "groups": [["backbone.stem", "backbone.stage1"], "backbone.stage2", "backbone.stage3", "head"],
    "epochs": [60, 60, 30],
    "finetune_rate": 3e-3,
    "rate_decay": 3.0,
    "scratch_width": 16,
    "scratch_rate": 5e-3,
    "weight_decay": 1e-2,
    "batch_size": 32,
}
WAYS = {
    "scratch": "from scratch",
    "frozen": "linear head on frozen features",
    "finetuned": "all layers fine-tuned",
    "staged": "unfrozen stage by stage",
}

FINETUNE_DIGITS = Experiment(
    name="finetune-digits",
    title="From printed characters to handwritten digits with 1, 5 and 20 labels a digit",
    chapter="methods/fine-tuning",
    unit="test accuracy, %",
    better="higher",
    rows=table(WAYS, DIGITS["labels_per_class"]),
    source="",
    settings={"quick": DIGITS, "full": DIGITS},
    seeds={"quick": 3, "full": 10},
    load=load_digits,
    run_seed=run_seed,
)
