"""The command line: `python -m reports build | figure | list | publish | readme`.

Exit codes: 0 fine (also when something is missing, which is said), 1 README.md disagrees with what is published, 2 bad
input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.regression import history
from reports import build as building
from reports import publish as publishing
from reports import readme as readme_tables
from reports.figures import FIGURES, find, save
from reports.figures.api import read_csv
from reports.sources import COMMANDS, load
from seqlora.errors import BadInputError
from theory import commandline

PUBLISHED = Path("reports/published") / publishing.STORE

app = typer.Typer(
    help="Draw figures, tables and the page from stored results; nothing is measured here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

CPUS = os.cpu_count() or 1
Workers = Annotated[int, typer.Option(min=1, help="Processes that draw.")]
ResultsFolder = Annotated[Path, typer.Option("--results", help="Folder with theory/, bench/ and timing/.")]


@app.command()
def build(
    results: ResultsFolder = Path("results"),
    out: Annotated[Path, typer.Option()] = Path("results/report"),
    workers: Workers = CPUS,
) -> None:
    """Write index.html, ledger.md, tables.md and every figure that there are numbers for."""
    built = building.build(load(results, history.PATH), out, workers)
    for line in built.missing:
        _say(f"missing: {line}")
    _say(f"{len(built.figures)} figures of {len(FIGURES)}; open {built.page}")
    print(built.page)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="One of `python -m reports list`.")],
    results: ResultsFolder = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder for PNG, SVG, CSV and caption.")] = Path("results/report/figures"),
    data: Annotated[Path | None, typer.Option(help="Draw a saved CSV instead of stored results.")] = None,
) -> None:
    """Draw one figure."""
    spec = find(name)
    if data is not None:
        numbers = read_csv(data)
        drawn = spec.figure(numbers)
        paths = save(drawn, numbers, name, out, f"{spec.headline(numbers)}\n\n{spec.caption}")
    else:
        if building.draw(name, load(results, history.PATH), out) is None:
            raise BadInputError(f"{results} has no numbers for figure {name}; run `{COMMANDS[spec.inputs[0]]}`")
        paths = [out / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv", ".txt")]
    for path in paths:
        print(path)


@app.command()
def publish(
    results: ResultsFolder = Path("results"),
    out: Annotated[Path, typer.Option()] = Path("reports/published"),
    workers: Workers = CPUS,
) -> None:
    """Write a compact copy of all results, small enough for git, and the report built from it."""
    built = publishing.publish(load(results, history.PATH), out, workers)
    files = [path for path in out.rglob("*") if path.is_file()]
    _say(f"{len(built.figures)} figures; {sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {out}")
    print(built.page)


@app.command()
def readme(
    results: Annotated[Path, typer.Option("--results", help="What is published.")] = PUBLISHED,
    file: Annotated[Path, typer.Option("--file", help="Text with `<!-- table: NAME -->` markers.")] = Path("README.md"),
    check: Annotated[bool, typer.Option("--check", help="Only compare; exit code 1 if they disagree.")] = False,
) -> None:
    """Make the marked tables of README.md anew from what is published."""
    agreed = readme_tables.update(file, load(results), check)
    _say(f"{file} {'agrees with' if agreed else 'disagrees with' if check else 'was updated from'} {results}")
    raise typer.Exit(1 if check and not agreed else 0)


@app.command("list")
def list_command() -> None:
    """List the figures."""
    for spec in FIGURES.values():
        print(f"{spec.name:24}{spec.title}")


def main() -> None:
    """Entry point: errors that the user can mend become one line and an exit code."""
    sys.exit(commandline.run(app, "python -m reports", interrupted="interrupted; figures that were finished are whole"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
