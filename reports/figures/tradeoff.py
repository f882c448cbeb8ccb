"""Every method as a point: what it learns of a concept, and what later concepts then change."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import each
from reports.sources import Results
from reports.statistics import AXES, intervals, replications
from reports.style import FAINT, headline, in_order, legend_below, look, panels

COLUMNS = ["task", "n_concepts", "method", "role", "adaptation", "adaptation_low", "adaptation_high", "forgetting",
           "forgetting_low", "forgetting_high", "replications"]  # fmt: skip

WATCHED = ("seqlora", "seqlora-penalty", "penalty-only")


def select(results: Results) -> pd.DataFrame:
    """Just-trained gain and forgetting energy, at the longest sequence of every linear task."""
    cells = results.linear
    gain = replications(cells, "relative_error", "just_trained")
    gain = intervals(gain.assign(value=1 - gain.value))
    lost = intervals(_changed(cells))
    if gain.empty or lost.empty:
        return pd.DataFrame(columns=COLUMNS)
    data = gain.merge(lost, on=AXES, suffixes=("_a", "_f"))
    data = data.rename(columns={"mean_a": "adaptation", "low_a": "adaptation_low", "high_a": "adaptation_high",
                                "mean_f": "forgetting", "low_f": "forgetting_low", "high_f": "forgetting_high",
                                "replications_a": "replications"})  # fmt: skip
    data = data[data.n_concepts == data.groupby("task").n_concepts.transform("max")]
    return data.loc[data.method != "base", COLUMNS]


def _changed(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean over the earlier concepts of R[T, j] of the output change, one number a cell."""
    rows = cells[(cells.kind == "matrix") & (cells.metric == "output_change") & (cells.layer == "")]
    rows = rows[(rows.stage == rows.n_concepts - 1) & (rows.concept < rows.stage)]
    return rows.groupby([*AXES, "order", "seed"], sort=False).value.mean().reset_index()


def describe(data: pd.DataFrame) -> str:
    """On how many tasks SeqLoRA, with and without penalty, is beaten in both by another continual method."""
    group = data[data.role != "reference"]
    tasks = data.task.nunique()
    beaten = {name: 0 for name in WATCHED if (group.method == name).any()}
    for row in each(group[group.method.isin(WATCHED)]):
        rivals = group[group.task == row.task]
        beaten[row.method] += int(((rivals.adaptation > row.adaptation) & (rivals.forgetting < row.forgetting)).any())
    texts = [f"{look(name).label} on {count} of {tasks}" for name, count in beaten.items()]
    return f"Beaten by another method in both adaptation and forgetting: {', '.join(texts)} tasks"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a task."""
    tasks = list(dict.fromkeys(data.task))
    figure, axes = panels(len(tasks), narrow, columns=3, height=2.9)
    for panel, task in zip(axes, tasks, strict=True):
        group = data[data.task == task]
        for index, method in enumerate(in_order(group.method)):
            _point(panel, group[group.method == method].iloc[0], index)
        panel.set(xscale="log", xlabel="forgetting energy", title=f"{task}\nT = {group.n_concepts.iloc[0]}")
        panel.axhline(0, color=FAINT, linewidth=0.8)
    axes[0].set_ylabel("adaptation, just trained")
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _point(panel: Axes, row: pd.Series, index: int) -> None:
    style = look(str(row.method), index)
    error: dict[str, Any] = {}
    if row.replications > 1:
        low = min(row.forgetting - row.forgetting_low, row.forgetting * 0.9)  # a log axis has no zero
        error = {
            "xerr": [[low], [row.forgetting_high - row.forgetting]],
            "yerr": [[row.adaptation - row.adaptation_low], [row.adaptation_high - row.adaptation]],
        }
    panel.errorbar(max(row.forgetting, 1e-12), row.adaptation, **error, color=style.colour, marker=style.marker,
                   mfc=style.face, linestyle="none", elinewidth=0.9, capsize=0, label=style.label)  # fmt: skip


FIGURE = FigureSpec(
    name="tradeoff",
    title="Adaptation against forgetting of whole sequences, every method",
    section="methods",
    inputs=("bench",),
    select=select,
    headline=describe,
    caption=(
        "Whole sequences of T concepts, averaged over layers (C8: one last step against its optimum). Up: share of "
        "what a concept wants that the model gives right after learning it, on held-out activations. "
        "Across: how much later stages changed that concept's output, ‖(M_T - M_j) X_j‖² / ‖Y_j‖² (log). Up and left "
        "is better. Mean over seeds and 95 % t intervals."
    ),
    draw=draw,
)
