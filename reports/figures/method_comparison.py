"""Every method on every linear task: final error and forgetting, with intervals over seeds."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import METRICS
from reports.figures.api import FigureSpec
from reports.frames import distinct, each, groups
from reports.sources import Results
from reports.statistics import intervals, replications
from reports.style import INK, headline, look, panels, plain_ticks

HEADLINES = ("relative_error", "identity")  # what tables rank methods by: on linear layers, and on images
COLUMNS = ["task", "n_concepts", "metric", "quantity", "method", "role", "mean", "low", "high", "replications"]
QUANTITIES = {"final": "after the last concept", "forgetting": "forgetting"}


def select(results: Results) -> pd.DataFrame:
    """Final value and forgetting of the relative error, at the longest sequence of every task."""
    metric, parts = "relative_error", []
    for quantity in QUANTITIES:
        found = intervals(replications(results.linear, metric, quantity))
        parts.append(found.assign(metric=metric, quantity=quantity))
    data = pd.concat(parts, ignore_index=True)
    if len(data):
        data = data[data.n_concepts == data.groupby("task").n_concepts.transform("max")]
    return data.reindex(columns=COLUMNS).dropna(subset=["mean"])


def describe(data: pd.DataFrame) -> str:
    """Who is best, and where SeqLoRA stands with and without penalty, by task; references do not count."""
    says = []
    for (task, metric), group in groups(data[data.quantity == "final"], ["task", "metric"]):
        order = ranking(group[group.role != "reference"], metric)
        places = {"SeqLoRA": "seqlora", "with penalty": "seqlora-penalty"}
        where = [f"{name} {ordinal(order.index(key) + 1)}" for name, key in places.items() if key in order]
        says.append(
            f"{task}: {look(order[0]).label} is best of {len(order)}" + (", " if where else "") + ", ".join(where)
        )
    return "; ".join(says)


def ranking(final: pd.DataFrame, metric: str) -> list[str]:
    """Methods from best to worst."""
    return list(final.sort_values("mean", ascending=METRICS[metric].orientation == "lower", kind="stable").method)


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """A row of panels a task: final value left, forgetting right; methods from best to worst."""
    tasks = distinct(data, ["task", "metric"])
    most = max(data[data.task == task].method.nunique() for task, _ in tasks)
    figure, axes = panels(len(tasks) * 2, narrow, columns=2, height=dots_height(most, narrow))
    for index, (task, metric) in enumerate(tasks):
        group = data[(data.task == task) & (data.metric == metric)]
        order = ranking(group[group.quantity == "final"], metric)
        for column, (quantity, label) in enumerate(QUANTITIES.items()):
            panel = axes[2 * index + column]
            dots(panel, group[group.quantity == quantity], order, narrow, named=column == 0)
            name = METRICS[metric].pretty_name
            panel.set_xlabel(f"{name}, {label}" if quantity == "final" else f"{label} (+ is worse)")
            if quantity == "final" and metric == "relative_error":
                panel.axvline(1, color=INK, linewidth=1, linestyle="--")
        count = int(group.replications.max())
        axes[2 * index].set_title(f"{task}, T = {group.n_concepts.iloc[0]}, {count} replication{'s' * (count != 1)}")
    headline(figure, describe(data))
    return figure


def dots_height(methods: int, narrow: bool) -> float:
    """Inches of a panel with one row a method; on a phone some names take two lines."""
    return 0.75 + (0.22 if narrow else 0.185) * methods


def dots(
    panel: Axes, data: pd.DataFrame, order: list[str], narrow: bool, named: bool, logarithmic: bool = True
) -> None:
    """One row a method: mean and interval; controls and references are marked, SeqLoRA's names are bold.

    Args:
        panel: where.
        data: one row a method.
        order: methods from top to bottom.
        narrow: for a phone: every panel has the names, in lines that leave room for the numbers.
        named: whether a page has them at this panel, too.
        logarithmic: whether a wide range of positive values may be drawn on a logarithmic axis.
    """
    lowest, highest = data["mean"].min(), data["mean"].max()
    logarithmic = logarithmic and lowest > 0 and highest / lowest > 20
    for row in each(data):
        style = look(str(row.method), order.index(str(row.method)))
        spread = None if np.isnan(row.low) else [[row.mean - row.low], [row.high - row.mean]]
        panel.errorbar(row.mean, order.index(str(row.method)), xerr=spread, color=style.colour, marker=style.marker,
                       mfc=style.face, elinewidth=1.2)  # fmt: skip
    if logarithmic:
        panel.set_xscale("log")
        plain_ticks(panel, "x")
    else:
        panel.axvline(0, color=INK, linewidth=0.8)
    marks = {row.method: " (c)" if row.role == "control" else " (ref)" if row.role == "reference" else ""
             for row in each(data)}  # fmt: skip
    names = [f"{look(name, k).label}{marks.get(name, '')}" for k, name in enumerate(order)]
    if narrow:
        names = [textwrap.fill(name, 26, break_on_hyphens=False) for name in names]
    panel.set_yticks(range(len(order)), names if named or narrow else [""] * len(order))
    for tick, name in zip(panel.get_yticklabels(), order, strict=True):
        tick.set_fontweight("bold" if name.startswith("seqlora") else "normal")
    panel.set_ylim(len(order) - 0.4, -0.6)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{suffix}"


FIGURE = FigureSpec(
    name="method_comparison",
    title="Merged error and forgetting of every method",
    section="methods",
    inputs=("bench",),
    select=select,
    headline=describe,
    caption=(
        "Mean over seeds and its 95 % t interval (no bar: too few seeds), methods from best to worst by the left "
        "panel. (c) marks controls, (ref) references that no continual method can use. Relative error 1 (dashed) is "
        "the untrained base: right of it, the merged model is worse than no adapter at all. Methods of the same task "
        "saw the same concepts and noise."
    ),
    draw=draw,
)
