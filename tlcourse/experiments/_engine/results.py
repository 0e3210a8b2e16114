"""Result files: one JSON file per recorded experiment, read by chapters and tables.

A file holds, under these keys:

- ``experiment``, ``title``, ``chapter``, ``profile``, ``better``, ``source``: what it is of;
- ``settings``, and ``data``: all that the numbers depend on beside the seed, the data sets as
  fingerprints by name;
- ``seeds``: the seeds that were run;
- ``rows``: the table, with ``key``, ``label``, ``unit``, the source's figure ``paper`` or null, and
  ``values``, one for each of the ``seeds`` in their order;
- ``runs``: how the numbers came about, an entry for each run of one seed or of several together:
  ``seeds``, ``date`` (UTC), ``seconds`` (of the last part alone, if it was interrupted),
  ``resumed`` (whether it went on from a checkpoint), ``hardware``, ``processes``, ``versions`` and
  ``commits`` (with ``+changes`` where the files differed from the commit).

Files from before seeds were recorded apart have no ``runs``, but the keys of one such entry at the
top, ``wall_seconds`` for ``seconds``. They are read as one run of all their seeds: which of several
commits a seed is of, and when each was run, is not known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcourse._checks import check_choice, near
from tlcourse._files import expand, writing
from tlcourse.metrics import Interval, interval
from tlcourse.settings import PROFILES

if TYPE_CHECKING:
    import pandas as pd


OF_A_RUN = ("seeds", "date", "seconds", "resumed", "hardware", "processes", "versions", "commits")


@dataclass(frozen=True)
class ResultRow:
    """One row: a number per seed, and the source's figure.

    Attributes
    ----------
    key, label, unit
        As in the experiment's table.
    values
        A number per seed, in the order of the result's seeds.
    paper
        The source's figure, or ``None``.
    """

    key: str
    label: str
    unit: str
    values: tuple[float, ...]
    paper: float | None

    @property
    def interval(self) -> Interval:
        """The mean over the seeds, with Student's 95 % confidence interval."""
        return interval(self.values)


@dataclass(frozen=True)
class Result:
    """A recorded experiment, as its file holds it.

    Attributes
    ----------
    rows
        The table by row key, in order.
    record
        Everything that the file holds: settings, seeds, data fingerprints and runs among it; the
        head of this module names all.
    """

    rows: Mapping[str, ResultRow]
    record: Mapping[str, Any]

    def __getitem__(self, key: str) -> ResultRow:
        """Return a row; an unknown key names the known ones."""
        if key not in self.rows:
            raise KeyError(
                f"no row {key!r}; there are {', '.join(self.rows)}.{near(key, self.rows)}"
            )
        return self.rows[key]

    @property
    def origin(self) -> str:
        """How the numbers came about, in a line: seeds, time, hardware, version of torch, dates."""
        runs, n = self.record["runs"], len(self.record["seeds"])
        seconds = sum(made["seconds"] for made in runs)
        time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
        hardware = _each_once(made["hardware"] for made in runs)
        torch = _each_once(made["versions"]["torch"] for made in runs)
        dates = sorted(made["date"] for made in runs)
        when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        return f"{n} seed{'s' * (n > 1)}, {time} on {hardware}, torch {torch}, {when}"

    def differences(self, key: str, other: str) -> tuple[float, ...]:
        """Return one row minus another, seed by seed.

        The rows of a seed share its draws (labelled images, first weights), so that their
        differences spread less than they do. `paired` gives their mean and interval.
        """
        pairs = zip(self[key].values, self[other].values, strict=True)
        return tuple(a - b for a, b in pairs)

    def paired(self, key: str, other: str) -> Interval:
        """Return the mean of one row minus another, seed by seed, with its 95 % interval.

        "Better" in a chapter means that the interval leaves out 0; see `differences`.
        """
        return interval(self.differences(key, other))

    def frame(self, *, digits: int = 2) -> pd.DataFrame:
        """Return the table as it is shown: mean, interval, and the source's figure if it has any.

        Numbers are texts rounded to ``digits`` places, so that their points stand below one
        another. The unit of most rows stands once, in the corner; a row of another unit names it.
        """
        import pandas as pd

        corner = Counter(row.unit for row in self.rows.values()).most_common(1)[0][0]
        sourced = any(row.paper is not None for row in self.rows.values())
        spread = f"95 % interval, {len(self.record['seeds'])} seeds"
        lines: list[dict[str, str]] = []
        labels: list[str] = []
        for row in self.rows.values():
            found = row.interval
            labels.append(row.label if row.unit == corner else _with_unit(row))
            line = {"mean": f"{found.mean:.{digits}f}"}
            if found.n > 1:
                line[spread] = f"{found.low:.{digits}f} to {found.high:.{digits}f}"
            if sourced:
                line["source"] = "" if row.paper is None else f"{row.paper:.{digits}f}"
            lines.append(line)
        return pd.DataFrame(lines, index=labels).rename_axis(columns=corner)


