"""Measured time ratios and their goals."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import each
from reports.sources import Results
from reports.style import BLUE, INK, RED, headline, panels, plain_ticks

COLUMNS = ["name", "ratio", "low", "high", "goal", "smaller_is_better", "goal_met"]


def select(results: Results) -> pd.DataFrame:
    """Every ratio with its range over rounds."""
    return pd.DataFrame([ratio.model_dump() for ratio in results.ratios]).reindex(columns=COLUMNS)


def describe(data: pd.DataFrame) -> str:
    """How many goals are met."""
    met = int(data.goal_met.sum())
    return f"{met} of {len(data)} time goals are met" + ("" if met == len(data) else f", {len(data) - met} are missed")


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One row a ratio: point and range, goal as a bracket that opens towards the good side."""
    figure, (panel,) = panels(1, narrow, height=0.8 + (0.55 if narrow else 0.42) * len(data))
    labels = []
    for place, row in enumerate(each(data)):
        colour = BLUE if row.goal_met else RED
        spread = [[row.ratio - row.low], [row.high - row.ratio]]
        panel.errorbar(row.ratio, place, xerr=spread, color=colour, marker="o" if row.goal_met else "X", elinewidth=1.2)
        panel.plot(row.goal, place, color=INK, marker="<" if row.smaller_is_better else ">", markersize=8, mfc="none")
        sign = "≤" if row.smaller_is_better else "≥"
        text = f"{row.ratio:.3g}×, goal {sign} {row.goal:g}: {'met' if row.goal_met else 'missed'}"
        panel.annotate(text, (row.ratio, place), (0, 7), textcoords="offset points", ha="center", fontsize=7.5)
        labels.append("\n".join(textwrap.wrap(str(row.name), 22 if narrow else 42)))
    panel.set(xscale="log", xlabel="ratio (log)")
    low, high = min(data.low.min(), data.goal.min()), max(data.high.max(), data.goal.max())
    panel.set_xlim(low / (6 if narrow else 2.2), high * (6 if narrow else 2.2))
    plain_ticks(panel, "x")
    panel.set_yticks(range(len(data)), labels)
    panel.set_ylim(len(data) - 0.5, -0.7)
    panel.grid(False, axis="y")
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="timing_ratios",
    title="Time ratios and their goals",
    section="cost",
    inputs=("timing",),
    select=select,
    headline=describe,
    caption=(
        "Median ratio over pairs timed in turn on one thread, with the least and largest. The triangle is the goal: "
        "left-pointing, the ratio should be at most this; right-pointing, at least. Blue circle: met; red cross: "
        "missed."
    ),
    draw=draw,
)
