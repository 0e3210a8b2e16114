"""Pairs of a source and a target: digits of four kinds, and people with motion sensors.

Digits are 64 pixels, 8 x 8. A window of a sensor is 30 numbers: for each channel the mean, and the
logarithms of the deviation and of three bands of the spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from tlcourse.data import LabelledImages, Windows, digits, dsa, glyphs, hapt, imu, mnist5k
from tlcourse.data.usps import usps
from tlcourse.experiments._engine.experiment import Data, Settings

Array = NDArray[Any]
Samples = tuple[Array, Array]
DIGITS = ("printed", "scanned", "MNIST", "USPS")
SENSORS = (
    ("torso", "leg"),
    ("leg", "torso"),
    ("waist", "torso"),
    ("torso", "waist"),
    ("one", "many"),
)
# Activities that go by two names.
SAME = {"lying on the back": "lying", "standing in a lift": "standing"}
N_TEST = 1_000


@dataclass(frozen=True)
class Pair:
    """Samples (n, D) and labels (n,) of the source, and of the target to draw from and to test."""

    source: Samples
    pool: Samples
    test: Samples


def name_of(source: str, target: str) -> str:
    """Return the key of a pair."""
    return f"{source}>{target}".lower()


PAIRS = {name_of(*pair): pair for pair in (*permutations(DIGITS, 2), *SENSORS)}


def load(settings: Settings) -> dict[str, LabelledImages | Windows]:
    """Return the sets; where the real ones are not asked for, stand-ins that are on every machine.

    USPS then is MNIST with its border, and the sensors are simulated: that at the leg is the one at
    the torso, turned.
    """
    printed = (_digits_of(part) for part in glyphs(6_000, 5_000, size=8))
    mnist = mnist5k()
    found: dict[str, LabelledImages | Windows] = {}
    real = settings["real"]
    parts = {
        "printed": printed,
        "scanned": digits(size=8),
        "MNIST": (_small(part, border=4) for part in mnist),
        "USPS": (_small(part) for part in (usps() if real else mnist)),
    }
    for name, (train, test) in parts.items():
        found |= {name: train, f"{name} test": test}
    if real:
        found |= {unit: dsa(unit=name, matched=True) for unit, name in UNITS.items()}
        found["waist"] = hapt(matched=True)
    else:
        torso, waist = imu(people=8, windows=24, matched=True)
        found |= {"torso": torso, "leg": _turned(torso), "waist": waist}
    return found


UNITS = {"torso": "torso", "leg": "right leg"}


def _digits_of(data: LabelledImages) -> LabelledImages:
    chosen = data.labels < 10  # the first ten characters
    return LabelledImages(
        data.images[chosen], data.labels[chosen], data.classes[:10], f"{data.name}, digits"
    )


def _small(data: LabelledImages, border: int = 0) -> LabelledImages:
    """Cut a border off and average: (N, 1, H, W) -> (N, 1, 8, 8)."""
    size = data.images.shape[-1]
    inner = data.images[:, :, border : size - border, border : size - border]
    images = interpolate(inner, (8, 8), mode="bilinear", antialias=True).clamp(0, 1)
    return LabelledImages(images, data.labels, data.classes, data.name)


def _turned(data: Windows) -> Windows:
    axes = [1, 2, 0, 4, 5, 3]
    return Windows(
        data.windows[:, :, axes],
        data.labels,
        data.persons,
        classes=data.classes,
        channels=data.channels,
        units=data.units,
        rate=data.rate,
        name=f"{data.name}, turned",
    )


def pairs(data: Data, settings: Settings, seed: int) -> dict[str, Pair]:
    """Return a draw of every pair, by its key."""
    draw = np.random.default_rng(seed)
    found: dict[str, Pair] = {}
    images = {
        name: (part.images.flatten(1).double().numpy(), part.labels.numpy())
        for name, part in data.items()
        if isinstance(part, LabelledImages)
    }
    for source, target in permutations(DIGITS, 2):
        found[name_of(source, target)] = Pair(
            balanced(images[source], settings["source"], draw),
            images[target],
            _some(images[f"{target} test"], draw),
        )
    sensors = {name: _Sensor(data[name]) for name in ("torso", "leg", "waist")}
    people = {name: draw.permutation(sensors[name].people) for name in ("torso", "waist")}
    three = np.array_split(people["torso"], 3)
    half = len(people["waist"]) // 2
    some, others = people["waist"][:half], people["waist"][half:]
    common = sorted(set(sensors["torso"].activities) & set(sensors["waist"].activities))
    for (source, target), (of_source, of_pool, of_test), names in zip(
        SENSORS,
        (
            three,
            three,
            (people["waist"], three[0], np.concatenate(three[1:])),
            (people["torso"], some, others),
            (some[:1], some[1:], others),
        ),
        (None, None, common, common, None),
        strict=True,
    ):
        here, there = (
            sensors["waist" if name in ("one", "many") else name] for name in (source, target)
        )
        parts = (
            here.samples(of_source, names),
            there.samples(of_pool, names),
            there.samples(of_test, names),
        )
        mean = np.concatenate([X for X, _ in parts[:2]]).mean(0)
        scale = np.concatenate([X for X, _ in parts[:2]]).std(0)
        from_, pool, test = (((X - mean) / np.maximum(scale, 1e-6), y) for X, y in parts)
        found[name_of(source, target)] = Pair(
            balanced(from_, settings["source"], draw), pool, _some(test, draw)
        )
    return found


class _Sensor:
    """A sensor's windows by person and activity."""

    def __init__(self, data: Windows) -> None:
        self.people = np.array(data.people)
        assert data.persons is not None
        self._persons = data.persons.numpy()
        self._X = window_features(data.windows)
        self.activities = [SAME.get(name, name) for name in data.classes]
        self._names = np.array(self.activities)[data.labels.numpy()]

    def samples(self, people: Array, activities: list[str] | None) -> Samples:
        chosen = np.isin(self._persons, people)
        names = self.activities if activities is None else activities
        chosen &= np.isin(self._names, names)
        labels = np.array([names.index(name) for name in self._names[chosen]])
        return self._X[chosen], labels


def window_features(windows: torch.Tensor) -> Array:
    """Return mean, deviation and three bands of the spectrum of each channel: (N, 5 C)."""
    x = windows.double().numpy()
    mean = x.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(x - mean, axis=1))
    bands = [spectrum[:, a:b].mean(1) for a, b in ((1, 8), (8, 20), (20, 63))]
    spread = [np.log(np.maximum(part, 1e-3)) for part in (x.std(1), *bands)]
    return np.concatenate([mean[:, 0], *spread], axis=1)


def balanced(samples: Samples, n: int, draw: np.random.Generator) -> Samples:
    """Return n samples, or all there are: as many of each class as of any other, as far as may be.

    There is at least one of each class. Of one state of ``draw``, fewer are among more.
    """
    X, y = samples
    order = draw.permutation(len(y))
    rank = np.empty(len(y), int)  # of each sample among those of its class
    for k in np.unique(y):
        of_class = order[y[order] == k]
        rank[of_class] = np.arange(len(of_class))
    first = order[np.argsort(rank[order], kind="stable")]
    chosen = first[: max(n, len(np.unique(y)))]
    return X[chosen], y[chosen]


def joined(*samples: Samples) -> Samples:
    """Return the samples of all, one after the other."""
    return np.concatenate([X for X, _ in samples]), np.concatenate([y for _, y in samples])


def _some(samples: Samples, draw: np.random.Generator) -> Samples:
    chosen = draw.permutation(len(samples[1]))[:N_TEST]
    return samples[0][chosen], samples[1][chosen]
