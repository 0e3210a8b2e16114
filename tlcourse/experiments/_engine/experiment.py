"""What an experiment is: data, settings, one run per seed, and the figures of its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Data = Mapping[str, Any]  # data sets by name, each with a fingerprint()
Settings = Mapping[str, Any]
WITHOUT_GPU = ", without a GPU"


@dataclass(frozen=True)
class Row:
    """A row of an experiment's table.

    Attributes
    ----------
    key
        The name under which a run returns its number.
    label
        What the table calls it.
    paper
        The figure of the paper or report, in the row's unit; ``None`` where it gives none.
    unit
        The unit of this row, where it is not the experiment's own.
    """

    key: str
    label: str
    paper: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A named, resumable run that writes a result file.

    Attributes
    ----------
    name
        What ``tlcourse run`` takes, and the name of the result file.
    title
        One line.
    chapter
        Where the result is discussed, such as ``methods/distillation``.
    unit, better
        Of the rows: ``"test error, %"``, and ``"lower"`` or ``"higher"``.
    rows
        The table, top to bottom. A run returns one number for each.
    source
        Where the rows' ``paper`` figures stand.
    settings
        For each profile, a dict of JSON values, all that a run depends on beside seed and data.
        What would take days without a GPU may have a ``"full, without a GPU"`` too, with a shorter
        schedule that its ``"schedule"`` describes in words; see `settings_for`.
    seeds
        For each profile, how many seeds (0, 1, ...) are run unless others are asked for.
    load
        ``load(settings)`` returns the data by name. It is called once.
    run_seed
        ``run_seed(data, settings, seed, folder)`` returns a number for each row. Where a seed takes
        more than two minutes it keeps checkpoints in ``folder``, so that a killed run goes on where
        it was; a shorter one begins the seed anew.
    """

    name: str
    title: str
    chapter: str
    unit: str
    better: str
    rows: tuple[Row, ...]
    source: str
    settings: Mapping[str, Settings]
    seeds: Mapping[str, int]
    load: Callable[[Settings], Data]
    run_seed: Callable[[Data, Settings, int, Path], Mapping[str, float]]

    def settings_for(self, profile: str) -> Settings:
        """Return the profile's settings; on a machine without a GPU, the shorter ones if any."""
        shorter = self.settings.get(f"{profile}{WITHOUT_GPU}")
        if shorter is not None and not torch.cuda.is_available():
            return shorter
        return self.settings[profile]
