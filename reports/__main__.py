"""The command line: `python -m reports build | figure | list`.

Exit codes: 0 fine (also when something is missing, which is said), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reports import build as building
from reports.figures import FIGURES, find, save
from reports.figures.api import read_csv
from reports.sources import COMMANDS, load
from seqlora.errors import BadInputError
from theory import commandline

app = typer.Typer(
    help="Draw figures, tables and the page from stored results; nothing is measured here.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ResultsFolder = Annotated[Path, typer.Option("--results", help="Folder with theory/, bench/ and timing/.")]


@app.command()
def build(
    results: ResultsFolder = Path("results"), out: Annotated[Path, typer.Option()] = Path("results/report")
) -> None:
    """Write index.html, ledger.md, tables.md and every figure that there are numbers for."""
    built = building.build(load(results), out)
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
        if building.draw(spec, load(results), out) is None:
            raise BadInputError(f"{results} has no numbers for figure {name}; run `{COMMANDS[spec.inputs[0]]}`")
        paths = [out / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv", ".txt")]
    for path in paths:
        print(path)


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
