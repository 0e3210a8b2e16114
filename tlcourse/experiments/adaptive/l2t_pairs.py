"""Learning to transfer over many small pairs of source and target.

A domain is a set of images of digits (printed, scanned at 8 x 8 pixels, or MNIST), or one person
with a motion sensor. A pair is two domains and three classes that both have: 20 labelled samples of
each class in the source, and up to 40 in the target, of which two have labels and the others are
the test. Images and windows are each described by the first principal components of simple
features.

To transfer is to map both domains by an orthonormal W onto a few dimensions, and to take the class
with the nearest mean, over source and target samples together. Never to transfer is to do so with
the target's samples alone, in all dimensions. The improvement is the ratio of the two accuracies,
each over several draws of the labelled samples. W is found in several ways. None sees a label of
the target, and all see its samples, as transductive learning does.

Past pairs give experiences, one for each pair and way. New pairs are of other images, and of other
people; the components and their scale come from the past ones. The strategies:

1. never to transfer;
2. always without W: the nearest mean, or the nearest neighbour, of source and target samples;
3. always in the same way, that which was best in the past;
4. L2T chooses: the way whose W has the largest predicted improvement, and none where that is below
   1;
5. L2T decides only whether: the way of 3, or none;
6. L2T searches for a W of its own, and uses none where the prediction is below 1;
7. L2T chooses as in 4, but learnt from experiences whose improvements were shuffled;
8. in hindsight: the best way or none, as the test says. It is out of reach.

A seed draws all pairs. The number of dimensions and of labels was fixed beforehand, on other draws,
so that transfer helps about as often as it hurts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from tlcourse.adaptive import Experience, LearningToTransfer
from tlcourse.data import LabelledImages, Windows, digits, dsa, glyphs, hapt, imu, mnist5k
from tlcourse.experiments._engine.experiment import Data, Experiment, Row, Settings

# Activities that go by two names.
SAME = {"lying on the back": "lying", "standing in a lift": "standing"}


@dataclass(frozen=True)
class Domain:
    """What a pair is drawn from: samples (N, D) by class."""

    kind: str
    name: str
    samples: Mapping[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """A source (n_s, D) with labels (n_s,), and the target's samples by class, (n_k, D) each."""

    source: Tensor
    labels: Tensor
    target: list[Tensor]


def run_seed(data: Data, settings: Settings, seed: int, folder: Path) -> dict[str, float]:
    """Learn from past pairs, decide for new ones."""
    generator = torch.Generator().manual_seed(seed)
    past, new = (
        [_lived(draw_pair(world, generator, settings), settings) for _ in range(settings[when])]
        for when, world in past_and_new(data, settings["n_features"], generator).items()
    )
    mean = {way: sum(accuracies[way] for _, _, accuracies in past) for way in past[0][1]}
    best = max(mean, key=mean.__getitem__)  # the way that was best in the past

    experiences = [
        Experience(pair.source, torch.cat(pair.target), W, accuracies[way] / accuracies["never"])
        for pair, Ws, accuracies in past
        for way, W in Ws.items()
    ]
    order = torch.randperm(len(experiences), generator=generator).tolist()
    mixed = [
        Experience(e.source, e.target, e.W, experiences[i].improvement)
        for e, i in zip(experiences, order, strict=True)
    ]
    l2t, shuffled = (
        LearningToTransfer(n_samples=settings["n_samples"]).fit(known)
        for known in (experiences, mixed)
    )

    got: list[dict[str, float]] = []
    predicted: list[float] = []
    real: list[float] = []
    for pair, Ws, accuracies in new:
        never = accuracies["never"]
        f = _predictions(l2t, pair, Ws)
        W = l2t.infer(pair.source, torch.cat(pair.target), starts=list(Ws.values()))
        said, found = _predictions(l2t, pair, {"own": W})["own"], accuracy(pair, W, settings)
        helps, dares = accuracies[best] > never, f[best] >= 1
        predicted += f.values()
        real += [accuracies[way] / never for way in f]
        got.append(
            {
                "never": never,
                "pooled": accuracy(pair, torch.eye(len(W), dtype=W.dtype), settings),
                "neighbour": accuracy(pair, torch.eye(len(W), dtype=W.dtype), settings, nearest),
                "always": accuracies[best],
                "choose": accuracies[_best_or_never(f)],
                "whether": accuracies[best] if dares else never,
                "search": found if said >= 1 else never,
                "shuffled": accuracies[_best_or_never(_predictions(shuffled, pair, Ws))],
                "hindsight": max(accuracies.values()),
                "risks": not helps,
                "hurt": dares and not helps,
                "missed": helps and not dares,
                "said": said / 100,
                "true": found / never / 100,
            }
        )
    return {
        **{key: 100 * sum(one[key] for one in got) / len(got) for key in got[0]},
        "rank": float(spearmanr(predicted, real).statistic),
    }


