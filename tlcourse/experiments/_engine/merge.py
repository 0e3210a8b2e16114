"""Seeds that were run at different times and on different machines, in one result file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlcourse._files import expand
from tlcourse.experiments._engine.results import Result, file_name, read_result, write_json

Record = Mapping[str, Any]
ALIKE = ("experiment", "profile", "settings", "data")
ABSENT = "absent"


def merge(files: Sequence[str | Path], *, out: str | Path) -> Result:
    """Write the seeds of several result files of one experiment into one.

    Parameters
    ----------
    files
        One or more result files, under any name; the titles and labels of the last are taken.
    out
        The folder of the file that is written; ``~`` is the home folder. If it is there already,
        its seeds that none of the ``files`` has stay in it.

    Returns
    -------
    Result
        As read back from the file.

    Raises
    ------
    FileNotFoundError
        If one of them is not there.
    ValueError
        If one is no result file, or they do not go together: another experiment or profile, other
        settings, data or rows, or other numbers for the same seed. The message says which.
    OSError
        If the file cannot be written; the old one remains.
    """
    if not files:
        raise ValueError("There is nothing to merge: name one result file or more.")
    paths = [expand(file, "files") for file in files]
    record = merged({str(path): read_result(path).record for path in paths})
    if not {"experiment", "profile"} <= set(record):
        raise ValueError(f"{paths[0]} does not say of which experiment and profile it is.")
    path = expand(out, "out") / file_name(record["experiment"], record["profile"])
    write_json(with_others(record, path, record["seeds"]), path)
    return read_result(path)


def with_others(record: Record, path: Path, seeds: Collection[int]) -> Record:
    """Return a record with those seeds beside it that the file at ``path`` has and that are others.

    Where every seed of the file is among ``seeds``, and where it is damaged, it is to be replaced.
    """
    try:
        before = read_result(path).record
    except (FileNotFoundError, ValueError):
        return record
    if set(before["seeds"]) <= set(seeds):
        return record
    try:
        return merged({str(path): before, "this run": record})
    except ValueError as error:
        others = ", ".join(str(seed) for seed in before["seeds"] if seed not in seeds)
        raise ValueError(
            f"{error} It would be lost what {path} holds of seed {others}: write elsewhere "
            "(--out FOLDER), or give all of its seeds, which replaces it."
        ) from None


def merged(parts: Mapping[str, Record]) -> dict[str, Any]:
    """Return one record of several, given by the names that errors call them.

    The texts (title, labels, figures of the source) are those of the last. A seed that several
    have with the same numbers counts once; the runs that gave them are all listed.
    """
    (first, *_), last = parts, list(parts.values())[-1]
    values: dict[int, dict[str, float]] = {}
    origin: dict[int, str] = {}
    for name, part in parts.items():
        _check_alike(first, parts[first], name, part)
        for i, seed in enumerate(part["seeds"]):
            found = {row["key"]: row["values"][i] for row in part["rows"]}
            other = values.setdefault(seed, found)
            where = origin.setdefault(seed, name)
            for key, value in found.items():
                if value != other[key]:
                    raise ValueError(
                        f"Seed {seed} has two values of {key!r}: {other[key]} in {where}, {value} "
                        f"in {name}. One seed gives one number: leave out one of the two."
                    )
    seeds = sorted(values)
    runs: list[Any] = []
    for part in parts.values():
        runs += [made for made in part["runs"] if made not in runs]
    return {
        **last,
        "seeds": seeds,
        "rows": [{**r, "values": [values[seed][r["key"]] for seed in seeds]} for r in last["rows"]],
        "runs": runs,
    }


def _check_alike(first: str, a: Record, name: str, b: Record) -> None:
    """Raise unless two records are of the same experiment, run in the same way."""
    rows = [{row["key"]: row["unit"] for row in record["rows"]} for record in (a, b)]
    pairs = {what: (_plain(a.get(what)), _plain(b.get(what))) for what in ALIKE}
    for what, (of_a, of_b) in (pairs | {"rows": tuple(rows)}).items():
        if of_a == of_b:
            continue
        if isinstance(of_a, dict) and isinstance(of_b, dict):
            differing = {k for k in {**of_a, **of_b} if of_a.get(k, ABSENT) != of_b.get(k, ABSENT)}
            key = min(differing)
            what, of_a, of_b = f"{what}, {key!r},", of_a.get(key, ABSENT), of_b.get(key, ABSENT)
        raise ValueError(
            f"{name} does not go with {first}: {what} is {of_b!r}, not {of_a!r}. A file holds the "
            "seeds of one experiment with one profile, one set of settings, data and rows."
        )


def _plain(value: Any) -> Any:
    """Return a value as a file gives it back: lists for tuples, texts for keys."""
    return json.loads(json.dumps(value))
