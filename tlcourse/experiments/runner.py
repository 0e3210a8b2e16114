"""Run an experiment, seed by seed; a run that was killed goes on where it was."""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
import math
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tlcourse._checks import check_choice, check_int
from tlcourse.experiments.experiment import Experiment
from tlcourse.experiments.results import Result, file_name, load_result, write_json
from tlcourse.settings import PROFILES, cache_dir, current_profile, seed_everything

PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "scikit-learn")


def run(
    experiment: Experiment,
    *,
    profile: str | None = None,
    seeds: Sequence[int] | None = None,
    out: Path,
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Run an experiment and write its result file.

    Every seed's numbers are kept as soon as it is done, and the seeds' own checkpoints within it,
    under the cache folder. They are found again under a key of the experiment's source, settings
    and data: after an interruption the same call goes on, after a change it starts anew.

    Parameters
    ----------
    experiment
        From :func:`tlcourse.experiments.get`.
    profile
        ``"quick"`` or ``"full"``; by default the current one.
    seeds
        Which seeds; by default those that the experiment names.
    out
        The folder of the result file.
    fresh
        Whether to forget what an earlier run of the same key left.
    say
        Takes lines of progress.

    Returns
    -------
    Result
        As read back from the file.

    Raises
    ------
    ValueError
        If the profile or a seed is wrong, or a run returns other rows than its table has.
    """
    from accelerate import PartialState

    profile = profile or current_profile()
    check_choice("profile", profile, PROFILES)
    seeds = list(range(experiment.seeds[profile])) if seeds is None else list(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more different integers, got {seeds}.")
    for seed in seeds:
        check_int("seed", seed, low=0)

    processes = PartialState()
    settings = dict(experiment.settings[profile])
    say(f"{experiment.name} ({profile}): loading data")
    data = experiment.load(settings)
    fingerprints = {name: dataset.fingerprint() for name, dataset in data.items()}
    key = _key(experiment, settings, fingerprints)
    folder = cache_dir() / "runs" / f"{experiment.name}-{profile}-{key}"
    if fresh and processes.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()

    kept = []
    for seed in seeds:
        file = folder / f"seed-{seed}.json"
        found = _kept(file)
        if found is None:
            say(f"{experiment.name} ({profile}): seed {seed}")
            started = time.perf_counter()
            checkpoints = folder / f"seed-{seed}"
            resumed = checkpoints.is_dir()
            checkpoints.mkdir(parents=True, exist_ok=True)
            seed_everything(seed)
            values = dict(experiment.run_seed(data, settings, seed, checkpoints))
            _check_values(experiment, values)
            seconds = round(time.perf_counter() - started, 1)
            found = {
                "values": values,
                "seconds": seconds,  # of the last part alone, if the seed was interrupted
                "resumed": resumed,
                "commit": _commit(),
            }
            if processes.is_main_process:
                write_json(found, file)
                shutil.rmtree(checkpoints, ignore_errors=True)
        else:
            say(f"{experiment.name} ({profile}): seed {seed} is done already")
        kept.append(found)

    path = out / file_name(experiment.name, profile)
    if processes.is_main_process:
        write_json(_record(experiment, profile, settings, seeds, kept, fingerprints), path)
        say(f"{experiment.name} ({profile}): wrote {path}")
    processes.wait_for_everyone()
    return load_result(experiment.name, profile=profile, folder=out)


def _key(experiment: Experiment, settings: Mapping[str, Any], data: Mapping[str, str]) -> str:
    module = inspect.getmodule(experiment.run_seed)
    source = inspect.getsource(module) if module else ""
    text = json.dumps([source, settings, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _check_values(experiment: Experiment, values: Mapping[str, float]) -> None:
    expected = {row.key for row in experiment.rows}
    if set(values) != expected:
        raise ValueError(
            f"{experiment.name}: a run must return a number for each row; missing "
            f"{sorted(expected - set(values))}, unknown {sorted(set(values) - expected)}."
        )
    broken = [key for key, value in values.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"{experiment.name}: not finite: {broken}.")


def _record(
    experiment: Experiment,
    profile: str,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    kept: Sequence[Mapping[str, Any]],
    fingerprints: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "chapter": experiment.chapter,
        "profile": profile,
        "better": experiment.better,
        "source": experiment.source,
        "settings": dict(settings),
        "seeds": list(seeds),
        "rows": [
            {
                "key": row.key,
                "label": row.label,
                "unit": row.unit or experiment.unit,
                "values": [float(found["values"][row.key]) for found in kept],
                "paper": row.paper,
            }
            for row in experiment.rows
        ],
        "data": dict(fingerprints),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "hardware": _hardware(),
        "commits": sorted({found["commit"] for found in kept}),
        "resumed": any(found["resumed"] for found in kept),
        "wall_seconds": round(sum(found["seconds"] for found in kept), 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"


def _commit() -> str:
    """Return the commit that runs, with ``+changes`` where the tree differs from it."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12",
                 "--dirty=+changes", "--exclude=*"]  # fmt: skip
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"tlcourse {sys.modules['tlcourse'].__version__}"
