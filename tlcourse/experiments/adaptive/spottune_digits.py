"""SpotTune on a small residual net: the comparison of Guo et al. (2019), at a laptop's scale.

The source is the network that reads 45 printed characters, the target handwritten digits with few
labels. The network has four blocks: the stem and three stages. From the least that is learnt of
the digits to the most:

1. logistic regression on the pixels: no network, no transfer;
2. feature extraction: all blocks frozen, a new head;
3. the last 1, 2, 3 blocks and the head tuned, those before them frozen;
4. fine-tuning: all four blocks;
5. L2-SP (Li, Grandvalet and Davoine, 2018): fine-tuning with a penalty on the squared distance to
   the source's weights, in the place of weight decay; the head keeps its weight decay;
6. random policy: SpotTune's two copies of each block, and a coin for each image and block at each
   step. A test image goes along a path of coins, too;
7. SpotTune, its agent starting from random weights;
8. SpotTune global-k: all images are to tune the same k blocks;
9. from scratch: the same network from random weights.

What the trained policy does is measured as well: the share of the test images that take the tuned
copy of each block, and that of the path taken most. And does it matter? SpotTune's own weights are
tested with all decisions 1 (the paper's "running fine-tuned blocks"), with all 0, and with the
decisions of another test image, drawn at random.

All networks have the same images, batches and number of steps, SGD with momentum as in the paper,
and a rate that falls along a cosine. A frozen block keeps its BatchNorm statistics in all of them.
The rate of feature extraction, the one rate of all others, the weight of L2-SP and the strength of
logistic regression were chosen on 500 training images held out, with other seeds; so was to shift
the images for learning from scratch, which stays below the pixels without. Global-k's k is half of
the blocks.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from tlcourse.adaptive import SpotTuneResNet, global_k_loss
from tlcourse.data import LabelledImages, few_per_class, random_shift
from tlcourse.experiments._digits import on_pixels
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings
from tlcourse.experiments._shared import cross_entropy, load_digits, per_cent, rows
from tlcourse.finetuning import freeze
from tlcourse.models import Classifier, SmallResNet
from tlcourse.source import glyph_network
from tlcourse.training import Objective, cosine_decay, fit

BLOCKS = ("stem", "stage1", "stage2", "stage3")
TUNED = {"extraction": 0, "last-1": 1, "last-2": 2, "last-3": 3, "finetune": 4, "l2-sp": 4}


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Return the accuracy of every way in per cent, and what the policies do."""
    test, found = data["test"], {}
    for n, epochs in zip(settings["labels_per_class"], settings["epochs"], strict=True):
        few = few_per_class(data["train"], n, seed=seed)
        found[f"pixels-{n}"] = on_pixels(few, test, settings["strength"])
        for way in ("scratch", *TUNED):
            found[f"{way}-{n}"] = per_cent(learn(way, few, settings, epochs, seed), test)

        coins = torch.Generator().manual_seed(seed)
        random = learn("random", few, settings, epochs, seed)
        found[f"random-{n}"] = routed(random, test, coin_flips(test.images, coins))

        same = learn("global-k", few, settings, epochs, seed)
        decisions = decided(same, test)  # (N, 4)
        found[f"global-k-{n}"] = routed(same, test, decisions)
        found[f"global-k-blocks-{n}"] = decisions.sum(1).mean().item()

        spottune = learn("spottune", few, settings, epochs, seed)
        decisions = decided(spottune, test)
        others = decisions[torch.randperm(len(test), generator=coins)]
        found[f"spottune-{n}"] = routed(spottune, test, decisions)
        found[f"all-tuned-{n}"] = routed(spottune, test, torch.ones_like(decisions))
        found[f"all-frozen-{n}"] = routed(spottune, test, torch.zeros_like(decisions))
        found[f"others-{n}"] = routed(spottune, test, others)
        for block, share in zip(BLOCKS, decisions.mean(0).tolist(), strict=True):
            found[f"share-{block}-{n}"] = 100 * share
        _, of_path = decisions.unique(dim=0, return_counts=True)
        found[f"one-path-{n}"] = 100 * of_path.max().item() / len(test)
    return found


