"""`python -m theory`: check the claims on one source of layers and print the ledger.

The ledger goes to stdout, progress and complaints to stderr. Exit codes: 0 every verdict as expected, 1 a verdict
changed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
from joblib import Parallel, delayed, parallel_config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

from seqlora.errors import BadInputError
from seqlora.files import write_json
from theory import commandline, ledger
from theory.api import Claim, ClaimResult, Suite
from theory.claims.images import Statement

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

COLOURS = {"holds": "green", "holds when": "yellow", "fails when": "red"}
CPUS = os.cpu_count() or 1
PLAIN_WIDTH = 160  # columns of the table where there is no terminal to fit


@app.command()
def check(
    claims: Annotated[list[str] | None, typer.Argument(metavar="[CLAIM]...", help="Claim ids; all if none.")] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            help="synthetic (default), minilm, diffusion, hf:<folder> or diffusion:<folder>, "
            "the last two with #<regular expression of layer names>. Repeatable."
        ),
    ] = None,
    suite: Annotated[str, typer.Option(help="smoke (seconds), ci (a minute) or full.")] = "ci",
    seed: Annotated[int, typer.Option(min=0, help="Entropy of all randomness.")] = 0,
    json: Annotated[
        Path | None,
        typer.Option(help="Write every number to this file; with several --layers, to files in this folder."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Sources of layers at the same time.")] = CPUS,
    bless: Annotated[
        bool, typer.Option("--bless", help="Make these verdicts the expected ones of the source.")
    ] = False,
) -> None:
    """Check claims about SeqLoRA on layers and print which hold, which fail, and under which condition."""
    chosen, sources = ledger.select(claims or []), list(dict.fromkeys(layers or ["synthetic"]))
    files = json_files(json, sources)
    changed: list[str] = []
    for source, results in zip(sources, check_all(chosen, sources, cast(Suite, suite), seed, workers), strict=True):
        if bless:
            ledger.bless(results, source)
        found = ledger.changes(results, ledger.expected_kinds(source))
        if source in files:
            write_json(files[source], ledger.to_json(results, source, suite, seed, found))
        Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table(chosen, results))
        changed += found
    for line in changed:
        print(f"verdict changed: {line}", file=sys.stderr)
    if changed:
        raise typer.Exit(1)


def json_files(path: Path | None, sources: Sequence[str]) -> dict[str, Path]:
    """Source -> the file for its numbers: `path` itself, or one a source in the folder `path`; none without a path.

    Raises:
        BadInputError: a folder where a file is wanted or the other way round, or two sources that would share a file.
    """
    if path is None:
        return {}
    if len(sources) == 1:
        if path.is_dir():
            raise BadInputError(f"--json {path} is a folder; give the name of a file")
        return {sources[0]: path}
    if path.is_file():
        raise BadInputError(f"--json {path} is a file; give a folder for the numbers of several --layers")
    files = {source: path / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', source)}.json" for source in sources}
    if len(set(files.values())) < len(files):
        raise BadInputError(f"two of --layers {', '.join(sources)} would write one file in {path}; check one at a time")
    return files


def check_all(
    claims: Sequence[Claim], sources: Sequence[str], suite: Suite, seed: int, workers: int
) -> Iterator[list[ClaimResult]]:
    """The ledger of every source, in order; several sources in as many processes as there are workers.

    Each process keeps to one thread: two fight over small matrices, and QR and SVD differ bitwise with their number.
    """
    if len(sources) == 1:
        with Watch(len(claims)) as watch, threadpool_limits(1):
            yield ledger.run(claims, sources[0], suite, seed, watch)
        return
    ids = [claim.id for claim in claims]
    with parallel_config("loky", n_jobs=min(workers, len(sources)), inner_max_num_threads=1):
        yield from Parallel(return_as="generator")(delayed(_check)(ids, source, suite, seed) for source in sources)


def _check(ids: Sequence[str], source: str, suite: Suite, seed: int) -> list[ClaimResult]:
    """One source, in a worker."""

    def tell(what: str, result: ClaimResult | None) -> None:
        if result is not None:
            print(f"{source}: {what} {result.verdict} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)

    with threadpool_limits(1):
        return ledger.run(ledger.select(ids), source, suite, seed, tell)


class Watch:
    """Progress on stderr: a bar on a terminal, a line a claim elsewhere."""

    def __init__(self, total: int) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=Console(stderr=True)) if sys.stderr.isatty() else None
        self.total = total

    def __enter__(self) -> Watch:
        if self.bar:
            self.bar.start()
            self._task = self.bar.add_task("claims", total=self.total)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, what: str, result: ClaimResult | None) -> None:
        """Take note that something starts (no result) or that a claim ended."""
        if self.bar and result is None:
            self.bar.update(self._task, description=what)
        elif self.bar:
            self.bar.update(self._task, advance=1)
        elif result is None:
            print(f"{what} …", file=sys.stderr, flush=True)
        else:
            print(f"{what} {result.verdict} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)


def table(claims: Sequence[Claim | Statement], results: Sequence[ClaimResult]) -> Table:
    """The ledger as people read it: one row a claim, the controls beside the evidence."""
    what = results[0].layers
    grid = Table(
        title=f"Claims on {what}" + ("" if what == "images" else " layers"), show_lines=True, title_justify="left"
    )
    for name, ratio in (("Claim", 3), ("Source", 1), ("Verdict", 4), ("Evidence", 7), ("Controls", 1)):
        grid.add_column(name, ratio=ratio, overflow="fold")
    for claim, result in zip(claims, results, strict=True):
        broken = sum(not check.holds for check in result.controls)
        verdict = f"[{COLOURS[result.verdict.kind]}]{result.verdict.kind}[/] {_plain(result.verdict.condition)}"
        controls = f"{broken} of {len(result.controls)} broken"
        grid.add_row(f"[bold]{claim.id}[/] {claim.title}", claim.source, verdict, _plain(result.evidence), controls)
    return grid


def _plain(words: str) -> str:
    return words.replace("[", r"\[")  # brackets are markup to rich


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; every foreseeable failure is one line on stderr and an exit code."""
    return commandline.run(app, "python -m theory", arguments, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
