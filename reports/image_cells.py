"""Which image cells a figure or table shows, and how their tasks and methods are named."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from bench.options import split_name
from bench.schema import CellRecord

GAMMA_CURVE = ("seqlora", "seqlora-penalty")  # the same method but for the weight of its penalty


def longest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one number of concepts a task: the largest that compares methods and was run more than once, if one was.

    A number that fewer than half as many methods reached as the most compared one is for other figures.

    Args:
        rows: with columns task, method, n_concepts, order and seed.
    """
    chosen = {}
    for task, group in rows.groupby("task", sort=False):
        runs = group[["n_concepts", "order", "seed"]].drop_duplicates().groupby("n_concepts").size()
        several = runs[runs > 1]
        counts = group.groupby("n_concepts").method.nunique()[(several if len(several) else runs).index]
        chosen[task] = counts[2 * counts >= counts.max()].index.max()
    return rows[rows.n_concepts == rows.task.map(chosen)]


def off_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without variants of a method in γ alone, where the method itself is there: they belong to γ's curve.

    Args:
        rows: with column method.
    """
    known = set(rows.method)
    parts = {method: split_name(method) for method in known}
    bent = {
        method
        for method, (kind, options) in parts.items()
        if kind in known.intersection(GAMMA_CURVE) and options.startswith("gamma=") and "," not in options
    }
    return rows[~rows.method.isin(bent)]


def names(tasks: Iterable[str]) -> dict[str, str]:
    """A short name for every task: its kind, and of its options those that not all tasks of the kind share."""
    options: dict[str, dict[str, list[str]]] = {}  # kind -> task -> options
    for task in tasks:
        kind, text = split_name(task)
        options.setdefault(kind, {})[task] = [option for option in text.split(",") if option]
    short = {}
    for kind, members in options.items():
        shared = set.intersection(*(set(own) for own in members.values()))
        for task, own in members.items():
            short[task] = " ".join([kind, *(option for option in own if option not in shared)])
    return short


def gammas(records: Iterable[CellRecord]) -> dict[str, float]:
    """Weight of the forgetting penalty of every SeqLoRA variant with orthogonal bases, by method."""
    found = {}
    for record in records:
        if split_name(record.cell.method)[0] in GAMMA_CURVE:
            found[record.cell.method] = float(record.settings.get("gamma") or 0.0)
    return found
