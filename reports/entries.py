"""What a table is made of: entries that know how they sort, numbers with their intervals, and its Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.options import labelled
from reports.statistics import t_interval


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


def method_name(row: Any) -> Entry:
    """A method's name in words, with the settings that were changed."""
    return text(labelled(str(row.pretty_name), str(row.method)))


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
    return f"### {table.title}\n\n{table.note}\n\n{pipes(table.columns, table.rows, table.numeric)}"


def pipes(columns: Sequence[str], rows: Sequence[Sequence[Entry]], numeric: frozenset[int]) -> str:
    """The table alone."""
    rule = ["---:" if index in numeric else "---" for index in range(len(columns))]
    lines = [columns, rule, *([entry.text for entry in row] for row in rows)]
    return "".join("| " + " | ".join(part.replace("|", "\\|") for part in line) + " |\n" for line in lines)


def replicated(count: int) -> str:
    """How often something was repeated, in words."""
    return f"{count} replication{'s' * (count > 1)} (seeds and orders)"


def chosen(frame: pd.DataFrame, task: object, count: object, method: str) -> pd.Series:
    """One number a seed and order, of one method on one task."""
    return frame.loc[(frame.task == task) & (frame.n_concepts == count) & (frame.method == method), "value"]


def anchor(*parts: object) -> str:
    """An id of a table: what stands in a name of a task and not in an id becomes a hyphen."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(str(part) for part in parts))