def learn(way: str, few: LabelledImages, settings: Settings, epochs: int, seed: int) -> Any:
    """Learn the digits in one of the ways; return the network, in evaluation mode."""
    torch.manual_seed(seed)
    source, K = glyph_network(progress=False), few.n_classes
    rate = {"lr": settings["extraction_rate" if way == "extraction" else "rate"]}
    model: Any
    objective: Objective = cross_entropy
    if way == "scratch":
        model = SmallResNet(K)
        groups = [{"params": model.parameters()} | rate]
    elif way in TUNED:
        model = Classifier(source.backbone, K)
        for block in BLOCKS[: len(BLOCKS) - TUNED[way]]:
            freeze(model.backbone.get_submodule(block))
        body: dict[str, Any] = {
            "params": [p for p in model.backbone.parameters() if p.requires_grad]
        }
        if way == "l2-sp":
            objective = l2_sp(model, settings["l2_sp"])
            body |= {"weight_decay": 0.0}
        groups = [{"params": model.head.parameters()} | rate, body | rate]
    else:
        model = SpotTuneResNet.from_pretrained(source, K)
        objective = {
            "random": random_policy,
            "spottune": SpotTuneResNet.loss,
            "global-k": global_k(settings["k"]),
        }[way]
        groups = [{"params": model.learners(), **rate}]
        if way != "random":
            groups += [{"params": model.agent.parameters(), "lr": settings["agent_rate"]}]
    fit(
        model,
        objective,
        few,
        optimizer=torch.optim.SGD(
            groups, momentum=settings["momentum"], weight_decay=settings["weight_decay"]
        ),
        epochs=epochs,
        batch_size=settings["batch_size"],
        schedule=cosine_decay,
        augment=partial(random_shift, pixels=settings["shift"]) if way == "scratch" else None,
        seed=seed,
        progress=False,
    )
    return model.cpu().eval()


# --- the objectives -------------------------------------------------------------------------------


def l2_sp(model: Classifier, weight: float) -> Objective:
    r"""Return cross-entropy + weight / 2 * ||w - w0||^2, w0 being the backbone's weights now."""
    start = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}

    def objective(model: Classifier, batch: tuple[Tensor, ...]) -> Tensor:
        moved = sum(
            (p - start[name].to(p.device)).square().sum()
            for name, p in model.backbone.named_parameters()
        )
        return cross_entropy(model, batch) + weight / 2 * moved

    return objective


def random_policy(model: SpotTuneResNet, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the loss along paths of coins, which are drawn anew at each step."""
    images, labels = batch
    return nll_loss(model.classify(images, coin_flips(images)), labels)


def coin_flips(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return a decision of 0 or 1 for each image and block, (N, 4), each with probability 1/2."""
    coins = torch.randint(2, (len(images), len(BLOCKS)), generator=generator)
    return coins.to(images)


def global_k(k: float) -> Objective:
    """Return SpotTune's loss with the term that has all images tune the same k blocks."""

    def objective(model: SpotTuneResNet, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        log_probs, decisions = model(images)
        return nll_loss(log_probs, labels) + global_k_loss(decisions, k)

    return objective


# --- the measures ---------------------------------------------------------------------------------


@torch.no_grad()
def decided(model: SpotTuneResNet, test: LabelledImages) -> Tensor:
    """Return the agent's decisions for the test images, (N, 4)."""
    return model.decide(test.images)


@torch.no_grad()
def routed(model: SpotTuneResNet, test: LabelledImages, decisions: Tensor) -> float:
    """Return the accuracy in per cent where the test images take these decisions, (N, 4)."""
    right = model.classify(test.images, decisions).argmax(1) == test.labels
    return 100 * right.double().mean().item()


# --- the settings ---------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "size": 32,
    "labels_per_class": [5, 40],
    "epochs": [160, 20],  # 320 steps each
    "batch_size": 25,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "rate": 0.03,
    "extraction_rate": 0.01,
    "agent_rate": 0.01,
    "shift": 3,
    "l2_sp": 0.001,
    "k": 2,
    "strength": 10.0,
}
QUICK = FULL | {"epochs": [40, 5]}
WAYS = {
    "scratch": "from scratch",
    "pixels": "logistic regression on pixels",
    "extraction": "feature extraction",
    "last-1": "last block tuned",
    "last-2": "last 2 blocks tuned",
    "last-3": "last 3 blocks tuned",
    "finetune": "fine-tuning",
    "l2-sp": "L2-SP",
    "random": "random policy",
    "spottune": "SpotTune",
    "global-k": "SpotTune global-k",
    "all-tuned": "SpotTune, all decisions 1",
    "all-frozen": "SpotTune, all decisions 0",
    "others": "SpotTune, another image's decisions",
}
SHARES = {f"share-{block}": f"SpotTune takes the tuned {block}" for block in BLOCKS} | {
    "one-path": "SpotTune's commonest path"
}


def _policy_rows(n: int) -> list[Row]:
    tuned = Row(f"global-k-blocks-{n}", f"blocks that global-k tunes, {n} a class", unit="of 4")
    shares = [
        Row(f"{key}-{n}", f"{label}, {n} a class", unit="test images, %")
        for key, label in SHARES.items()
    ]
    return [*shares, tuned]


SPOTTUNE_DIGITS = Experiment(
    name="spottune-digits",
    title="SpotTune from printed characters to handwritten digits, 5 and 40 labels a digit",
    chapter="adaptive/spottune",
    unit="test accuracy, %",
    better="higher",
    rows=tuple(
        row
        for n in FULL["labels_per_class"]
        for row in (*rows(WAYS, key=f"{{}}-{n}", label=f"{{}}, {n} a class"), *_policy_rows(n))
    ),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load_digits,
    run_seed=run_seed,
)
