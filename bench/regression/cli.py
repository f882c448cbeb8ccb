"""The commands `compare`, `bless`, `history`, `pilot` and `power` of `python -m bench`.

Exit codes: 0 no regression, 1 a regression (or equal cells that are unequal, or a changed verdict), 2 bad input,
3 cells missing or failed, 4 no baseline or nothing comparable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import console, say
from bench.executors import EXECUTORS, Resources
from bench.progress import Watch
from bench.regression import baseline, history, margins, pilot, power
from bench.regression.advisory import changed_verdicts, known_verdicts, read_ratios, read_verdicts, slower
from bench.regression.comparison import compare
from bench.regression.snapshot import load, load_candidate
from bench.regression.summary import notes, table, write_benchmark_json, write_markdown
from seqlora.files import atomic_write, write_json

POWER = Path(__file__).parent / "power.md"
Ledgers = Annotated[list[Path] | None, typer.Option("--ledger", help="JSON of `python -m theory` (repeatable).")]
Timing = Annotated[Path | None, typer.Option("--timing", help="JSON of `python -m bench timing`; advice only.")]


def compare_command(
    base: Annotated[Path, typer.Argument(help="A store, or a baseline (file or folder).")],
    candidate: Annotated[Path, typer.Argument(help="A store, or a baseline.")],
    ledger: Ledgers = None,
    timing: Timing = None,
    margins_file: Annotated[Path, typer.Option("--margins", help="Of the pilot.")] = margins.PATH,
    markdown: Annotated[Path | None, typer.Option(help="Write a summary for a pull request.")] = None,
    benchmark_json: Annotated[Path | None, typer.Option(help="Write github-action-benchmark's format.")] = None,
) -> None:
    """Hold CANDIDATE against BASE: is anything worse?"""
    before, after = load(base), load_candidate(candidate)
    verdicts = {**after.verdicts, **read_verdicts(ledger or [])}
    changed = changed_verdicts(known_verdicts(before.verdicts, verdicts), verdicts)
    ratios = read_ratios(timing) if timing else after.ratios
    found = compare(before, after, margins.load_margins(margins_file), changed, slower(before.ratios, ratios))
    console().print(table(found))
    for title, lines in notes(found):
        say(f"{title}:")
        for line in lines:
            say(f"  {line}")
    if markdown:
        write_markdown(found, markdown)
    if benchmark_json:
        write_benchmark_json(found, benchmark_json)
    if found.different:
        say("the code changed numbers on the same machine: if that is meant, `python -m bench bless` the new ones")
    raise typer.Exit(found.exit_code)


def bless_command(
    store: Annotated[Path, typer.Argument(help="Store of a finished gate suite.")] = Path("results/gate"),
    out: Annotated[Path, typer.Option(help="Where the baseline goes.")] = baseline.PATH,
    ledger: Ledgers = None,
    timing: Timing = None,
) -> None:
    """Make the numbers of STORE the baseline (from a clean tree only)."""
    blessed = baseline.bless(store, out, ledger or [], timing)
    say(f"{len(blessed.cells)} cells of revision {str(blessed.git_revision)[:12]} are the baseline; commit it:")
    for fingerprint, machine in blessed.comparable.items():
        say(f"  equal numbers are asked of {fingerprint}: {machine['cpu']}, torch {machine.get('torch')}")
    print(out)


def history_command(
    store: Annotated[Path, typer.Argument(help="A store, or a baseline.")] = baseline.PATH,
    file: Annotated[Path, typer.Option("--file", help="The CSV that is appended to.")] = history.PATH,
) -> None:
    """Append one row a gated number and revision to the history, and print them."""
    added = history.append(load_candidate(store), file)
    for row in added:
        print(",".join(row.values()))
    say(f"{len(added)} rows added to {file}")


def pilot_command(
    out: Annotated[Path, typer.Option(help="Folder of the pilot's cells; the same command resumes.")] = Path(
        "results/pilot"
    ),
    seeds: Annotated[int, typer.Option(min=20, help="Seeds of every gated cell.")] = pilot.SEEDS,
    workers: Annotated[int, typer.Option(min=1, help="Cells at the same time.")] = os.cpu_count() or 1,
    margins_file: Annotated[Path, typer.Option("--margins", help="Where the margins go.")] = margins.PATH,
    power_file: Annotated[Path, typer.Option("--power", help="Where the power table goes.")] = POWER,
) -> None:
    """Measure how the gated numbers vary, and derive margins and power."""
    chosen = pilot.cells(seeds)
    again = pilot.disturbed(chosen)
    executor = EXECUTORS["serial" if workers == 1 else "loky"](Resources(workers, 1, "", out))
    with Watch(len(chosen) + len(again)) as watch:
        failed = pilot.run_pilot(chosen, out, executor, watch)
    if failed:
        say(f"{failed} cells failed; no margins were written")
        raise typer.Exit(3)
    plain, moved = (pilot.only(load_candidate(out / name), chosen) for name in ("plain", "disturbed"))
    file = pilot.margins(plain, moved, pilot.gate_seeds())
    write_json(margins_file, file.model_dump(mode="json"))
    with atomic_write(power_file) as temporary:
        temporary.write_text(power.markdown(file), encoding="utf-8")
    say(f"margins of {len(file.gates)} gates from {file.seeds} seeds are in {margins_file}, the power table beside it")


def power_command(
    margins_file: Annotated[Path, typer.Option("--margins", help="Of the pilot.")] = margins.PATH,
) -> None:
    """Print what the gates can see."""
    sys.stdout.write(power.markdown(margins.load_margins(margins_file)))
