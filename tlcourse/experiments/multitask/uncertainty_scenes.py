"""Three tasks on one picture: weights by hand, by search, and learned (Kendall et al., 2018).

One small network sees generated scenes and answers three questions about every pixel: what is here
(cross-entropy), where is the centre of this object (squared error, in pixels), and how far away is
it (squared error). Alone, each task is an easy choice; together, their losses differ in unit and
size, and the rows of the table differ in nothing but how they are weighed.

The scenes are the same for all seeds; a seed draws weights and order. The approximately optimal
weights are searched anew for every seed, on a grid, with a third of the epochs, by the measures on
scenes of their own. Nothing is chosen on the test scenes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcourse._modes import evaluating
from tlcourse.data import Scenes, scenes
from tlcourse.experiments._engine.experiment import Experiment, Row, Settings
from tlcourse.models import DenseNetwork
from tlcourse.multitask import UncertaintyWeighting, dense_losses
from tlcourse.training import cosine_decay, fit

KINDS = {"segmentation": "classification", "instances": "regression", "depth": "regression"}
TASKS = tuple(KINDS)
SHORT = {"segmentation": "seg", "instances": "inst", "depth": "depth"}


# --- the experiment -------------------------------------------------------------------------------


def run_scenes(
    data: Mapping[str, Scenes], settings: Settings, seed: int, folder: Path
) -> dict[str, float]:
    """Train every row of the table, and measure each of its tasks."""
    found: dict[str, float] = {}
    alone: dict[str, float] = {}

    def note(row: str, tasks: Sequence[str], model: nn.Module) -> None:
        measured = measure(model, data["test"], tasks)
        found.update({f"{row}-{SHORT[task]}": value for task, value in measured.items()})

    learn = functools.partial(train, data["train"], settings, seed)
    for task in TASKS:
        model = learn([task], [1.0], folder / f"{SHORT[task]}.safetensors")
        note("alone", [task], model)
        alone |= measure(model, data["validation"], [task])

    unweighted = [1 / len(TASKS)] * len(TASKS)
    note("unweighted", TASKS, learn(TASKS, unweighted, folder / "unweighted.safetensors"))

    def worth(weights: Sequence[float], file: Path) -> float:
        """Return how a short training with these weights compares with each task alone."""
        epochs = max(1, settings["epochs"] // 3)
        model = learn(TASKS, weights, file, epochs=epochs)
        measured = measure(model, data["validation"], TASKS)
        ratios = [measured["segmentation"] / alone["segmentation"]]
        ratios += [alone[task] / measured[task] for task in ("instances", "depth")]
        return sum(ratios) / 3

    grid = [normalised(weights) for weights in settings["grid"]]
    scores = [worth(w, folder / f"grid-{i}.safetensors") for i, w in enumerate(grid)]
    best = grid[scores.index(max(scores))]
    note("optimal", TASKS, learn(TASKS, best, folder / "optimal.safetensors"))

    for row, tasks in _LEARNED.items():
        note(row, tasks, learn(tasks, None, folder / f"{row}.safetensors"))
    return found


# --- their parts ----------------------------------------------------------------------------------


class Weighted(nn.Module):
    """A network for some tasks, and the weights of its losses: fixed, or learned with it."""

    def __init__(
        self, tasks: Sequence[str], weights: Sequence[float] | None, n_classes: int, width: int
    ) -> None:
        super().__init__()
        outputs = {"segmentation": n_classes, "instances": 2, "depth": 1}
        self.tasks, self.weights = tuple(tasks), weights
        self.network = DenseNetwork([outputs[task] for task in tasks], width=width)
        kinds = [KINDS[task] for task in tasks]
        self.weighting = UncertaintyWeighting(kinds) if weights is None else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the answers, one for every task."""
        answers: tuple[Tensor, ...] = self.network(images)
        return answers

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the weighted sum of the tasks' losses."""
        losses = dense_losses(self.network(batch[0]), batch, self.tasks)
        if self.weights is None:
            assert self.weighting is not None
            return self.weighting(losses)
        total = torch.zeros(())
        for weight, loss in zip(self.weights, losses, strict=True):
            total = total.to(loss) + weight * loss
        return total


def train(
    data: Scenes,
    settings: Settings,
    seed: int,
    tasks: Sequence[str],
    weights: Sequence[float] | None,
    checkpoint: Path,
    *,
    epochs: int | None = None,
) -> Weighted:
    """Return a network that learned these tasks with these weights; ``None`` learns them too."""
    torch.manual_seed(seed)  # one draw of the trunk for all rows
    model = Weighted(tasks, weights, data.n_classes, settings["width"])
    groups: list[dict[str, Any]] = [{"params": list(model.network.parameters())}]
    if model.weighting is not None:  # no decay: it would pull every noise level to 1
        levels = list(model.weighting.parameters())
        groups.append({"params": levels, "lr": settings["level_rate"], "weight_decay": 0.0})
    fit(
        model,
        Weighted.loss,
        data,
        optimizer=torch.optim.AdamW(groups, lr=settings["rate"]),
        epochs=epochs or settings["epochs"],
        batch_size=settings["batch_size"],
        schedule=cosine_decay,
        seed=seed,
        checkpoint=checkpoint,
    )
    return model


