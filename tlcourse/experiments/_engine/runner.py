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
from types import ModuleType
from typing import Any

import torch

from tlcourse._checks import check_choice, check_int
from tlcourse.experiments._engine.experiment import Experiment
from tlcourse.experiments._engine.results import Result, file_name, load_result, write_json
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
    TypeError, ValueError
        If the profile or a seed is wrong, or a run returns other rows than its table has.
    OSError
        If a file cannot be written. The seeds that are done remain.
    """
    from accelerate import PartialState

    profile = profile or current_profile()
    check_choice("profile", profile, PROFILES)
    seeds = list(range(experiment.seeds[profile])) if seeds is None else list(seeds)
    for seed in seeds:
        check_int("seed", seed, low=0, high=2**32 - 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more different integers, got {seeds}.")

    processes = PartialState()
    if processes.is_main_process:
        _make_folder(out)  # a bad folder fails now, not after the last seed
    settings = dict(experiment.settings_for(profile))
    say(f"{experiment.name} ({profile}): loading data")
    if "schedule" in settings:
        say(f"{experiment.name} ({profile}): {settings['schedule']}")
    data = experiment.load(settings)
    fingerprints = {name: dataset.fingerprint() for name, dataset in data.items()}
    key = _key(experiment, settings, fingerprints)
    folder = cache_dir() / "runs" / f"{experiment.name}-{profile}-{key}"
    if fresh and processes.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait_for_everyone()

    commit = _commit()  # of the code that was loaded, whatever happens to the files during the run
    kept = []
    for seed in seeds:
        file = folder / f"seed-{seed}.json"
        found = _kept(file, experiment)
        if found is None:
            say(f"{experiment.name} ({profile}): seed {seed}")
            started = time.perf_counter()
            checkpoints = folder / f"seed-{seed}"
            resumed = checkpoints.is_dir()
            checkpoints.mkdir(parents=True, exist_ok=True)
            seed_everything(seed)
            values = _checked(experiment, experiment.run_seed(data, settings, seed, checkpoints))
            seconds = round(time.perf_counter() - started, 1)
            found = {
                "values": values,
                "seconds": seconds,  # of the last part alone, if the seed was interrupted
                "resumed": resumed,
                "commit": commit,
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
    source = "".join(inspect.getsource(m) for m in _with_imported(module)) if module else ""
    text = json.dumps([source, settings, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _with_imported(module: ModuleType) -> list[ModuleType]:
    """Return a module and the experiments' modules that it takes something from, by name."""
    found, waiting = {module.__name__: module}, [module]
    while waiting:
        for thing in vars(waiting.pop()).values():
            name = str(getattr(thing, "__module__", None))
            shared = name.startswith("tlcourse.experiments.")
            if shared and name not in (Experiment.__module__, *found):
                found[name] = sys.modules[name]
                waiting.append(found[name])
    return [found[name] for name in sorted(found)]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"The folder {folder} for the result file cannot be made ({error.strerror}). "
            "Choose another: --out FOLDER."
        ) from error


def _kept(file: Path, experiment: Experiment) -> dict[str, Any] | None:
    """Return what a seed has left; a damaged file is none, and the seed is run again."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        _checked(experiment, found["values"])
        complete = {"seconds", "resumed", "commit"} <= set(found)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if complete else None


def _checked(experiment: Experiment, returned: Mapping[str, Any]) -> dict[str, float]:
    """Return a run's numbers as plain floats, which a file can hold."""
    if not isinstance(returned, Mapping):
        raise TypeError(
            f"{experiment.name}: a run must return a number for each row, a dict; "
            f"got {type(returned).__name__}."
        )
    expected = {row.key for row in experiment.rows}
    if set(returned) != expected:
        raise ValueError(
            f"{experiment.name}: a run must return a number for each row; missing "
            f"{sorted(expected - set(returned))}, unknown {sorted(set(returned) - expected)}."
        )
    values = {}
    for key, value in returned.items():
        try:
            values[key] = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"{experiment.name}: row {key!r} must be a number, got {type(value).__name__}."
            ) from None
    broken = [key for key, value in values.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(f"{experiment.name}: not finite: {broken}.")
    return values


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
                "values": [found["values"][row.key] for found in kept],
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
    if torch.backends.mps.is_available():
        return "Apple MPS"
    n = torch.get_num_threads()
    return f"CPU, {n} thread{'s' if n != 1 else ''}, {platform.machine()}"


def _commit() -> str:
    """Return the commit that runs, with ``+changes`` where the tree differs from it."""
    root = Path(__file__).parents[3]
    release = f"tlcourse {sys.modules['tlcourse'].__version__}"
    if not (root / ".git").exists():  # installed, perhaps below somebody else's repository
        return release
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=12",
                 "--dirty=+changes", "--exclude=*"]  # fmt: skip
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return release
