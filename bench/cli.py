"""The command line: `python -m bench list | run | status | collect`, and commands that other modules bring.

Data goes to stdout, everything else to stderr. Exit codes: 0 fine, 2 bad input, 3 some cells failed, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.api import Cell
from bench.collect import bring, write_parquet
from bench.estimate import estimate_seconds, in_words
from bench.executors import EXECUTORS, Resources
from bench.methods import FAMILIES, load_method, methods
from bench.models import available
from bench.progress import Watch
from bench.registry import load
from bench.runner import Job, Summary, run
from bench.schema import CellRecord
from bench.selection import selected, settings
from bench.store import Store
from bench.suites import SUITES
from bench.tasks import TASKS, load_task
from seqlora.errors import BadInputError
from theory import commandline
from theory.commandline import say

app = typer.Typer(
    help="Compare continual multi-concept methods, cell by cell.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Commands of other modules: name -> (typer app or function, help). Imported when called; absent if the module is.
MOUNTED: dict[str, tuple[str, str]] = {
    "report": ("bench.report_command:report", "Draw every figure and table into one page, from stored results."),
    "predict": ("bench.predict:predict_command", "Judge the claims about pictures, C9 and C10, on stored image cells."),
    "timing": ("bench.timing.cli:app", "Time the method against its rivals and print the ratios."),
    "export": ("bench.export:export_command", "Write a learnt concept as files that plain diffusers loads."),
    "world": ("bench.world.cli:app", "The embedded world: its recipe, weights and their check."),
    "compare": ("bench.regression.cli:compare_command", "Hold a store against a base or a baseline: is it worse?"),
    "bless": ("bench.regression.cli:bless_command", "Make a store's numbers the baseline (clean tree only)."),
    "history": ("bench.regression.cli:history_command", "Append gated numbers to the history and print them."),
    "pilot": ("bench.regression.cli:pilot_command", "Measure how gated numbers vary: margins and power."),
    "power": ("bench.regression.cli:power_command", "Print what the gates can see."),
}

CPUS = os.cpu_count() or 1
WORTH_WORKERS = 20.0  # seconds of work below which starting worker processes (each imports torch) saves nothing

Out = Annotated[Path, typer.Option("--out", help="Folder of the store.")]
SuiteName = Annotated[str, typer.Option("--suite", help="smoke, ci, gate, images or full.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task (repeatable).")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Only this method (repeatable).")]
Concepts = Annotated[str, typer.Option("--concepts", help="Numbers of concepts: 2,4,8.")]
SeedRange = Annotated[str, typer.Option("--seeds", help="How many seeds (8 is 0..7), or which: 3,5 or 8-15.")]
Shard = Annotated[str, typer.Option("--shard", help="i/n: only every n-th group of cells, starting with the i-th.")]
ExecutorName = Annotated[str, typer.Option(help="serial, loky, dask, submitit; auto: loky if that saves time.")]
Workers = Annotated[int, typer.Option(min=1, help="Cells at the same time (not with serial).")]
Threads = Annotated[int, typer.Option(min=1, help="BLAS and torch threads a cell; 1 is reproducible.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="name=value for the tasks; --base X is base=X.")]
PHOTOS = "Your own models (--task photos:<folder>)"
Base = Annotated[str, typer.Option(help="Diffusers folder of a Stable Diffusion.", rich_help_panel=PHOTOS)]
Clip = Annotated[str, typer.Option(help="local-dir:<folder>, or ViT-B-32:openai.", rich_help_panel=PHOTOS)]
Faces = Annotated[str, typer.Option(help="Insightface pack, its root, or an .onnx.", rich_help_panel=PHOTOS)]
Dino = Annotated[str, typer.Option(help="Timm model: its folder or name.", rich_help_panel=PHOTOS)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.", rich_help_panel=PHOTOS)]
Dtype = Annotated[str, typer.Option(help="float32, or bfloat16: mixed precision.", rich_help_panel=PHOTOS)]
Threshold = Annotated[str, typer.Option(help="Cosine of one person's faces.", rich_help_panel=PHOTOS)]
Checkpointing = Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.", rich_help_panel=PHOTOS)]
Download = Annotated[bool, typer.Option("--allow-download", help="Fetch models by name.", rich_help_panel=PHOTOS)]


@app.command("run")
def run_command(
    suite: SuiteName = "smoke",
    task: Tasks = None,
    method: Methods = None,
    concepts: Concepts = "",
    seeds: SeedRange = "",
    executor: ExecutorName = "auto",
    workers: Workers = CPUS,
    threads: Threads = 1,
    scheduler: Annotated[str, typer.Option(help="dask: address of a scheduler; submitit: slurm or local.")] = "",
    shard: Shard = "",
    out: Out = Path("results/bench"),
    option: Setting = None,
    base: Base = "",
    clip: Clip = "",
    identity: Faces = "",
    dino: Dino = "",
    device: Device = "",
    dtype: Dtype = "",
    threshold: Threshold = "",
    checkpointing: Checkpointing = False,
    allow_download: Download = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run, and for how long.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Compute stored cells again.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Compute failed cells again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show failures only.")] = False,
) -> None:
    """Run the cells of a suite that are not in the store yet."""
    models = {"base": base, "clip": clip, "identity": identity, "dino": dino, "device": device, "dtype": dtype,
              "threshold": threshold, "checkpointing": checkpointing, "download": allow_download}  # fmt: skip
    options = settings(option or []) | {name: str(value) for name, value in models.items() if value}
    available(device or "cpu")
    cells = selected(suite, task, method, concepts, seeds, shard, options)
    store = Store(out)
    if executor == "auto" and (options.get("base") or options.get("device", "cpu") != "cpu"):
        executor = "serial"  # one accelerator, or no memory for several large models
    if executor == "auto":
        seconds = estimate_seconds(to_run(cells, store, force, retry_failed), store.all_records(), 1)
        executor = "serial" if workers == 1 or seconds < WORTH_WORKERS else "loky"
    if dry_run:
        return plan(cells, to_run(cells, store, force, retry_failed), store, 1 if executor == "serial" else workers)
    job = Job(out, threads, force, retry_failed, options)
    runs_on = EXECUTORS[executor](Resources(workers, threads, scheduler, out))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler that takes the machine back is a Ctrl-C
    try:
        with Watch(len(cells), quiet) as watch:
            summary = run(cells, job, runs_on, watch)
    except KeyboardInterrupt:
        counts = Counter(store.state(cell) for cell in cells)
        say(f"interrupted: {counts['done']} of {len(cells)} cells are stored; the same command goes on from there")
        raise typer.Exit(130) from None
    report(summary, store)
    raise typer.Exit(summary.exit_code)


def to_run(cells: list[Cell], store: Store, force: bool, retry_failed: bool) -> list[Cell]:
    """The cells that `run` would compute."""
    wanted = ("missing", "corrupt", "failed") if retry_failed else ("missing", "corrupt")
    return [cell for cell in cells if force or store.state(cell) in wanted]


def plan(cells: list[Cell], missing: list[Cell], store: Store, workers: int) -> None:
    """Print which cells a run would compute and how long they will take."""
    for cell in missing:
        print(cell)
    seconds = estimate_seconds(missing, store.all_records(), workers)
    say(f"{len(missing)} of {len(cells)} cells to run, about {in_words(seconds)} with {workers} at a time")


def report(summary: Summary, store: Store) -> None:
    """Say what a run came to."""
    new, stored = summary.count("done", cached=False), summary.count("done", cached=True)
    say(f"{new} cells computed, {stored} were stored, {summary.count('skipped')} skipped, "
        f"{summary.count('failed')} failed; in {store.folder}")  # fmt: skip
    for revision, count in summary.other_revisions().items():
        say(f"warning: {count} stored cells were computed by revision {revision[:12]}; --force computes them again")
    if any(outcome.cached and outcome.status == "failed" for outcome in summary.outcomes):
        say("some of these failures are from an earlier run; --retry-failed tries the same seeds again")


@app.command()
def status(
    suite: SuiteName = "smoke",
    task: Tasks = None,
    method: Methods = None,
    concepts: Concepts = "",
    seeds: SeedRange = "",
    out: Out = Path("results/bench"),
    option: Setting = None,
) -> None:
    """Count the cells of a suite that are done, failed, skipped, missing or corrupt."""
    store = Store(out)
    counts: dict[tuple[str, str], Counter[str]] = {}
    for cell in selected(suite, task, method, concepts, seeds, options=settings(option or [])):
        counts.setdefault((cell.task, cell.method), Counter())[store.state(cell)] += 1
    states = ("done", "failed", "skipped", "missing", "corrupt")
    table = Table("task", "method", *states, title=f"{suite} in {out}")
    for (task_name, method_name), counted in counts.items():
        table.add_row(task_name, method_name, *(str(counted[state] or "") for state in states))
    total = sum(counts.values(), Counter())
    table.add_section()
    table.add_row("all", "", *(str(total[state]) for state in states))
    console().print(table)
    raise typer.Exit(3 if total["failed"] else 0)


@app.command()
def collect(
    suite: SuiteName = "smoke",
    task: Tasks = None,
    method: Methods = None,
    concepts: Concepts = "",
    seeds: SeedRange = "",
    out: Out = Path("results/bench"),
    option: Setting = None,
    source: Annotated[list[Path] | None, typer.Option("--from", help="Another store, of a shard (repeatable).")] = None,
) -> None:
    """Write one parquet file of everything that a suite has measured."""
    cells = selected(suite, task, method, concepts, seeds, options=settings(option or []))
    store = Store(out)
    for folder in source or []:
        if not folder.is_dir():
            raise BadInputError(f"--from {folder} is no folder")
    if source:
        say(f"{bring(store, [Store(folder) for folder in source], cells)} cells brought from other folders")
    records = list(store.records(cells))
    if not records:
        raise BadInputError(f"no cell of suite {suite} is in {out}; run it first")
    path = out / f"{suite}.parquet"
    write_parquet(path, suite, records)
    print(path)
    unfinished = len(cells) - sum(record.status != "failed" for record in records)
    if unfinished:
        say(f"{unfinished} of {len(cells)} cells are missing or failed")
        raise typer.Exit(3)


@app.command("list")
def list_command() -> None:
    """List suites, tasks and methods."""
    screen = console()
    suites = Table("suite", "cells", "what", title="suites")
    for name in SUITES:
        suites.add_row(name, str(len(SUITES[name].cells())), SUITES[name].help)
    screen.print(suites)
    tasks = Table("task", "methods of", title="tasks (options after a colon: linear-synthetic:decay=2)")
    for name in TASKS:
        tasks.add_row(name, load_task(name).family)
    screen.print(tasks)
    for family in FAMILIES:
        known = Table("method", "role", "what", "settings", title=f"methods of family {family}")
        for name in methods(family):
            entry = load_method(family, name)[1]
            shown = ", ".join(f"{key}={value}" for key, value in entry.settings.items())
            known.add_row(name, entry.role, entry.pretty_name, shown)
        screen.print(known)


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of a stored cell."""
    print(json.dumps(CellRecord.model_json_schema(), indent=2))


def mount(name: str, target: str, help: str) -> None:
    """Add a command that is imported when it is called; its arguments are passed on as they are."""
    untouched = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}

    @app.command(name, help=help, add_help_option=False, context_settings=untouched)
    def forward(context: typer.Context) -> None:
        entry: Any = load(target)
        if not isinstance(entry, typer.Typer):
            function, entry = entry, typer.Typer(pretty_exceptions_enable=False, add_completion=False)
            entry.command()(function)
        command = typer.main.get_command(entry)
        code = command.main(context.args, prog_name=f"python -m bench {name}", standalone_mode=False)
        raise typer.Exit(code if isinstance(code, int) else 0)


def exists(target: str) -> bool:
    """Whether the module of "module:attribute" is part of this checkout."""
    try:
        return find_spec(target.partition(":")[0]) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


for _name, (_target, _help) in MOUNTED.items():
    if exists(_target):
        mount(_name, _target, _help)


def console() -> Console:
    """Standard output, wide enough for whole names where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160)


def main() -> None:
    """Entry point: errors that the user can mend become one line and an exit code."""
    sys.exit(commandline.run(app, "python -m bench"))
