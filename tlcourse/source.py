"""The source network: trained once on printed characters, then kept for every chapter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tlcourse._code import code_of
from tlcourse._random import kept_random_state
from tlcourse.models.small_resnet import SmallResNet
from tlcourse.settings import cache_dir
from tlcourse.training import cosine_decay, fit, load_model, save_model

# What the network is trained with; a change makes a new one.
SETTINGS = {
    "n_train": 12_000,
    "data_seed": 0,
    "width": 16,
    "epochs": 6,
    "batch_size": 64,
    "rate": 0.003,
    "shift": 2,
    "seed": 0,
}


def glyph_network(*, progress: bool = True) -> SmallResNet:
    """Return a small residual network that was trained to read printed characters.

    The first call trains it, in under a minute on a laptop, and keeps it in the user's cache
    folder (see `tlcourse.settings.cache_dir`); later calls read it from there. The file's name
    holds a hash of the code, the data and the settings it was made with, so that none of them can
    change unnoticed.

    Parameters
    ----------
    progress
        Whether to show a progress bar while it trains.

    Returns
    -------
    SmallResNet
        A new copy, on the CPU, in evaluation mode. The first ten of its classes are the ten digits.
    """
    return _network(SETTINGS, progress=progress)


def _network(settings: dict[str, Any], *, progress: bool) -> SmallResNet:
    from tlcourse.data import glyphs
    from tlcourse.data.glyphs import CHARACTERS

    path = _path(settings)
    # A damaged file is made again. Two processes that both find none train the same network twice
    # over; each puts a whole file in place.
    with contextlib.suppress(FileNotFoundError, ValueError):
        return load_model(_untrained(len(CHARACTERS), settings), path).eval()
    train, _ = glyphs(settings["n_train"], 1, seed=settings["data_seed"])
    model = _train(train, settings, progress=progress)
    try:
        save_model(model, path)
    except OSError as error:
        warnings.warn(f"The source network is not kept for the next time: {error}", stacklevel=3)
    return model


def _train(train: Any, settings: dict[str, Any], *, progress: bool) -> SmallResNet:
    from tlcourse.data import random_shift

    model = _untrained(train.n_classes, settings)

    def objective(model: SmallResNet, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        return cross_entropy(model(images), labels)

    fit(
        model,
        objective,
        train,
        optimizer=torch.optim.AdamW(model.parameters(), lr=settings["rate"]),
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        schedule=cosine_decay,
        augment=lambda images: random_shift(images, settings["shift"]),
        seed=settings["seed"],
        progress=progress,
    )
    return model.cpu().eval()


def _untrained(n_classes: int, settings: dict[str, Any]) -> SmallResNet:
    """Return the network with the first weights that the seed gives, and leave torch's own seed."""
    with kept_random_state():
        torch.manual_seed(settings["seed"])
        return SmallResNet(n_classes, width=settings["width"])


def _path(settings: dict[str, Any]) -> Path:
    return cache_dir() / f"glyph-network-{_key(settings)}.safetensors"


def _key(settings: dict[str, Any]) -> str:
    """Return a hash of what decides the weights: settings, code, and the fonts of the data."""
    text = json.dumps([settings, code_of(__name__), version("matplotlib")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
