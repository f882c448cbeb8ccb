"""Means and t intervals over seeds: the unit of replication is the seed and order, never a prompt or an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from reports.frames import groups

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over `count` replications and its two-sided t interval; without width if there is but one."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half of its width, NaN for one replication."""
        return (self.high - self.low) / 2


def t_interval(values: pd.Series | np.ndarray, level: float = LEVEL) -> Interval:
    """`mean ± t_{(1+level)/2, k-1} s / √k`; NaN limits for one value, all NaN for none."""
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if len(x) < 2:
        mean = float(x[0]) if len(x) else float("nan")
        return Interval(mean, float("nan"), float("nan"), len(x))
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


AXES = ["task", "method", "pretty_name", "role", "n_concepts"]


def replications(cells: pd.DataFrame, metric: str, item: str) -> pd.DataFrame:
    """One number a cell: a derived quantity of the whole model's R matrix, e.g. ("relative_error", "final")."""
    whole = (cells.kind == "derived") & (cells.metric == metric) & (cells.item == item) & (cells.layer == "")
    return cells.loc[whole, [*AXES, "order", "seed", "value"]]


def mean_values(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One number a cell: the mean over layers and concepts of a long-form value, e.g. "interference_ratio"."""
    rows = cells[(cells.kind == "value") & (cells.metric == metric)]
    by_layer = rows.groupby([*AXES, "order", "seed", "layer"], sort=False).value.mean()
    return by_layer.groupby([*AXES, "order", "seed"], sort=False).mean().reset_index()


def largest_values(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One number a cell: the largest of a long-form value, e.g. of "cross_similarity" over pairs of concepts."""
    rows = cells[(cells.kind == "value") & (cells.metric == metric)]
    return rows.groupby([*AXES, "order", "seed"], sort=False).value.max().reset_index()


def by_concepts(cells: pd.DataFrame, metric: str) -> dict[tuple[str, int], float]:
    """(task, number of concepts) -> mean of a long-form value that no method changes, where a cell has it."""
    rows = cells[(cells.kind == "value") & (cells.metric == metric)]
    means = rows.groupby(["task", "n_concepts"], sort=False).value.mean()
    return {(str(task), int(count)): float(value) for (task, count), value in means.items()}


def timings(cells: pd.DataFrame, name: str) -> pd.DataFrame:
    """One number a cell: a timing."""
    return cells.loc[(cells.kind == "timing") & (cells.metric == name), [*AXES, "order", "seed", "value"]]


def intervals(values: pd.DataFrame, by: list[str] | None = None) -> pd.DataFrame:
    """Intervals over seeds and orders, one row a task, method and number of concepts, in the order of the table."""
    rows = []
    keys = by or AXES
    for key, group in groups(values, keys):
        found = t_interval(group.value)
        rows.append({**dict(zip(keys, key, strict=True)), "mean": found.mean, "low": found.low, "high": found.high,
                     "replications": found.count})  # fmt: skip
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "replications"])


def paired_difference(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every method minus `reference` on the same task, concepts, order and seed, with t intervals of the difference."""
    keys = ["task", "n_concepts", "order", "seed"]
    anchor = values[values.method == reference].set_index(keys).value.rename("anchor")
    joined = values.join(anchor, on=keys, how="inner")
    return intervals(joined.assign(value=joined.value - joined.anchor))
