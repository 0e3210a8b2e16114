"""Why selecting source images wins nothing here: two suspects, each switched on and off.

In selective-joint neither the source beside the target nor its selection wins anything. Its network
had learnt every source image before, and its source is of one kind. Here each is varied alone,
with two handwritten images of each digit as the target:

- *Is the source known?* All rows start from a network that has learnt printed letters. In one half
  it has learnt the source too, in the other it meets the source for the first time.
- *Is part of the source far off?* The source are printed digits. In one half of the rows three
  times as many letters in negative, dark ink on bright ground, stand among them.

In each of the four cases the target is learnt beside all of the source, beside a random part, and
beside what selective joint fine-tuning finds, which is as large as the random part. All rows take
the same number of steps, with as many source images as target images in each. The row "fine-tuning"
has no source. Where letters in negative are about, a last row tells how much of the selection are
printed digits.

Compare rows within a half: the network that knows the source was trained on more images, for more
steps, than the one that does not.

A seed draws the labelled digits, the weights and the random part. The settings are those of
selective-joint, with retrieval asking for fewer of the fewer source images.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from tlcourse.data import LabelledImages, digits, few_per_class, glyphs, random_shift
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import per_cent
from tlcourse.experiments.multitask._parts import nearest, pretrain, start, train
from tlcourse.models import Classifier, SmallResNet
from tlcourse.multitask import ConvBank, JointFineTuning, SelectiveJointFineTuning

N_DIGITS = 10  # the first classes of the printed characters


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of every row, in per cent."""
    few = few_per_class(data["train"], settings["labels_per_class"], seed=seed)
    augment = functools.partial(random_shift, pixels=settings["shift"])
    mixed = together(data["near"], data["far"])
    found: dict[str, float] = {}

    def learn(name: str, model: Classifier, *, iterate: bool = False) -> None:
        file = folder / name
        train(model, few, settings, settings["rate"], seed, file, augment, iterate=iterate)
        found[name] = per_cent(model, data["test"])

    for known in ("known", "new"):
        learned = together(data["letters"], mixed) if known == "known" else data["letters"]
        torch.manual_seed(seed)
        network = SmallResNet(learned.n_classes, width=settings["width"])
        file = folder / f"{known}.safetensors"
        pretrain(network, learned, settings, seed, file, augment, batch_size=64)
        bank = ConvBank(network, settings["layers"])
        begin = functools.partial(start, network, mixed, settings, seed, scratch=False)

        backbone, _ = begin()
        learn(f"{known}-finetune", Classifier(backbone, few.n_classes))
        for kind, source in (("near", data["near"]), ("mixed", mixed)):
            backbone, head = begin()
            near = nearest(bank, source, few, settings)
            selective = SelectiveJointFineTuning(
                backbone, source, few, near, source_head=head, **settings["retrieval"]
            )
            learn(f"{known}-{kind}-selective", selective, iterate=True)
            is_near = source.labels[selective.selected] < N_DIGITS
            if kind == "mixed":
                found[f"{known}-mixed-share"] = 100 * float(is_near.double().mean())

            generator = torch.Generator().manual_seed(seed)
            part = torch.randperm(len(source), generator=generator)[: len(selective.selected)]
            for way, selected in (("all", None), ("random", part)):
                backbone, head = begin()
                joint = JointFineTuning(
                    backbone, source, few.n_classes, selected=selected, source_head=head
                )
                learn(f"{known}-{kind}-{way}", joint)
    return found


def together(a: LabelledImages, b: LabelledImages) -> LabelledImages:
    """Return the images of both, which have the same classes, shuffled."""
    order = torch.randperm(len(a) + len(b), generator=torch.Generator().manual_seed(0))
    images, labels = (torch.cat(pair)[order] for pair in zip(a.tensors, b.tensors, strict=True))
    return LabelledImages(images, labels, a.classes, f"{a.name} and {b.name}")


def load_characters_and_digits(settings: Settings) -> dict[str, LabelledImages]:
    """Return printed letters, printed digits, letters in negative, and handwritten digits.

    The printed ones share their classes: digits, letters, and letters in negative.
    """
    printed, _ = glyphs(settings["n_source"], 1)
    again, _ = glyphs(settings["n_source"], 1, seed=1)
    classes = (*printed.classes, *(f"{c}, negative" for c in printed.classes[N_DIGITS:]))
    train, test = digits()

    def part(data: LabelledImages, kept: torch.Tensor, name: str) -> LabelledImages:
        return LabelledImages(data.images[kept], data.labels[kept], classes, name)

    is_digit = printed.labels < N_DIGITS
    n_far = settings["far_for_each_near"] * int(is_digit.sum())
    letters = (again.labels >= N_DIGITS).nonzero()[:n_far, 0]
    shifted = again.labels + len(printed.classes) - N_DIGITS
    far = LabelledImages(1 - again.images[letters], shifted[letters], classes, "negative letters")
    return {
        "letters": part(printed, ~is_digit, "printed letters"),
        "near": part(printed, is_digit, "printed digits"),
        "far": far,
        "train": train,
        "test": test,
    }


# --- the settings ---------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "n_source": 9_000,
    "far_for_each_near": 3,
    "source_epochs": 6,
    "source_rate": 3e-3,
    "labels_per_class": 2,
    "layers": ["backbone.stem.0", "backbone.stage1.conv1"],
    "images_for_edges": 2_000,
    "bins": 20,
    "most": 400,
    "retrieval": {"start": 40, "if_wrong": 40, "if_uncertain": 20, "entropy_threshold": 0.1},
    "rounds": 4,
    "epochs": 320,
    "batch_size": 20,
    "rate": 1e-3,
    "weight_decay": 1e-2,
    "width": 16,
    "shift": 2,
}
QUICK = SETTINGS | {"n_source": 2_250, "source_epochs": 1, "epochs": 8}
KNOWN = {"known": "source known", "new": "source new"}
KINDS = {"near": "all of it near", "mixed": "three in four far off"}
WAYS = {"all": "all of the source", "random": "a random part", "selective": "selective"}


def _rows() -> tuple[Row, ...]:
    rows = []
    for known, first in KNOWN.items():
        rows.append(Row(f"{known}-finetune", f"{first}: fine-tuning without it"))
        rows += [
            Row(f"{known}-{kind}-{way}", f"{first}, {second}: {third}")
            for kind, second in KINDS.items()
            for way, third in WAYS.items()
        ]
        rows.append(
            Row(
                f"{known}-mixed-share", f"{first}, {KINDS['mixed']}: of the selected near", unit="%"
            )
        )
    return tuple(rows)


SELECTIVE_JOINT_WHY = Experiment(
    name="selective-joint-why",
    title="Handwritten digits beside printed ones: when selecting source images pays",
    chapter="methods/selective-joint",
    unit="test accuracy, %",
    better="higher",
    rows=_rows(),
    source="",
    settings={"quick": QUICK, "full": SETTINGS},
    seeds={"quick": 1, "full": 8},
    load=load_characters_and_digits,
    run_seed=run_seed,
)