def _best_or_never(f: Mapping[str, float]) -> str:
    way = max(f, key=f.__getitem__)
    return way if f[way] >= 1 else "never"


def _predictions(l2t: LearningToTransfer, pair: Pair, Ws: Mapping[str, Tensor]) -> dict[str, float]:
    target = torch.cat(pair.target)
    return {way: float(l2t.improvement(W, pair.source, target)) for way, W in Ws.items()}


def _lived(pair: Pair, settings: Settings) -> tuple[Pair, dict[str, Tensor], dict[str, float]]:
    """Return a pair, the W of every way, and the accuracy of every way and of none."""
    Ws = ways(pair, settings["n_components"])
    found = {way: accuracy(pair, W, settings) for way, W in Ws.items()}
    return pair, Ws, {"never": accuracy(pair, None, settings), **found}


# --- transfer -------------------------------------------------------------------------------------


Classifier = Callable[[list[Tensor], Tensor], Tensor]


def nearest_mean(known: list[Tensor], x: Tensor) -> Tensor:
    """Return the class of the nearest mean for x: (N, D) -> (N,); ``known`` is listed by class."""
    return torch.cdist(x, torch.stack([samples.mean(0) for samples in known])).argmin(1)


def nearest(known: list[Tensor], x: Tensor) -> Tensor:
    """Return the class of the nearest sample for x: (N, D) -> (N,)."""
    labels = torch.cat([torch.full((len(samples),), k) for k, samples in enumerate(known)])
    return labels[torch.cdist(x, torch.cat(known)).argmin(1)]