def measure(model: nn.Module, data: Scenes, tasks: Sequence[str]) -> dict[str, float]:
    r"""Return a measure for every task.

    - segmentation: the mean over the classes of the intersection over the union, in per cent;
    - instances: the mean distance between the centre that a pixel points to and its own, in pixels,
      over the pixels of the objects;
    - depth: the mean absolute error of the inverse depth, over all pixels, in per cent of that of
      the nearest place.
    """
    device = next((p.device for p in model.parameters()), data.images.device)
    with evaluating(model), torch.no_grad():
        parts = [
            [answer.cpu() for answer in model(images.to(device))]
            for images in data.images.split(200)
        ]
    found = {}
    for task, answers in zip(tasks, zip(*parts, strict=True), strict=True):
        answer = torch.cat(answers)
        if task == "segmentation":
            found[task] = 100 * mean_iou(answer.argmax(1), data.segmentation, data.n_classes)
        elif task == "instances":
            off = (answer - data.instances).norm(dim=1)  # (N, H, W)
            found[task] = off[data.defined].mean().item()
        else:
            found[task] = 100 * (answer - data.inverse_depth).abs().mean().item()
    return found


def mean_iou(predicted: Tensor, true: Tensor, n_classes: int) -> float:
    """Return the mean over the classes of |predicted and true| / |predicted or true|."""
    pairs = (true * n_classes + predicted).flatten().bincount(minlength=n_classes**2)
    counts = pairs.view(n_classes, n_classes).double()  # (true, predicted)
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    return (both / either).mean().item()


def normalised(weights: Sequence[float]) -> list[float]:
    """Return the weights divided by their sum."""
    return [weight / sum(weights) for weight in weights]


def load_scenes(settings: Settings) -> Any:
    """Return scenes for training, for the choice of weights, and for testing."""
    n_train, n_validation, n_test = settings["n_scenes"]
    size = settings["size"]
    train, test = scenes(n_train, n_test, size=size, seed=0)
    validation, _ = scenes(n_validation, 1, size=size, seed=1)
    return {"train": train.coarse(), "validation": validation.coarse(), "test": test.coarse()}


# --- the settings ---------------------------------------------------------------------------------

SCENES: dict[str, Any] = {
    "n_scenes": [2_000, 400, 500],
    "size": 40,
    "width": 16,
    "epochs": 15,
    "batch_size": 32,
    "rate": 3e-3,
    "level_rate": 5e-2,
    # Of segmentation, instances and depth, before they are made to sum to 1.
    "grid": [[s, 1, d] for s in (3, 30) for d in (30, 300, 3_000)],
}
SCENES_QUICK = SCENES | {"n_scenes": [500, 100, 200], "epochs": 3}

_LEARNED = {
    "seg-inst": ["segmentation", "instances"],
    "seg-depth": ["segmentation", "depth"],
    "inst-depth": ["instances", "depth"],
    "all": list(TASKS),
}
_MEASURES = {
    "seg": ("segmentation", "IoU, %"),
    "inst": ("instances", "error, px"),
    "depth": ("inverse depth", "error, % of the nearest"),
}


def _rows() -> tuple[Row, ...]:
    """Return a row for every measure of every line of the lecture's table."""
    table: list[tuple[str, str, dict[str, float]]] = [
        ("alone", "Segmentation only", {"seg": 59.4}),
        ("alone", "Instance only", {"inst": 4.61}),
        ("alone", "Depth only", {"depth": 0.640}),
        ("unweighted", "Unweighted sum of losses", {"seg": 50.1, "inst": 3.79, "depth": 0.592}),
        ("optimal", "Approx. optimal weights", {"seg": 62.8, "inst": 3.61, "depth": 0.549}),
        ("seg-inst", "2 task uncertainty weighting", {"seg": 61.0, "inst": 3.42}),
        ("seg-depth", "2 task uncertainty weighting", {"seg": 62.7, "depth": 0.533}),
        ("inst-depth", "2 task uncertainty weighting", {"inst": 3.54, "depth": 0.539}),
        ("all", "3 task uncertainty weighting", {"seg": 63.4, "inst": 3.50, "depth": 0.522}),
    ]
    rows = []
    for key, label, figures in table:
        for short, paper in figures.items():
            name, unit = _MEASURES[short]
            tasks = " and ".join(SHORT[task] for task in _LEARNED[key]) if "2 task" in label else ""
            what = f"{label} ({tasks}): {name}" if tasks else f"{label}: {name}"
            rows.append(Row(f"{key}-{short}", what, paper, unit))
    return tuple(rows)


UNCERTAINTY_SCENES = Experiment(
    name="uncertainty-scenes",
    title="Three tasks on generated scenes: one at a time, and together with several weights",
    chapter="methods/multi-task",
    unit="",
    better="lower error, higher IoU",
    rows=_rows(),
    source="EE807 lecture 11, after Kendall et al. 2018, table 1: Tiny CityScapes; both errors in "
    "pixels there",
    settings={"quick": SCENES_QUICK, "full": SCENES},
    seeds={"quick": 1, "full": 3},
    load=load_scenes,
    run_seed=run_scenes,
)
