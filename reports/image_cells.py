"""Which image cells a figure or table shows, and how their tasks and methods are named."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from bench.options import split_name
from bench.schema import CellRecord
from reports.statistics import by_concepts

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


def with_pictures(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column `pictures`: what those that were learnt from score themselves, NaN where no cell says it.

    Args:
        rows: with columns task and n_concepts.
        cells: all image cells.
    """
    own = by_concepts(cells, "identity_real")
    return rows.assign(pictures=[own.get(key, np.nan) for key in zip(rows.task, rows.n_concepts, strict=True)])


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
        if options and kind in known.intersection(GAMMA_CURVE) and _only_gamma(options)
    }
    return rows[~rows.method.isin(bent)]


def _only_gamma(options: str) -> bool:
    """Whether nothing but γ was set, if anything was."""
    return not options or (options.startswith("gamma=") and "," not in options)


def names(tasks: Iterable[str]) -> dict[str, str]:
    """A short name for every task: its kind, and one option that tells all tasks of the kind apart.

    Where no single one does, those options that not all tasks of the kind share.
    """
    options: dict[str, dict[str, list[str]]] = {}  # kind -> task -> options
    for task in tasks:
        kind, text = split_name(task)
        options.setdefault(kind, {})[task] = [option for option in text.split(",") if option]
    short: dict[str, str] = {}
    for kind, members in options.items():
        shared = set.intersection(*(set(own) for own in members.values()))
        different = {task: [option for option in own if option not in shared] for task, own in members.items()}
        short |= {task: " ".join([kind, *own]) for task, own in _telling(different).items()}
    return short


def _telling(options: dict[str, list[str]]) -> dict[str, list[str]]:
    """Of every task's options those of one name, if it differs between any two tasks (absent is a value), else all."""
    for key in dict.fromkeys(option.partition("=")[0] for own in options.values() for option in own):
        alone = {task: [o for o in own if o.partition("=")[0] == key] for task, own in options.items()}
        if len(set(map(tuple, alone.values()))) == len(alone):
            return alone
    return options


def gammas(records: Iterable[CellRecord]) -> dict[str, float]:
    """Weight of the forgetting penalty of SeqLoRA and its variants in γ alone, by method."""
    found = {}
    for record in records:
        kind, options = split_name(record.cell.method)
        if kind in GAMMA_CURVE and _only_gamma(options):
            found[record.cell.method] = float(record.settings.get("gamma") or 0.0)
    return found
