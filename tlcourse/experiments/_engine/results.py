"""Result files: one JSON file per recorded experiment, read by chapters and tables."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcourse._checks import check_choice, near
from tlcourse.metrics import Interval, interval
from tlcourse.settings import PROFILES

if TYPE_CHECKING:
    import pandas as pd


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
        Everything that the file holds: settings, seeds, versions, hardware, data fingerprints,
        commit and wall time among it.
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
        another. A unit that all rows share stands once, in the corner.
        """
        import pandas as pd

        shared = len({row.unit for row in self.rows.values()}) == 1
        sourced = any(row.paper is not None for row in self.rows.values())
        spread = f"95 % interval, {len(self.record['seeds'])} seeds"
        lines: list[dict[str, str]] = []
        for row in self.rows.values():
            found = row.interval
            line = {} if shared else {"unit": row.unit}
            line["mean"] = f"{found.mean:.{digits}f}"
            if found.n > 1:
                line[spread] = f"{found.low:.{digits}f} to {found.high:.{digits}f}"
            if sourced:
                line["source"] = "" if row.paper is None else f"{row.paper:.{digits}f}"
            lines.append(line)
        corner = next(iter(self.rows.values())).unit if shared else "row"
        labels = [row.label for row in self.rows.values()]
        return pd.DataFrame(lines, index=labels).rename_axis(columns=corner)


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


def load_result(name: str, *, profile: str = "full", folder: Path | None = None) -> Result:
    """Read a recorded result.

    Parameters
    ----------
    name
        The experiment, such as ``kd-mnist``.
    profile
        ``"full"``, the one that is recorded, or ``"quick"``.
    folder
        Where to look; by default the results that come with the course.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message names the folder and the command that writes it.
    ValueError
        If the profile is unknown, or the file is no result file.
    """
    check_choice("profile", profile, PROFILES)
    path = (folder or results_dir()) / file_name(name, profile)
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
        known = [p.stem for p in path.parent.glob("*.json")]
        raise FileNotFoundError(
            f"No recorded result {path.name} in {path.parent}.{near(path.stem, known)} "
            f"`tlcourse run {name} --profile {profile}` writes it."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a result file ({type(error).__name__}: {error}). "
            f"`tlcourse run {name} --profile {profile}` writes it anew."
        ) from error
    if any(len(row.values) != len(seeds) for row in rows.values()):
        raise ValueError(f"{path}: a row has not one value for each of the seeds {seeds}.")
    return Result(rows, record)


def write_json(record: Mapping[str, Any], path: Path) -> None:
    """Write a record in one atomic step: a reader finds the old file or the new one, whole.

    Raises
    ------
    OSError
        If the file cannot be written; the old one remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
