"""Run an experiment, seed by seed; a run that was killed goes on where it was."""

from __future__ import annotations

import datetime
import functools
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
from typing import TYPE_CHECKING, Any

import torch

from tlcourse._checks import check_choice, check_int
from tlcourse._code import code_of
from tlcourse._files import expand
from tlcourse.experiments._engine.experiment import Experiment, Settings
from tlcourse.experiments._engine.merge import with_others
from tlcourse.experiments._engine.results import (
    OF_A_RUN,
    Result,
    file_name,
    load_result,
    write_json,
)
from tlcourse.settings import PROFILES, cache_dir, current_profile, seed_everything
from tlcourse.training._processes import accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator
ENGINE = "tlcourse.experiments._engine"  # it keeps the numbers and does not change them
PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "scikit-learn")


def run(
    experiment: Experiment,
    *,
    profile: str | None = None,
    seeds: Sequence[int] | None = None,
    out: str | Path,
    fresh: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Run an experiment and write its result file.

    Every seed's numbers are kept as soon as it is done, and the seeds' own checkpoints within it,
    under the cache folder. They are found again under a key of the experiment's code, with all of
    `tlcourse` that it imports, its settings and data: after an interruption the same call goes on,
    after a change it starts anew. What is defined in a notebook or at a prompt has no file that
    could be compared, and always starts anew.

    Seeds that the result file has from before and that are not run now stay in it.

    Started in several processes, the first one decides, says and writes, for all.

    Parameters
    ----------
    experiment
        From :func:`tlcourse.experiments.get`.
    profile
        ``"quick"`` or ``"full"``; by default the current one.
    seeds
        Which seeds; by default those that the experiment names.
    out
        The folder of the result file; ``~`` is the home folder.
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
        If the profile or a seed is wrong, a run returns other rows than its table has, or the
        result file has seeds that are not run now and do not go with this run: of other settings or
        data, or with other numbers for a seed that both have.
    OSError
        If a file cannot be written. The seeds that are done remain.
    """
    profile = profile or current_profile()
    check_choice("profile", profile, PROFILES)
    seeds = list(range(experiment.seeds[profile])) if seeds is None else list(seeds)
    for seed in seeds:
        check_int("seed", seed, low=0, high=2**32 - 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more different integers, got {seeds}.")
    path = expand(out, "out") / file_name(experiment.name, profile)

    processes = accelerator()
    first = functools.partial(_first_for_all, processes)

    def tell(line: str) -> None:
        if processes.is_main_process:
            say(f"{experiment.name} ({profile}): {line}")

    first(_make_folder, path.parent)  # a bad folder fails now, not after the last seed
    settings = dict(experiment.settings_for(profile))
    tell("loading data")
    if "schedule" in settings:
        tell(settings["schedule"])
    data = experiment.load(settings)
    fingerprints = {name: dataset.fingerprint() for name, dataset in data.items()}
    code = _code(experiment)
    key = _key(code, settings, fingerprints)
    folder = cache_dir() / "runs" / f"{experiment.name}-{profile}-{key}"
    if fresh or code is None:
        first(shutil.rmtree, folder, ignore_errors=True)

    made = _made(processes.num_processes)  # now: the files may change during the run
    kept: dict[int, dict[str, Any]] = {}

    def record() -> Mapping[str, Any]:
        """Return what the result file is to hold, as far as it is known."""
        return with_others(_record(experiment, profile, settings, fingerprints, kept), path, seeds)

    first(record)  # what does not go with the file from before is said now, and after every seed
    for seed in seeds:
        file, checkpoints = folder / f"seed-{seed}.json", folder / f"seed-{seed}"
        found = first(_kept, file, experiment)
        if found is not None:
            tell(f"seed {seed} is done already")
        else:
            tell(f"seed {seed}")
            started = time.perf_counter()
            resumed = first(_has_files, checkpoints)
            checkpoints.mkdir(parents=True, exist_ok=True)
            seed_everything(seed)
            values = _checked(experiment, experiment.run_seed(data, settings, seed, checkpoints))
            own = {
                "seeds": [seed],
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "seconds": round(time.perf_counter() - started, 1),
                "resumed": resumed,
            }
            found = first(_keep, {"values": values, "run": own | made}, file, checkpoints)
        kept[seed] = found
        first(record)

    def written() -> Result:
        write_json(record(), path)
        return load_result(experiment.name, profile=profile, folder=path.parent)

    result: Result = first(written)
    tell(f"wrote {path}")
    return result


def _first_for_all(
    processes: Accelerator, ask: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    """Return, in every process, what the first one was answered, or raise what it raised.

    Files are looked at and written in one place so that all processes go the same way; and none
    goes on before the first has come here.
    """
    from accelerate.utils import broadcast_object_list

    answer: list[Any] = [None, None]
    if processes.is_main_process:
        try:
            answer[0] = ask(*arguments, **named)
        except Exception as error:
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def _has_files(folder: Path) -> bool:
    """Whether a seed has left checkpoints; one that is half written is none."""
    return folder.is_dir() and any(file.suffix != ".part" for file in folder.iterdir())


def _code(experiment: Experiment) -> Mapping[str, str] | None:
    """Return the code that the numbers depend on; ``None`` where it is in no file, or in part."""
    if not (inspect.isfunction(experiment.run_seed) or inspect.ismethod(experiment.run_seed)):
        return None  # such as a partial, whose arguments may be of anywhere
    try:
        return code_of(experiment.run_seed.__module__, leave_out=[ENGINE])
    except OSError:
        return None


def _key(code: Mapping[str, str] | None, settings: Settings, data: Mapping[str, str]) -> str:
    text = json.dumps([code, settings, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
        complete = set(OF_A_RUN) <= set(found["run"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if complete else None


def _keep(found: dict[str, Any], file: Path, checkpoints: Path) -> dict[str, Any]:
    write_json(found, file)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return found


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
    fingerprints: Mapping[str, str],
    kept: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "chapter": experiment.chapter,
        "profile": profile,
        "better": experiment.better,
        "source": experiment.source,
        "settings": dict(settings),
        "data": dict(fingerprints),
        "seeds": list(kept),
        "rows": [
            {
                "key": row.key,
                "label": row.label,
                "unit": row.unit or experiment.unit,
                "values": [found["values"][row.key] for found in kept.values()],
                "paper": row.paper,
            }
            for row in experiment.rows
        ],
        "runs": [found["run"] for found in kept.values()],
    }


def _made(n_processes: int) -> dict[str, Any]:
    """Return where and with what this process computes."""
    return {
        "hardware": _hardware(),
        "processes": n_processes,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "commits": [_commit()],
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
