"""Learning without forgetting: printed characters first, handwritten digits then.

The paper's table, a row for each method and task. The old task is that of the source network: 45
printed characters. The new one is handwritten digits, from a few labelled images. Each method but
the last two sees the new images alone:

1. LwF: all layers, the old head's answers on the new images held on to;
2. fine-tuning: all layers but the old head, nothing held on to;
3. LFL: the same, the last hidden features of the new images held on to;
4. fine-tune FC: the early layers are frozen too. The network has no fully connected hidden layer,
   as AlexNet has; its last stage, stage3, stands for those that are trained;
5. feature extraction: all of the old network is frozen, and the new head has a hidden layer;
6. joint training: all layers, on old *and* new images with their labels, half of each batch;
7. from scratch: the same architecture, new images alone, no old task.

All methods but feature extraction begin with the same warm-up of the new head, as in the paper, and
have the same rate, batches of new images and epochs. Feature extraction and training from scratch
have three times the epochs.
BatchNorm keeps the statistics of the old images throughout, so that nothing moves but what is
trained (AlexNet has no BatchNorm).

A seed draws the new images, the new weights and the order of the batches. The rate, the epochs and
the weight of LFL were chosen with another seed, on training images held out and on other printed
characters; LwF's T and weight are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tlcourse.continual import LearningWithoutForgetting, less_forgetting_loss
from tlcourse.data import LabelledImages, few_per_class, glyphs
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, framed, load_digits, load_mnist, per_cent
from tlcourse.experiments.continual._parts import train
from tlcourse.finetuning import freeze
from tlcourse.models import SmallResNet
from tlcourse.source import glyph_network
from tlcourse.training import cosine_decay
from tlcourse.training._processes import accelerator
from tlcourse.training.batches import derived_seed

METHODS = {
    "lwf": "LwF",
    "finetune": "fine-tuning",
    "lfl": "LFL",
    "finetune-fc": "fine-tune FC (here: stage3)",
    "extraction": "feature extraction",
    "joint": "joint training (sees the old data)",
}


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of every method on both tasks, in per cent."""
    few = few_per_class(data["new-train"], settings["labels_per_class"], seed=seed)
    found = {}
    for method in METHODS:
        torch.manual_seed(seed)
        old, new = learn(method, few, data["old-train"], settings, seed)
        found[f"{method}-old"] = per_cent(old, data["old-test"])
        found[f"{method}-new"] = per_cent(new, data["new-test"])
    torch.manual_seed(seed)
    scratch = SmallResNet(few.n_classes)
    _fit(scratch, cross_entropy, few, settings, seed, "long_epochs")
    return found | {"scratch-new": per_cent(scratch, data["new-test"])}


def learn(
    method: str, few: LabelledImages, old_data: LabelledImages, settings: Settings, seed: int
) -> tuple[nn.Module, nn.Module]:
    """Learn the new task with one method; return the network of the old task and of the new."""
    net = LearningWithoutForgetting(
        glyph_network(progress=False),
        temperature=settings["temperature"],
        old_weight=settings["old_weight"] if method == "lwf" else 0.0,
    )
    recording = net.new_task(few, few.n_classes)
    if method == "extraction":
        D, K = recording.features.tensors[0].shape[1], few.n_classes
        head = nn.Sequential(nn.Linear(D, settings["hidden"]), nn.ReLU(),
                             nn.Linear(settings["hidden"], K))  # fmt: skip
        _fit(head, cross_entropy, recording.features, settings, seed, "long_epochs")
        return net.classifier(0), nn.Sequential(net.backbone, head).eval()

    _fit(net.heads[-1], cross_entropy, recording.features, settings, seed, "warm_up")
    if method == "finetune-fc":
        for name in ("stem", "stage1", "stage2"):
            freeze(net.backbone.get_submodule(name))
    if method not in ("lwf", "joint"):
        freeze(net.heads[0])

    if method == "lfl":
        kept = TensorDataset(*few.tensors, recording.features.tensors[0])
        _fit(net, _lfl(settings["feature_weight"]), kept, settings, seed)
    elif method == "joint":
        _fit(net, _joint(old_data, seed), few, settings, seed)
    else:  # with a weight of 0 it is plain fine-tuning
        _fit(net, LearningWithoutForgetting.loss, recording.answers, settings, seed)
    return net.classifier(0), net.classifier(1)


Objective = Callable[[Any, tuple[Tensor, ...]], Tensor]


