"""Adaptation against forgetting on images: SeqLoRA's curve over the penalty weight, every other method a point."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from reports.figures.api import FigureSpec
from reports.frames import each
from reports.image_cells import gammas, longest, names, off_curve
from reports.sources import IMAGE_METRIC, Results
from reports.statistics import AXES, intervals, replications
from reports.style import BLUE, FAINT, PAPER, headline, in_order, legend_below, look, panels

COLUMNS = ["task", "n_concepts", "method", "role", "gamma", "adaptation", "adaptation_low", "adaptation_high",
           "forgetting", "forgetting_low", "forgetting_high", "replications"]  # fmt: skip

CORNERS = ((5, 4), (5, -9), (-5, 4), (-5, -9))  # from a marker to its label in points, in turns: they lie close


def select(results: Results) -> pd.DataFrame:
    """Just-trained identity and its loss until the last stage, at one number of people a task."""
    gain = replications(results.images, IMAGE_METRIC, "just_trained")
    lost = replications(results.images, IMAGE_METRIC, "forgetting")
    if gain.empty or lost.empty:
        return pd.DataFrame(columns=COLUMNS)
    gain, lost = intervals(longest(gain)), intervals(longest(lost))
    data = gain.merge(lost, on=AXES, suffixes=("_a", "_f"))
    data = data.rename(columns={"mean_a": "adaptation", "low_a": "adaptation_low", "high_a": "adaptation_high",
                                "mean_f": "forgetting", "low_f": "forgetting_low", "high_f": "forgetting_high",
                                "replications_a": "replications"})  # fmt: skip
    return data.assign(gamma=data.method.map(gammas(results.records)))[COLUMNS]


def describe(data: pd.DataFrame) -> str:
    """Of SeqLoRA without and with penalty, how many methods are at least as good in both and better in one."""
    says, short = [], names(data.task)
    for task in dict.fromkeys(data.task):
        group = data[data.task == task]
        curve = off_curve(group[group.gamma.notna()]).sort_values("gamma")
        texts = [f"{_beaten(group, row)} beat SeqLoRA with γ = {row.gamma:g}" for row in each(curve)]
        said = f"of {len(group) - 1} other methods {', '.join(texts)} in both" if texts else "SeqLoRA was not run"
        says.append(f"{short[task]}, T = {group.n_concepts.iloc[0]}: {said}")
    return "; ".join(says)


def _beaten(group: pd.DataFrame, row: pd.Series) -> int:
    return int(((group.adaptation > row.adaptation) & (group.forgetting < row.forgetting)).sum())


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a task."""
    tasks, short = list(dict.fromkeys(data.task)), names(data.task)
    figure, axes = panels(len(tasks), narrow, columns=2, height=3.4)
    for panel, task in zip(axes, tasks, strict=True):
        group = data[data.task == task]
        _curve(panel, group[group.gamma.notna()].sort_values("gamma"))
        named = set(off_curve(group).method)
        for index, method in enumerate(in_order(group.method)):
            _point(panel, group[group.method == method].iloc[0], index, method in named)
        panel.axvline(0, color=FAINT, linewidth=0.8)
        panel.set(xlabel="forgetting of identity", title=f"{short[task]}, T = {group.n_concepts.iloc[0]}")
        panel.margins(0.12)
    axes[0].set_ylabel("identity, just trained")
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _curve(panel: Axes, curve: pd.DataFrame) -> None:
    """SeqLoRA over γ, with its weights beside the points."""
    if len(curve) > 1:
        panel.plot(curve.forgetting, curve.adaptation, color=BLUE, linewidth=1.2, label="SeqLoRA over γ")
    for place, row in enumerate(each(curve)):
        text = f"{'' if place else 'γ = '}{row.gamma:g}"
        x, y = CORNERS[place % len(CORNERS)]
        panel.annotate(text, (row.forgetting, row.adaptation), (x, y), textcoords="offset points", fontsize=7,
                       fontweight="bold", ha="left" if x > 0 else "right",
                       path_effects=[withStroke(linewidth=2, foreground=PAPER)])  # fmt: skip


def _point(panel: Axes, row: pd.Series, index: int, named: bool) -> None:
    style = look(str(row.method), index)
    error: dict[str, Any] = {}
    if row.replications > 1:
        error = {
            "xerr": [[row.forgetting - row.forgetting_low], [row.forgetting_high - row.forgetting]],
            "yerr": [[row.adaptation - row.adaptation_low], [row.adaptation_high - row.adaptation]],
        }
    panel.errorbar(row.forgetting, row.adaptation, **error, color=style.colour, marker=style.marker, mfc=style.face,
                   linestyle="none", elinewidth=0.7, capsize=0, label=style.label if named else None)  # fmt: skip


FIGURE = FigureSpec(
    name="image_tradeoff",
    title="Adaptation against forgetting of identity, over γ",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Up: identity of a person just trained, mean of R[j, j]. Across: what is lost until the last stage, mean of "
        "R[j, j] - R[T, j]. Up and left is better; a method that never learns lies at the lower left and forgets "
        "nothing. The line joins SeqLoRA at γ = 0 (orthogonality alone) and with the forgetting penalty of weight γ. "
        "95 % t intervals over seeds where there are several."
    ),
    draw=draw,
)
