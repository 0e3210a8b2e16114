"""The ``tlcourse`` command: experiments, data, and what this machine lacks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    name="tlcourse",
    help="Experiments and data of the transfer learning course.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The course's data sets: what is here, and how to get the rest.")
app.add_typer(data_app, name="data", no_args_is_help=True)

Profile = Annotated[
    str | None, typer.Option(help="quick or full; by default $TLCOURSE_PROFILE, else quick.")
]


@app.command("list")
def list_experiments() -> None:
    """List the experiments, and which of them have a recorded result."""
    from tlcourse.experiments import EXPERIMENTS, results_dir
    from tlcourse.experiments.results import file_name

    table = Table("name", "what", "chapter", "recorded")
    for experiment in EXPERIMENTS.values():
        recorded = [
            profile
            for profile in ("quick", "full")
            if (results_dir() / file_name(experiment.name, profile)).exists()
        ]
        table.add_row(
            experiment.name, experiment.title, experiment.chapter, ", ".join(recorded) or "-"
        )
    Console().print(table)


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="One or more experiments; see `list`.")],
    profile: Profile = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds; by default the experiment's own.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the result file; by default book/results in a clone."),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Forget what an interrupted run has left.")] = False,
) -> None:
    """Run experiments and write their result files; after an interruption, go on."""
    from tlcourse import experiments

    chosen = [experiments.get(name) for name in names]
    for experiment in chosen:
        result = experiments.run(
            experiment,
            profile=profile,
            seeds=None if seeds is None else range(seeds),
            out=out or _default_out(),
            fresh=fresh,
            say=typer.echo,
        )
        _print_result(result)


@app.command()
def compare(name: str, profile: Profile = None, out: Path | None = None) -> None:
    """Show a recorded result beside the figures of its source."""
    from tlcourse.experiments import get, load_result
    from tlcourse.settings import current_profile

    get(name)
    _print_result(load_result(name, profile=profile or current_profile(), folder=out))


@data_app.command()
def status() -> None:
    """Show which data sets and weights are here, where they were looked for, and what to do."""
    from tlcourse.data import status as rows

    table = Table("name", "kind", "state", "where", "size", "what to do")
    for row in rows():
        table.add_row(row.name, row.kind, row.state, row.where, row.size, row.todo)
    Console().print(table)


@data_app.command()
def fetch(name: str, root: Path | None = None) -> None:
    """Download a data set, or say why it needs no download."""
    from tlcourse.data import fetch as fetch_data

    row = fetch_data(name, root)
    typer.echo(f"{row.name}: {row.state}, {row.where} ({row.size}). {row.todo}".rstrip())


@app.command()
def doctor() -> None:
    """Check versions, devices, folders and data; say what to do about each problem."""
    from tlcourse.doctor import examine

    console = Console()
    findings = examine()
    table = Table("", "what", "found", "what to do")
    for finding in findings:
        table.add_row("ok" if finding.ok else "!!", finding.what, finding.found, finding.what_to_do)
    console.print(table)
    problems = sum(not finding.ok for finding in findings)
    console.print("Everything is in order." if not problems else f"{problems} to look at.")
    raise typer.Exit(1 if problems else 0)


def _default_out() -> Path:
    """In a clone, book/results; where the package is installed, the folder that runs."""
    from tlcourse.experiments import results_dir

    recorded = results_dir()
    return recorded if recorded.name == "results" else Path("results")


def _print_result(result: object) -> None:
    from tlcourse.experiments import Result

    assert isinstance(result, Result)
    record = result.record
    table = Table(
        "",
        "unit",
        "mean",
        "95 % interval",
        "source",
        title=f"{record['title']} ({record['profile']})",
    )
    for row in result.rows.values():
        found = row.interval
        spread = f"{found.low:.2f} to {found.high:.2f}" if found.n > 1 else "-"
        paper = "-" if row.paper is None else f"{row.paper:.2f}"
        table.add_row(row.label, row.unit, f"{found.mean:.2f}", spread, paper)
    console = Console()
    console.print(table)
    console.print(
        f"{len(record['seeds'])} seeds, {record['wall_seconds']:.0f} s on {record['hardware']}, "
        f"{record['date']}."
    )
    if record["source"]:
        console.print(f"Source: {record['source']}.")


def main() -> None:
    """Run the command; an expected error is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        typer.secho(f"tlcourse: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("tlcourse: interrupted; run the same command again to go on.", err=True)
        sys.exit(130)