def _lfl(weight: float) -> Objective:
    def objective(net: LearningWithoutForgetting, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels, recorded = batch
        features = net.backbone(images)  # (N, D), one pass for both terms
        moved = less_forgetting_loss(features, recorded)
        return F.cross_entropy(net.heads[1](features), labels) + weight * moved

    return objective


def _joint(old: LabelledImages, seed: int) -> Objective:
    """Return the joint loss; each batch gets as many old images as it has new ones."""
    index = accelerator().process_index  # each draws its own, the first one as a single one does
    generator = torch.Generator().manual_seed(derived_seed(seed, 0, 2, index) if index else seed)

    def objective(net: LearningWithoutForgetting, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        n = len(images)
        old_images, old_labels = old[torch.randint(len(old), (n,), generator=generator)]
        mixed = torch.cat([images, old_images.to(images.device)])  # (2N, C, H, W)
        old_logits, new_logits = net.logits(mixed)
        new_loss = F.cross_entropy(new_logits[:n], labels)
        return new_loss + F.cross_entropy(old_logits[n:], old_labels.to(images.device))

    return objective


def _fit(
    model: nn.Module,
    objective: Objective,
    data: Dataset[Any],
    settings: Settings,
    seed: int,
    epochs: str = "epochs",
) -> None:
    keep = isinstance(model, LearningWithoutForgetting)

    def stepwise(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        if keep:  # fit puts the model into train mode at the start of each epoch
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return objective(model, batch)

    rate = "head_rate" if epochs == "warm_up" else "rate"
    train(model, stepwise, data, settings, seed, epochs=epochs, rate=rate, schedule=cosine_decay)


# --- data and settings ----------------------------------------------------------------------------


def load_old_and_digits(settings: Settings) -> dict[str, LabelledImages]:
    """Return the printed characters and scikit-learn's digits."""
    return _with_old(load_digits(settings), settings)


def load_old_and_mnist(settings: Settings) -> dict[str, LabelledImages]:
    """Return the printed characters and MNIST, with a border that makes it 32 x 32."""
    found = {}
    for part, images in load_mnist(settings).items():
        if part == "test" and "test_per_class" in settings:
            images = few_per_class(images, settings["test_per_class"], seed=0)
        found[part] = framed(images, 2)
    return _with_old(found, settings)


def _with_old(new: dict[str, LabelledImages], settings: Settings) -> dict[str, LabelledImages]:
    old_train, old_test = glyphs(settings["old_train"], settings["old_test"], seed=0)
    return {f"new-{part}": images for part, images in new.items()} | {
        "old-train": old_train,
        "old-test": old_test,
    }


DIGITS: dict[str, Any] = {
    "size": 32,
    "labels_per_class": 20,
    "old_train": 12_000,
    "old_test": 2_000,
    "temperature": 2.0,
    "old_weight": 1.0,
    "feature_weight": 0.01,
    "hidden": 128,
    "head_rate": 1e-2,
    "rate": 1e-3,
    "weight_decay": 5e-4,
    "batch_size": 20,
    "warm_up": 20,
    "epochs": 20,
    "long_epochs": 60,
}
MNIST_FULL = DIGITS | {
    "labels_per_class": 100,
    "batch_size": 50,
    "epochs": 10,
    "long_epochs": 30,
}
MNIST_QUICK = MNIST_FULL | {
    "labels_per_class": 20,
    "test_per_class": 50,
    "epochs": 3,
    "long_epochs": 6,
}


# The paper's table of differences, its last column: LwF as it stands, the others LwF plus their
# difference.
PAPER = {
    "lwf": (49.8, 99.3),
    "finetune": (49.8 - 2.8, 99.3 + 0.0),
    "lfl": (49.8 - 2.9, 99.3 - 0.6),
    "finetune-fc": (49.8 + 7.0, 99.3 - 0.2),
    "extraction": (49.8 + 7.3, 99.3 - 0.8),
    "joint": (49.8 + 7.2, 99.3 - 0.0),
}


def _rows(paper: dict[str, tuple[float, float]]) -> tuple[Row, ...]:
    rows = []
    for method, label in METHODS.items():
        old, new = (round(p, 1) for p in paper[method]) if paper else (None, None)
        rows.append(Row(f"{method}-old", f"{label}: old task", old))
        rows.append(Row(f"{method}-new", f"{label}: new task", new))
    return (*rows, Row("scratch-new", "from scratch: new task"))


LWF = Experiment(
    name="lwf",
    title="From printed characters to handwritten digits, 20 labels a digit, and what is forgotten",
    chapter="methods/continual",
    unit="test accuracy, %",
    better="higher",
    rows=_rows({}),
    source="",
    settings={"quick": DIGITS, "full": DIGITS},
    seeds={"quick": 3, "full": 8},
    load=load_old_and_digits,
    run_seed=run_seed,
)

LWF_MNIST = Experiment(
    name="lwf-mnist",
    title="From printed characters to MNIST, 100 labels a digit, and what is forgotten",
    chapter="methods/continual",
    unit="test accuracy, %",
    better="higher",
    rows=_rows(PAPER),
    source=(
        "Li and Hoiem (2016), AlexNet, ImageNet to MNIST (all of its training images), from their "
        "table of differences: the entries of LwF, and for the others LwF plus the difference that "
        "the table gives. Another old task, another network: compare the differences"
    ),
    settings={"quick": MNIST_QUICK, "full": MNIST_FULL},
    seeds={"quick": 1, "full": 8},
    load=load_old_and_mnist,
    run_seed=run_seed,
)
