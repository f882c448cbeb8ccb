"""Tables from stored results, as Markdown for a pull request and as rows for the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.metrics import METRICS
from reports.figures.method_comparison import HEADLINES
from reports.frames import each, groups
from reports.sources import Results
from reports.statistics import mean_values, paired_difference, replications, t_interval, timings
from reports.style import in_order


@dataclass(frozen=True)
class Entry:
    """What is shown in a place of a table, and by what it sorts."""

    text: str
    sort: float | str


@dataclass(frozen=True)
class Table:
    """A named table.

    Attributes:
        name: anchor and file name.
        title: heading.
        note: how to read it.
        columns: headings; those in `numeric` are aligned to the right.
        rows: one entry a column.
        numeric: indices of columns that hold numbers.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Entry, ...]]
    numeric: frozenset[int]


def text(value: str) -> Entry:
    """A word."""
    return Entry(value, value)


def number(value: float | None, digits: int = 3) -> Entry:
    """A number, `digits` significant; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return Entry("–", float("inf"))
    return Entry(f"{value:.{digits}g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.1e}", float(value))


def estimate(values: Iterable[float], decimals: int = 3) -> Entry:
    """Mean ± half of the 95 % t interval; the mean alone, and its count, where there are fewer than two values."""
    found = t_interval(np.fromiter(values, dtype=float))
    if not found.count:
        return Entry("–", float("inf"))
    if found.count == 1:
        return Entry(f"{found.mean:.{decimals}f} (1 seed)", found.mean)
    return Entry(f"{found.mean:.{decimals}f} ± {found.half:.{decimals}f}", found.mean)


def to_markdown(table: Table) -> str:
    """A pipe table with its heading and note."""
    rule = ["---:" if index in table.numeric else "---" for index in range(len(table.columns))]
    lines = [table.columns, rule, *([entry.text for entry in row] for row in table.rows)]
    body = "\n".join("| " + " | ".join(part.replace("|", "\\|") for part in line) + " |" for line in lines)
    return f"### {table.title}\n\n{table.note}\n\n{body}\n"


def all_tables(results: Results) -> list[Table]:
    """Every table that the results have numbers for."""
    found = [*method_tables(results), difference_table(results), smallest_rank(results), timing_table(results)]
    found += [settings_table(results), not_done(results), machines(results)]
    return [table for table in found if table is not None and table.rows]


def method_tables(results: Results) -> list[Table]:
    """One table a task and number of concepts: every method with t intervals over seeds."""
    cells = results.cells
    tables = []
    for metric in (name for name in HEADLINES if (cells.metric == name).any()):
        values = {item: replications(cells, metric, item) for item in ("final", "just_trained", "single", "forgetting")}
        others = {
            "interference ratio": mean_values(cells, "interference_ratio"),
            "leak": mean_values(cells, "leak"),
            "s a concept": timings(cells, "learn_seconds_per_concept"),
        }
        pretty = METRICS[metric].pretty_name
        better = "less" if METRICS[metric].orientation == "lower" else "more"
        heads = (f"{pretty}, merged", "just trained", "alone", "forgetting", *others)
        for (task, count), group in values["final"].groupby(["task", "n_concepts"], sort=True):
            rows = []
            for method in in_order(group.method):
                one = group[group.method == method].iloc[0]
                sources = [*values.values(), *others.values()]
                numbers = [estimate(_chosen(frame, task, count, method)) for frame in sources]
                rows.append((text(str(one.pretty_name)), text(str(one.role)), *numbers))
            seeds = int(group.groupby("method").size().max())
            tables.append(
                Table(
                    f"methods-{task}-T{count}".replace(":", "-").replace("=", ""),
                    f"{task}, T = {count}",
                    f"{seeds} replication{'s' * (seeds > 1)} (seeds and orders); mean ± 95 % t interval; "
                    f"{better} is better; forgetting + is worse.",
                    ("method", "role", *heads),
                    rows,
                    frozenset(range(2, 2 + len(heads))),
                )
            )
    return tables


def _chosen(frame: pd.DataFrame, task: object, count: object, method: str) -> pd.Series:
    return frame.loc[(frame.task == task) & (frame.n_concepts == count) & (frame.method == method), "value"]


def difference_table(results: Results, reference: str = "seqlora") -> Table | None:
    """Every method minus plain SeqLoRA, paired by concepts and noise."""
    cells = results.cells
    metric = next((name for name in HEADLINES if (cells.metric == name).any()), None)
    if metric is None or not (cells.method == reference).any():
        return None
    difference = paired_difference(replications(cells, metric, "final"), reference)
    sign = 1 if METRICS[metric].orientation == "lower" else -1
    rows = []
    for row in each(difference[difference.method != reference]):
        low, high = sorted((sign * row.low, sign * row.high))
        verdict = "better than SeqLoRA" if high < 0 else "worse than SeqLoRA" if low > 0 else "not told apart"
        verdict = verdict if row.replications > 1 else "one seed"
        half = (row.high - row.low) / 2
        shown = f"{row.mean:+.3f} ± {half:.3f}" if row.replications > 1 else f"{row.mean:+.3f}"
        task = f"{row.task}, T = {row.n_concepts}"
        rows.append((text(task), text(str(row.pretty_name)), text(str(row.role)), Entry(shown, row.mean),
                     number(row.replications), text(verdict)))  # fmt: skip
    return Table(
        "differences",
        f"Every method minus SeqLoRA: {METRICS[metric].pretty_name} of the merged model",
        "Paired differences over seeds and orders with 95 % t intervals, not corrected for their number.",
        ("task", "method", "role", "difference", "pairs", "by the interval"),
        rows,
        frozenset({3, 4}),
    )


def smallest_rank(results: Results) -> Table | None:
    """r* of claim C2: the smallest rank at which learned bases leak less than frozen ones, by layer."""
    data = results.table("C2", "layers")
    if data.empty:
        return None
    keys = ["source", "layer"]
    rows = []
    for (source, layer), group in groups(data, keys):
        first = group.iloc[0]
        rows.append((text(source), text(str(layer)), number(first.decay), number(first["rank"]),
                     number(first.ratio), number(first.get("ratio_measured")), number(first.rank_star)))  # fmt: skip
    return Table(
        "rank-star",
        "C2: smallest rank r* at which learned bases leak less",
        "Ratio: leak of learned over leak of frozen bases at the rank given; above 1 learned bases leak more.",
        ("source", "layer", "decay a", "rank", "ratio, worst case", "ratio, measured", "r*"),
        rows,
        frozenset(range(2, 7)),
    )


def timing_table(results: Results) -> Table:
    """Ratios against their goals."""
    rows = [
        (
            text(ratio.name),
            number(ratio.ratio),
            text(f"{ratio.low:.3g} to {ratio.high:.3g}"),
            Entry(f"{'≤' if ratio.smaller_is_better else '≥'} {ratio.goal:g}", ratio.goal),
            text("met" if ratio.goal_met else "missed"),
        )
        for ratio in results.ratios
    ]
    machine = f" Measured on {results.machine}, one thread." if results.machine else ""
    note = f"Medians over pairs timed in turn, with the least and largest.{machine}"
    return Table("timing", "Time ratios", note, ("what", "ratio", "range", "goal", "outcome"), rows, frozenset({1, 3}))


def settings_table(results: Results) -> Table:
    """What could be set otherwise, by task and method."""
    seen: dict[tuple[str, str], tuple[Entry, ...]] = {}
    for record in results.records:
        if record.status == "done":
            shown = ", ".join(f"{key} = {value}" for key, value in sorted(record.settings.items()))
            key = (record.cell.task, record.cell.method)
            seen[key] = (text(key[0]), text(record.pretty_name), text(record.role), text(shown))
    rows = [seen[key] for task in dict.fromkeys(key[0] for key in seen)
            for key in [(task, name) for name in in_order(k[1] for k in seen if k[0] == task)]]  # fmt: skip
    note = "The budget is the same for every method of a task; what differs is what the method is."
    return Table("settings", "Settings", note, ("task", "method", "role", "settings"), rows, frozenset())


def not_done(results: Results) -> Table:
    """Cells without a result: failed, or skipped because they do not fit."""
    cells = results.cells[results.cells.kind == "status"]
    rows = [
        (text(f"{row.task} {row.method} T={row.n_concepts} seed={row.seed}"), text(row.status), text(row.item))
        for row in each(cells)
    ]
    note = "A failed cell is a result; it is never run again with another seed."
    return Table("not-done", "Cells that failed or were skipped", note, ("cell", "status", "reason"), rows, frozenset())


def machines(results: Results) -> Table:
    """Where the cells were computed."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for record in results.records:
        p = record.provenance
        revision = f"{(p.git_revision or 'no checkout')[:12]}{' (changed)' if p.git_dirty else ''}"
        key = (record.fingerprint, revision, p.cpu, p.device, f"{p.threads}", p.dtype, p.python)
        groups.setdefault(key, []).append(p.created_utc)
    rows = [
        (*(text(part) for part in key), number(len(dates)), text(f"{min(dates)[:10]} to {max(dates)[:10]}"))
        for key, dates in groups.items()
    ]
    note = "Cells with the same fingerprint must agree to rounding."
    heads = ("fingerprint", "revision", "processor", "device", "threads", "precision", "Python", "cells", "dates")
    return Table("machines", "Where it was computed", note, heads, rows, frozenset({7}))
