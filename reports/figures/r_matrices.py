"""R[t, j] on linear layers: the error on every concept after every stage, one heat map a method."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import METRICS
from reports.figures.api import FigureSpec
from reports.frames import distinct
from reports.image_cells import names
from reports.sources import Results
from reports.style import CHEAP, headline, in_order, look, panels

COLUMNS = ["task", "metric", "n_concepts", "method", "stage", "concept", "value", "replications"]
LARGEST = 8  # stages that fit with numbers in them


def select(results: Results) -> pd.DataFrame:
    """Means over seeds of the lower triangle; of each task, the longest sequence that fits."""
    whole = triangles(results.linear, "relative_error")
    real = [name for name in whole.task.unique() if not name.startswith("linear-synthetic")]
    return means(whole[whole.task.isin(real or list(whole.task[:1]))])


def triangles(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Lower triangles of R of the continual methods, at the longest sequence of each task that fits."""
    whole = cells[(cells.kind == "matrix") & (cells.layer == "") & (cells.metric == metric)]
    whole = whole[(whole.stage >= whole.concept) & (whole.n_concepts <= LARGEST) & (whole.role != "reference")]
    return whole[whole.n_concepts == whole.groupby("task").n_concepts.transform("max")]


def means(whole: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, methods in the order of the legend."""
    if whole.empty:
        return pd.DataFrame(columns=COLUMNS)
    keys = ["task", "metric", "n_concepts", "method", "stage", "concept"]
    found = whole.groupby(keys, sort=False).value.agg(["mean", "count"]).reset_index()
    found = found[found.method != "base"]  # one number everywhere
    found = found.sort_values("method", key=lambda names: names.map(in_order(names).index), kind="stable")
    return found.rename(columns={"mean": "value", "count": "replications"})[COLUMNS]


def describe(data: pd.DataFrame) -> str:
    """How the first concept ends, by method, best and worst."""
    last = data[(data.concept == 0) & (data.stage == data.n_concepts - 1)]
    first = last[last.task == last.task.iloc[0]]
    metric = METRICS[first.metric.iloc[0]]
    ranked = first.sort_values("value", ascending=metric.orientation == "lower")
    best, worst, task = ranked.iloc[0], ranked.iloc[-1], names(data.task)[first.task.iloc[0]]
    return (
        f"After {best.n_concepts} concepts the first one has {metric.pretty_name} {best.value:.2f} with "
        f"{look(best.method).label} and {worst.value:.2f} with {look(worst.method).label} ({task})"
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Small multiples on one colour scale a metric, numbers in the cells."""
    keys, told = distinct(data, ["task", "metric", "method"]), _apart(data)
    few = data.n_concepts.max() <= 4
    height = 2.6 if narrow and not few else 1.75
    figure, axes = panels(len(keys), narrow, columns=4, narrow_columns=2 if few else 1, height=height)
    for panel, (task, metric, method) in zip(axes, keys, strict=True):
        part = data[(data.task == task) & (data.metric == metric)]
        low, high = _limits(part.value, METRICS[metric].orientation)
        one = part[part.method == method].pivot(index="stage", columns="concept", values="value")
        _heat(panel, one.to_numpy(), low, high, METRICS[metric].orientation == "lower", 7.5 if narrow else 5.0)
        panel.set_title(look(method).label + told[task], fontsize=7 if narrow else 7.5)
    axes[0].set_ylabel("after stage t")
    axes[0].set_xlabel("concept j")
    headline(figure, describe(data))
    engine = figure.get_layout_engine()
    if narrow and engine is not None:
        engine.set(w_pad=0.1, h_pad=0.1)  # type: ignore[call-arg]  # square panels reach past what the layout reserves
    return figure


def _apart(data: pd.DataFrame) -> dict[str, str]:
    """What tells the tasks apart below a title: nothing, the number of concepts, or the short name."""
    counts = data.groupby("task").n_concepts.first()
    if len(counts) == 1:
        return dict.fromkeys(counts.index, "")
    if counts.is_unique:
        return {task: f"\nT = {count}" for task, count in counts.items()}
    return {task: f"\n{name}" for task, name in names(data.task).items()}


def _limits(values: pd.Series, orientation: str) -> tuple[float, float]:
    """One scale for all methods; errors above twice the untrained base are one colour, their numbers say the rest."""
    return (0.0, min(2.0, float(values.max()))) if orientation == "lower" else (min(0.0, float(values.min())), 1.0)


def _heat(panel: Axes, R: np.ndarray, low: float, high: float, lower_is_better: bool, size: float) -> None:
    T = len(R)
    panel.pcolormesh(np.ma.masked_invalid(R), cmap=CHEAP if lower_is_better else f"{CHEAP}_r", vmin=low, vmax=high,
                     edgecolors="none", linewidth=0, antialiased=False)  # fmt: skip
    for t, j in zip(*np.nonzero(~np.isnan(R)), strict=True):
        share = np.clip((R[t, j] - low) / (high - low), 0, 1)
        dark = (share > 0.55) == lower_is_better
        text = f"{R[t, j]:.2f}" if abs(R[t, j]) < 10 else f"{R[t, j]:.0f}"
        panel.text(j + 0.5, t + 0.5, text.replace("0.", "."), ha="center", va="center", fontsize=size,
                   color="#fefefe" if dark else "#010101")  # fmt: skip
    panel.set(xlim=(0, T), ylim=(T, 0), aspect="equal")
    panel.set_xticks(np.arange(T) + 0.5, [str(k + 1) for k in range(T)])
    panel.set_yticks(np.arange(T) + 0.5, [str(k + 1) for k in range(T)])
    panel.tick_params(length=0, labelsize=6.5)
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)


FIGURE = FigureSpec(
    name="r_matrices",
    title="R matrices: the error on every concept after every stage",
    section="methods",
    inputs=("bench",),
    select=select,
    headline=describe,
    caption=(
        "Row t: after t concepts were learnt; column j: the metric on concept j, mean over seeds. Down a column "
        "one sees a concept being forgotten; the diagonal is what it was like just trained. One colour scale for all "
        "methods; relative errors of 2 and more share the last colour. 1 is the untrained base."
    ),
    draw=draw,
)
