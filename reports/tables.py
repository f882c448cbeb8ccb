"""Tables from stored results, as Markdown for a pull request and as rows for the page."""

from __future__ import annotations

from bench.metrics import METRICS
from reports import image_tables
from reports.entries import Entry, Table, anchor, chosen, estimate, method_name, number, replicated, text, to_markdown
from reports.figures.method_comparison import HEADLINES
from reports.frames import each, groups
from reports.sources import Results
from reports.statistics import mean_values, paired_difference, replications, timings
from reports.style import in_order


def all_tables(results: Results) -> list[Table]:
    """Every table that the results have numbers for."""
    found: list[Table | None] = [
        *method_tables(results),
        *image_tables.all_tables(results),
        *difference_tables(results),
    ]
    found += [smallest_rank(results), timing_table(results)]
    found += [settings_table(results), not_done(results), machines(results)]
    return [table for table in found if table is not None and table.rows]


def method_tables(results: Results) -> list[Table]:
    """One table a linear task and number of concepts: every method with t intervals over seeds."""
    cells, metric, tables = results.linear, "relative_error", []
    values = {item: replications(cells, metric, item) for item in ("final", "just_trained", "single", "forgetting")}
    others = {
        "interference ratio": mean_values(cells, "interference_ratio"),
        "leak": mean_values(cells, "leak"),
        "s a concept": timings(cells, "learn_seconds_per_concept"),
    }
    heads = (f"{METRICS[metric].pretty_name}, merged", "just trained", "alone", "forgetting", *others)
    for (task, count), group in values["final"].groupby(["task", "n_concepts"], sort=True):
        sources = [*values.values(), *others.values()]
        rows = []
        for method in in_order(group.method):
            one = group[group.method == method].iloc[0]
            numbers = [estimate(chosen(frame, task, count, method)) for frame in sources]
            rows.append((method_name(one), text(str(one.role)), *numbers))
        seeds = int(group.groupby("method").size().max())
        tables.append(
            Table(
                anchor("methods", task, f"T{count}"),
                f"{task}, T = {count}",
                f"{replicated(seeds)}; mean ± 95 % t interval; less is better; forgetting + is worse.",
                ("method", "role", *heads),
                rows,
                frozenset(range(2, 2 + len(heads))),
            )
        )
    return tables


def difference_tables(results: Results) -> list[Table]:
    """Every method minus plain SeqLoRA, on linear layers and on images."""
    found = [difference_table(results, metric) for metric in HEADLINES]
    return [table for table in found if table is not None]


def difference_table(results: Results, metric: str, reference: str = "seqlora") -> Table | None:
    """Every method minus plain SeqLoRA, paired by concepts and noise."""
    final = replications(results.cells, metric, "final")
    if not (final.method == reference).any():
        return None
    difference = paired_difference(final, reference)
    sign = 1 if METRICS[metric].orientation == "lower" else -1
    rows = []
    for row in each(difference[difference.method != reference]):
        low, high = sorted((sign * row.low, sign * row.high))
        verdict = "better than SeqLoRA" if high < 0 else "worse than SeqLoRA" if low > 0 else "not told apart"
        verdict = verdict if row.replications > 1 else "one seed"
        half = (row.high - row.low) / 2
        shown = f"{row.mean:+.3f} ± {half:.3f}" if row.replications > 1 else f"{row.mean:+.3f}"
        task = f"{row.task}, T = {row.n_concepts}"
        rows.append((text(task), method_name(row), text(str(row.role)), Entry(shown, row.mean),
                     number(row.replications), text(verdict)))  # fmt: skip
    return Table(
        f"differences-{metric}",
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


__all__ = ["Entry", "Table", "all_tables", "to_markdown"]
