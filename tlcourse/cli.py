"""The ``tlcourse`` command: experiments, data, and what this machine lacks."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from tlcourse.grading.cli import app as assignment_app

if TYPE_CHECKING:
    from tlcourse.experiments import Experiment, Result


class _Commands(TyperGroup):
    """The commands; an interruption says how to go on, where typer would be silent."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("tlcourse: interrupted; run the same command again to go on.", err=True)
            sys.exit(130)


app = typer.Typer(
    cls=_Commands,
    name="tlcourse",
    help="Experiments and data of the transfer learning course.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="The course's data sets: what is here, and how to get the rest.")
app.add_typer(data_app, name="data", no_args_is_help=True)
app.add_typer(assignment_app, name="assignment", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the result file; by default book/results in a clone."),
]
Profile = Annotated[
    str | None, typer.Option(help="quick or full; by default $TLCOURSE_PROFILE, else quick.")
]


@app.command("list")
def list_experiments(
    name: Annotated[
        str | None,
        typer.Argument(help="Show where this one's code, test, chapter and result are."),
    ] = None,
) -> None:
    """List the experiments, and which of them have a recorded result."""
    from tlcourse.experiments import EXPERIMENTS, get, results_dir
    from tlcourse.experiments._engine.results import file_name

    if name is not None:
        _list_places(get(name))
        return
    for experiment in EXPERIMENTS.values():
        recorded = [
            profile
            for profile in ("quick", "full")
            if (results_dir() / file_name(experiment.name, profile)).exists()
        ]
        _say(f"{experiment.name}  (recorded: {', '.join(recorded) or 'not yet'})", indent=0)
        _say(experiment.title)
        _say(f"chapter {experiment.chapter}")


def _list_places(experiment: Experiment) -> None:
    from tlcourse.experiments import results_dir
    from tlcourse.experiments._engine.places import ROOT, places

    found = places(experiment)
    installed = not (ROOT / "tests").is_dir()
    _say(f"{experiment.name}  {experiment.title}", indent=0)
    for what, path in found.items():
        there = results_dir() / path.name if what == "result" else ROOT / path
        if there.exists():
            text = str(there if installed else path)
        elif what == "result":
            text = f"not recorded yet; `tlcourse run {experiment.name} --profile full` does it"
        else:
            text = f"{path} ({'in a clone; this is the package alone' if installed else 'missing'})"
        _say(f"{what:<8} {text}")


@app.command()
def run(
    names: Annotated[list[str], typer.Argument(help="One or more experiments; see `list`.")],
    profile: Profile = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds; by default the experiment's own.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="This seed alone; may be given several times."),
    ] = None,
    out: Out = None,
    fresh: Annotated[bool, typer.Option(help="Forget what an interrupted run has left.")] = False,
) -> None:
    """Run experiments and write their result files; after an interruption, go on.

    Seeds that a result file has already, of the same settings and data, stay in it.
    """
    from tlcourse import experiments
    from tlcourse.training._processes import accelerator

    if seeds is not None and seed:
        raise typer.BadParameter("give a number of --seeds or each --seed, not both.")
    chosen = [experiments.get(name) for name in names]
    for experiment in chosen:
        result = experiments.run(
            experiment,
            profile=profile,
            seeds=seed or (None if seeds is None else range(seeds)),
            out=out or _default_out(),
            fresh=fresh,
            say=typer.echo,
        )
        if accelerator().is_main_process:
            _print_result(result)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Result files of one experiment.")],
    out: Out = None,
) -> None:
    """Put seeds that were run at different times or places into one result file."""
    from tlcourse import experiments

    _print_result(experiments.merge(files, out=out or _default_out()))


@app.command()
def compare(
    name: Annotated[str, typer.Argument(help="An experiment; see `list`.")],
    profile: Annotated[
        str | None, typer.Option(help="quick or full; by default the full one where it is there.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result file; by default as for `run`.")
    ] = None,
) -> None:
    """Show a recorded result beside the figures of its source."""
    from tlcourse._files import expand
    from tlcourse.experiments import get, load_result, results_dir
    from tlcourse.experiments._engine.results import file_name

    get(name)
    profiles = [profile] if profile else ["full", "quick"]
    folders = [expand(out, "--out")] if out else [_default_out(), results_dir()]
    places = [(p, folder) for p in profiles for folder in folders]
    there = [(p, folder) for p, folder in places if (folder / file_name(name, p)).exists()]
    chosen, folder = (there or places)[0]  # where there is none, loading says what to do
    _print_result(load_result(name, profile=chosen, folder=folder))


@data_app.command()
def status() -> None:
    """Show which data sets and weights are here, where they were looked for, and what to do."""
    from tlcourse.data import status as rows

    for row in rows():
        size = f", {row.size}" if row.size else ""
        _say(f"{row.name:<9} {row.state:<8} {row.kind}{size}", indent=0)
        _say(f"looked for in {row.where}" if row.state == "missing" else row.where)
        _say(row.todo)


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set; see `status`.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder to download into; by default the cache folder.")
    ] = None,
) -> None:
    """Download a data set, or say why it needs no download."""
    from tlcourse.data import fetch as fetch_data

    row = fetch_data(name, root)
    _say(f"{row.name}: {row.state}, {row.where} ({row.size}). {row.todo}", indent=0)


@app.command()
def progress() -> None:
    """Show by chapter which exercises you have passed, and which are left."""
    from tlcourse.exercises._progress import passed, progress_file
    from tlcourse.exercises._question import texts

    done = passed()
    chapters: dict[str, list[str]] = {}
    for label, text in texts().items():
        chapters.setdefault(text["chapter"], []).append(label)
    for chapter, labels in chapters.items():
        left = [label for label in labels if label not in done]
        _say(f"{chapter}  {len(labels) - len(left)} of {len(labels)}", indent=0)
        for label in left:
            _say(texts()[label]["title"])
    _say(f"kept in {progress_file()}, and sent nowhere", indent=0)


@app.command()
def doctor() -> None:
    """Check versions, devices, folders and data; say what to do about each problem."""
    from tlcourse.doctor import examine

    problems = []
    for finding in examine():
        _say(f"{'ok' if finding.ok else '!!'}  {finding.what}: {finding.found}", indent=0)
        _say(finding.what_to_do)
        if not finding.ok:
            problems.append(finding.what)
    _say(f"To look at: {', '.join(problems)}." if problems else "Everything is in order.", indent=0)
    raise typer.Exit(1 if problems else 0)


def _default_out() -> Path:
    """In a clone, book/results; where the package is installed, the folder that runs."""
    from tlcourse.experiments import results_dir

    recorded = results_dir()
    return recorded if recorded.name == "results" else Path("results")


def _say(text: str, *, indent: int = 4) -> None:
    """Print a text, wrapped and indented; paths and addresses stay whole, to be copied."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * 4,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        typer.echo(line)


def _print_result(result: Result) -> None:
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
    console.print(f"{result.origin}.")
    if record["source"]:
        console.print(f"Source: {record['source']}.")


def main() -> None:
    """Run the command; an expected error is one line, not a traceback."""
    try:
        app()
    except ImportError as error:
        typer.secho(f"tlcourse: {error}. `tlcourse doctor` says what to do.", fg="red", err=True)
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        typer.secho(f"tlcourse: {error}", fg="red", err=True)
        sys.exit(1)
