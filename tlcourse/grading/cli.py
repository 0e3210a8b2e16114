"""The commands ``tlcourse assignment``: from a new assignment to exported grades."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="For instructors: assignments that are graded in a sandbox.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The assignment's name.")]
Folder = Annotated[Path, typer.Option("--course", help="The course's folder.")]


@app.command("list")
def list_assignments() -> None:
    """List the assignments that come with the course."""
    from tlcourse.grading.assignment import PACKAGED, load
    from tlcourse.grading.course import packaged

    for name in packaged():
        found = load(PACKAGED / name)
        by_hand = sum(cell.points for cell in found.written)
        typer.echo(f"{name:22} {found.points:g} points, {by_hand:g} of them by hand")


@app.command()
def new(name: Name, course: Folder = Path()) -> None:
    """Put an assignment into the course's folder, to be used as it is or changed."""
    from tlcourse.grading.course import new as make

    target = make(course, name)
    typer.echo(f"{target} holds the notebook with solutions and the tests.")
    typer.echo(f"Next: fill in {course / 'students.csv'}; tlcourse assignment release {name}")


@app.command()
def release(name: Name, course: Folder = Path()) -> None:
    """Write the students' notebook, without solutions."""
    from tlcourse.grading.course import release as make

    typer.echo(f"{make(course, name)} is for the students.")


@app.command()
def collect(
    name: Name,
    source: Annotated[Path, typer.Argument(help="A folder or zip file of what was handed in.")],
    form: Annotated[
        str, typer.Option(help="plain (STUDENT/FILE.ipynb or STUDENT.ipynb), canvas or moodle.")
    ] = "plain",
    course: Folder = Path(),
) -> None:
    """Take over what students handed in."""
    from tlcourse.grading.course import collect as take

    students, left = take(course, name, source, form)
    typer.echo(f"{len(students)} submissions taken.")
    for line in left:
        typer.echo(f"left out: {line}", err=True)


@app.command()
def grade(
    name: Name,
    course: Folder = Path(),
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Sandboxes at a time.")] = 2,
    part: Annotated[
        str, typer.Option(help="K/N: every N-th submission from the K-th; results alone.")
    ] = "1/1",
    container: Annotated[str, typer.Option(help="docker or podman, in place of bubblewrap.")] = "",
    image: Annotated[
        str, typer.Option(help="The container's image, with the course's packages in it.")
    ] = "tlcourse",
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="Run students' code as yourself.")
    ] = False,
) -> None:
    """Grade what was handed in; what is graded already is not graded again."""
    from tlcourse.grading.course import grade as run

    way = f"{container}:{image}" if container else "none" if unsafe_no_sandbox else "bubblewrap"
    k, _, n = part.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise typer.BadParameter("a part is K/N, such as 3/10.", param_hint="--part")
    if way == "none":
        typer.echo("Without a sandbox: students' code can read and change your files.", err=True)
    count, records, unknown = run(course, name, way=way, jobs=jobs, part=(int(k), int(n)))
    found = Counter(record["status"] for record in records.values())
    summary = ", ".join(f"{number} {status}" for status, number in found.most_common())
    typer.echo(f"{count} graded now. All: {summary or 'nothing handed in'}.")
    for student, record in records.items():
        if record["status"] != "graded":
            remarks = " ".join(record["remarks"])
            typer.echo(f"  {student}: {record['status']}, {record['score']:g}. {remarks}")
    for student in unknown:
        typer.echo(f"  {student}: not in students.csv, not graded", err=True)
    raise typer.Exit(1 if unknown else 0)


@app.command()
def feedback(name: Name, course: Folder = Path()) -> None:
    """Write a page for each student: what failed and why, without the hidden tests."""
    from tlcourse.grading.course import feedback as make

    typer.echo(f"{len(make(course, name))} pages are in {course / 'feedback'}.")


@app.command()
def export(
    name: Name,
    form: Annotated[str, typer.Option(help="plain, canvas or moodle.")] = "plain",
    out: Annotated[
        Path | None, typer.Option(help="The file; by default grades-NAME-FORM.csv.")
    ] = None,
    course: Folder = Path(),
) -> None:
    """Write the grades as CSV."""
    from tlcourse.grading.course import export as write

    path = out or course / f"grades-{name}-{form}.csv"
    students, waiting = write(course, name, form, path)
    typer.echo(f"{students} students are in {path}.")
    if waiting:
        typer.echo(f"{waiting} of them still wait for a mark by hand: without it so far.", err=True)