def accuracy(
    pair: Pair, W: Tensor | None, settings: Settings, classify: Classifier = nearest_mean
) -> float:
    """Return the target's accuracy, with transfer by W or, for None, without the source."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(settings["draws"]):
        known, test, answers = [], [], []
        for k, x in enumerate(pair.target):
            order = torch.randperm(len(x), generator=generator)
            known.append(x[order[: settings["labels_per_class"]]])
            test.append(x[order[settings["labels_per_class"] :]])
            answers += [k] * len(test[-1])
        x = torch.cat(test)
        if W is not None:
            of_class = [pair.source[pair.labels == k] for k in range(len(known))]
            known = [torch.cat(both) @ W for both in zip(of_class, known, strict=True)]
            x = x @ W
        found.append((classify(known, x) == torch.tensor(answers)).double().mean().item())
    return sum(found) / len(found)


def ways(pair: Pair, r: int) -> dict[str, Tensor]:
    """Return a W, (D, r), for each way to find one."""
    source, target = pair.source, torch.cat(pair.target)
    both = torch.cat([source, target])
    apart = source.mean(0) - target.mean(0)
    few = 0.3 * both.var(0).sum() / both.shape[1]
    noise = torch.outer(apart, apart) + few * torch.eye(len(apart), dtype=both.dtype)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(both.shape[1], r, generator=generator, dtype=both.dtype)
    return {
        "both": _directions(_scatter(both), r),
        "target": _directions(_scatter(target), r),
        "mean": _directions(_scatter(both), r, noise),
        "random": torch.linalg.qr(random).Q,
    }


def _scatter(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def _directions(signal: Tensor, r: int, noise: Tensor | None = None) -> Tensor:
    """Return the r directions of most signal, or of most signal for the noise, orthonormal."""
    if noise is None:
        return torch.linalg.eigh(signal).eigenvectors[:, -r:]
    root = torch.linalg.cholesky(noise)
    half = torch.linalg.solve_triangular(root, signal, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
    vectors = torch.linalg.eigh(whitened).eigenvectors[:, -r:]
    return torch.linalg.qr(torch.linalg.solve_triangular(root.T, vectors, upper=True)).Q


# --- the domains ----------------------------------------------------------------------------------


def past_and_new(
    data: Data, n_features: int, generator: torch.Generator
) -> dict[str, list[Domain]]:
    """Return the domains of the past and the new ones: halves of the images, and of the people.

    Each kind is described by the first principal components of its past half.
    """
    raw: dict[str, list[tuple[str, Tensor, list[str], Tensor]]] = {"images": [], "sensors": []}
    for name, part in data.items():
        names = [SAME.get(part.classes[k], part.classes[k]) for k in part.labels.tolist()]
        if isinstance(part, LabelledImages):
            early = torch.randperm(len(part), generator=generator) % 2 == 0
            raw["images"].append((name, part.images.flatten(1).double(), names, early))
        else:
            x = window_features(part.windows)
            order = torch.randperm(len(part.people), generator=generator).tolist()
            for i, person in enumerate(part.people):
                rows = (part.persons == person).nonzero()[:, 0].tolist()
                early = torch.full((len(rows),), order[i] % 2 == 0)
                known = (f"{name} {person}", x[rows], [names[r] for r in rows], early)
                raw["sensors"].append(known)
    found: dict[str, list[Domain]] = {"past": [], "new": []}
    for kind, parts in raw.items():
        pooled = torch.cat([x[early] for _, x, _, early in parts])
        mean = pooled.mean(0)
        scale = pooled.std(0).clamp(min=1e-6) if kind == "sensors" else torch.ones_like(mean)
        basis = torch.linalg.eigh(_scatter((pooled - mean) / scale)).eigenvectors[:, -n_features:]
        size = (((pooled - mean) / scale) @ basis).var(0).sum().sqrt()
        for name, x, names, early in parts:
            y = ((x - mean) / scale) @ basis / size
            for when, chosen in (("past", early), ("new", ~early)):
                if chosen.any():
                    of_class = {
                        c: y[chosen & torch.tensor([n == c for n in names])]
                        for c in dict.fromkeys(names)
                    }
                    found[when].append(Domain(kind, name, of_class))
    return found


def window_features(windows: Tensor) -> Tensor:
    """Return mean, deviation and three bands of the spectrum of each channel: (N, 5 C)."""
    x = windows.double()
    mean = x.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(x - mean, dim=1).abs()
    bands = [spectrum[:, a:b].mean(1) for a, b in ((1, 8), (8, 20), (20, 63))]
    spread = [x.std(1), *bands]
    return torch.cat([mean[:, 0], *(part.clamp(min=1e-3).log() for part in spread)], dim=1)


def draw_pair(world: list[Domain], generator: torch.Generator, settings: Settings) -> Pair:
    """Return a pair: images or sensors with even odds, then two domains and three classes."""

    def any_of(n: int, k: int) -> list[int]:
        return torch.randperm(n, generator=generator)[:k].tolist()

    def common(a: Domain, b: Domain) -> list[str]:
        counts = [(c, min(len(x), len(b.samples.get(c, ())))) for c, x in a.samples.items()]
        return [c for c, n in counts if n >= settings["labels_per_class"] + 5]

    kind = ("images", "sensors")[any_of(2, 1)[0]]
    pool = [d for d in world if d.kind == kind]
    if not any(len(common(a, b)) >= 3 for a, b in permutations(pool, 2)):
        raise ValueError(
            f"No two domains of {kind} have three classes in common, with "
            f"{settings['labels_per_class'] + 5} samples of each; a pair needs that. Give larger "
            "sets, or fewer labels_per_class."
        )
    shared: list[str] = []
    while len(shared) < 3:
        a, b = (pool[i] for i in any_of(len(pool), 2))
        shared = common(a, b)
    classes = [shared[i] for i in any_of(len(shared), 3)]
    source = [
        x[any_of(len(x), settings["source_per_class"])] for x in (a.samples[c] for c in classes)
    ]
    target = [
        x[any_of(len(x), settings["target_per_class"])] for x in (b.samples[c] for c in classes)
    ]
    labels = torch.cat([torch.full((len(x),), k) for k, x in enumerate(source)])
    return Pair(torch.cat(source), labels, target)


# --- the settings ---------------------------------------------------------------------------------


def load(settings: Settings) -> dict[str, LabelledImages | Windows]:
    """Return digits of three kinds at 16 x 16 pixels, and two sensors."""
    printed, _ = glyphs(6_000, 10, size=16)
    scanned, _ = digits(size=16)
    mnist, _ = mnist5k()
    sensors = (
        (dsa(matched=True), hapt(matched=True))
        if settings["sensors"] == "recorded"
        else imu(people=12, windows=12, matched=True)
    )
    return {
        "printed": _digits_of(printed),
        "scanned": scanned,
        "mnist": _small(mnist),
        "sensor a": sensors[0],
        "sensor b": sensors[1],
    }


def _digits_of(data: LabelledImages) -> LabelledImages:
    kept = torch.tensor([data.classes[k] in "0123456789" for k in data.labels.tolist()])
    return data.subset(kept)


def _small(data: LabelledImages) -> LabelledImages:
    """Cut the empty border of MNIST off and average: (N, 1, 28, 28) -> (N, 1, 16, 16)."""
    inner = data.images[:, :, 4:24, 4:24]
    images = torch.nn.functional.interpolate(inner, (16, 16), mode="bilinear", antialias=True)
    return LabelledImages(images, data.labels, data.classes, data.name)


FULL: dict[str, Any] = {
    "sensors": "recorded",
    "past": 100,
    "new": 40,
    "n_features": 20,
    "n_components": 8,
    "source_per_class": 20,
    "target_per_class": 40,
    "labels_per_class": 2,
    "draws": 10,
    "n_samples": 40,
}
QUICK = FULL | {"sensors": "simulated", "past": 20, "new": 8, "n_samples": 20}
STRATEGIES = {
    "never": "never",
    "pooled": "always, without W",
    "neighbour": "always, nearest neighbour",
    "always": "always the same way",
    "choose": "L2T chooses the way, or none",
    "whether": "L2T decides whether",
    "search": "L2T searches for its own W",
    "shuffled": "L2T from shuffled experiences",
    "hindsight": "the best in hindsight",
}
L2T_PAIRS = Experiment(
    name="l2t-pairs",
    title="Learning to transfer over small pairs of digits and of people with motion sensors",
    chapter="adaptive/learning-to-transfer",
    unit="accuracy on new targets, %",
    better="higher",
    rows=(
        *(Row(key, label) for key, label in STRATEGIES.items()),
        Row("risks", "the same way hurts", unit="new pairs, %"),
        Row("hurt", "L2T transfers though it hurts", unit="new pairs, %"),
        Row("missed", "L2T does not though it would help", unit="new pairs, %"),
        Row("said", "L2T's own W: predicted improvement", unit="ratio"),
        Row("true", "L2T's own W: real improvement", unit="ratio"),
        Row("rank", "predicted and real improvement", unit="rank correlation"),
    ),
    source="",
    settings={"quick": QUICK, "full": FULL},
    seeds={"quick": 1, "full": 8},
    load=load,
    run_seed=run_seed,
)