def _with_unit(row: ResultRow) -> str:
    """Return a row's label with its unit, which does not say again what the label says."""
    quantity, _, unit = row.unit.rpartition(", ")
    return f"{row.label} ({unit if quantity and quantity in row.label else row.unit})"


def _each_once(texts: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(texts))


def results_dir() -> Path:
    """Return the folder of the recorded results.

    In a clone it is ``book/results``; an installed package carries a copy.
    """
    package = Path(__file__).resolve().parents[2]
    recorded = package.parent / "book" / "results"
    return recorded if recorded.is_dir() else package / "_results"


def file_name(name: str, profile: str) -> str:
    """Return the name of a result file: ``NAME.json`` for the full profile, else with its name."""
    return f"{name}.json" if profile == "full" else f"{name}-{profile}.json"


def load_result(name: str, *, profile: str = "full", folder: str | Path | None = None) -> Result:
    """Read a recorded result.

    Parameters
    ----------
    name
        The experiment, such as ``kd-mnist``.
    profile
        ``"full"``, the one that is recorded, or ``"quick"``.
    folder
        Where to look; by default the results that come with the course. ``~`` is the home folder.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message names the folder and the command that writes it.
    ValueError
        If the profile is unknown, or the file is no result file.
    """
    check_choice("profile", profile, PROFILES)
    place = results_dir() if folder is None else expand(folder, "folder")
    path = place / file_name(name, profile)
    command = f"`tlcourse run {name} --profile {profile}`"
    try:
        return read_result(path)
    except FileNotFoundError:
        known = [p.stem for p in path.parent.glob("*.json")]
        raise FileNotFoundError(
            f"No recorded result {path.name} in {path.parent}.{near(path.stem, known)} "
            f"{command} writes it."
        ) from None
    except ValueError as error:
        raise ValueError(f"{error} {command} writes it anew.") from error


def read_result(path: Path) -> Result:
    """Read a result file of any name.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is no result file.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        seeds = list(record["seeds"])
        rows = {
            row["key"]: ResultRow(
                row["key"], row["label"], row["unit"], tuple(row["values"]), row["paper"]
            )
            for row in record["rows"]
        }
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no result file {path}.") from None
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not a result file ({what}).") from error
    if any(len(row.values) != len(seeds) for row in rows.values()):
        raise ValueError(f"{path}: a row has not one value for each of the seeds {seeds}.")
    if "runs" not in record:
        made = {key: record.pop(key) for key in OF_A_RUN[1:] if key in record}
        record["runs"] = [{"seeds": seeds, "seconds": record.pop("wall_seconds", None)} | made]
    return Result(rows, record)


def write_json(record: Mapping[str, Any], path: Path) -> None:
    """Write a record in one atomic step: a reader finds the old file or the new one, whole.

    Raises
    ------
    OSError
        If the file cannot be written; the old one remains.
    """
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path) as file:
        file.write(text.encode())
