"""How the gated numbers moved from revision to revision."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from bench.regression.numbers import GATED
from reports.figures.api import FigureSpec
from reports.frames import distinct, groups
from reports.image_cells import names
from reports.sources import HISTORY, Results
from reports.statistics import LEVEL
from reports.style import headline, in_order, legend_below, look, panels

COLUMNS = [*HISTORY, "low", "high"]
KEYS = ["task", "n_concepts", "number"]
MOST = 10  # labels of revisions that fit under a panel


def select(results: Results) -> pd.DataFrame:
    """One row a revision, group of cells and gated number, with its t interval over seeds; oldest first."""
    data = results.history.dropna(subset=["mean"])
    if data.empty:
        return pd.DataFrame(columns=COLUMNS)
    t = stats.t.ppf((1 + LEVEL) / 2, np.maximum(data.seeds - 1, 1))
    half = pd.Series(t, data.index, dtype=float) * data.sd / np.sqrt(data.seeds)
    return data.assign(low=data["mean"] - half, high=data["mean"] + half).reindex(columns=COLUMNS)


def describe(data: pd.DataFrame) -> str:
    """Which numbers left the interval of the revision before, at the last one, and in which direction."""
    revisions = list(dict.fromkeys(data.revision))
    if len(revisions) < 2:
        return f"One revision is recorded, {str(revisions[0])[:10]}, with {len(data)} gated numbers"
    moved = []
    for (_, _, number, method), part in groups(data, [*KEYS, "method"]):
        part = part.drop_duplicates("revision", keep="last")
        if len(part) > 1 and (part["mean"].iloc[-1] > part.high.iloc[-2] or part["mean"].iloc[-1] < part.low.iloc[-2]):
            worse = (part["mean"].iloc[-1] > part["mean"].iloc[-2]) == (part.better.iloc[-1] == "lower")
            change = f"{part['mean'].iloc[-2]:.3g} to {part['mean'].iloc[-1]:.3g}, {'worse' if worse else 'better'}"
            moved.append(f"{look(str(method)).label} {_pretty(number)} {change}")
    told = "; ".join(moved[:4]) + (f" and {len(moved) - 4} more" if len(moved) > 4 else "")
    return f"{len(revisions)} revisions; outside the interval before at the last one: {told or 'no number'}"


def _pretty(number: str) -> str:
    return GATED[number].pretty_name if number in GATED else number


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a task, length and number; one line a method."""
    keys, short = distinct(data, KEYS), names(data.task)
    revisions = list(dict.fromkeys(data.revision))
    figure, axes = panels(len(keys), narrow, columns=3, height=2.4)
    for panel, (task, count, number) in zip(axes, keys, strict=True):
        part = data[(data.task == task) & (data.n_concepts == count) & (data.number == number)]
        _lines(panel, part, revisions)
        panel.set_title(f"{_pretty(number)}\n{short[task]}, T = {count}", fontsize=7.5)
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _lines(panel: Axes, data: pd.DataFrame, revisions: list[str]) -> None:
    for index, method in enumerate(in_order(data.method)):
        style = look(method, index)
        part = data[data.method == method].drop_duplicates("revision", keep="last")
        places = [revisions.index(revision) for revision in part.revision]
        spread = np.nan_to_num([part["mean"] - part.low, part.high - part["mean"]])
        panel.errorbar(places, part["mean"], yerr=spread, color=style.colour, marker=style.marker, mfc=style.face,
                       linewidth=1, elinewidth=0.8, capsize=0, label=style.label)  # fmt: skip
    every = -(-len(revisions) // MOST)
    panel.set_xticks(range(0, len(revisions), every), [str(name)[:7] for name in revisions[::every]], rotation=45)
    panel.set_xlim(-0.5, len(revisions) - 0.5)


FIGURE = FigureSpec(
    name="history",
    title="Gated numbers, revision by revision",
    section="past",
    inputs=("history",),
    select=select,
    headline=describe,
    caption=(
        "Means over seeds with 95 % t intervals, oldest revision left. A change counts as a regression only if "
        "`python -m bench compare` says so: paired by seed, corrected for the number of gates, beyond the margin."
    ),
    draw=draw,
)
