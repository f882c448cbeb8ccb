"""C2: the smallest rank r* from which on learned bases leak less in the worst case, by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import each
from reports.sources import Results
from reports.style import BLUE, FAINT, INK, RED, headline, legend_below, named, panels, plain_ticks

COLUMNS = [
    "source",
    "layer",
    "width",
    "concepts",
    "rank",
    "rank_star",
    "decay",
    "ratio_measured",
    "ratio_measured_at_rank_star",
]


def select(results: Results) -> pd.DataFrame:
    """Rank, r* and measured ratios of every layer; r* is empty where no rank up to capacity is enough."""
    data = results.table("C2", "layers")
    return data.reindex(columns=COLUMNS).dropna(subset=["rank", "ratio_measured"])


def describe(data: pd.DataFrame) -> str:
    """Range of r* on real layers, and how many are above it."""
    real = data[data.source != "synthetic"]
    shown, what = (real, "real") if len(real) else (data, "synthetic")
    star = shown.rank_star.dropna()
    above = int((shown["rank"] >= shown.rank_star).sum())
    span = f"r* is {star.min():.0f} to {star.max():.0f}" if len(star) else "no rank up to capacity is enough"
    return f"On {len(shown)} {what} layers {span}; the rank used reaches it on {above} of them"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One row a layer: the rank used, r*, and the measured ratio at each."""
    figure, (panel,) = panels(1, narrow, height=0.8 + 0.3 * len(data))
    for place, row in enumerate(each(data)):
        capacity = row.width // row.concepts if row.width == row.width else np.nan
        panel.plot(capacity, place, marker="|", color=FAINT, markersize=11, linestyle="none", label="capacity n / T")
        colour = BLUE if row.ratio_measured < 1 else RED
        label = "rank used, leaks less" if row.ratio_measured < 1 else "rank used, leaks more"
        if not np.isnan(row.rank_star):
            panel.plot([row.rank, row.rank_star], [place, place], color=FAINT, linewidth=0.8)
            panel.plot(row.rank_star, place, marker="D", color=INK, mfc="none", linestyle="none", label="r*")
        panel.plot(row.rank, place, marker="o", color=colour, linestyle="none", label=label)
        panel.annotate(f"{row.ratio_measured:.2f}", (row.rank, place), (0, 5), textcoords="offset points",
                       ha="center", fontsize=7)  # fmt: skip
    panel.set(xscale="log", xlabel="rank r (log)")
    plain_ticks(panel, "x")
    panel.set_yticks(range(len(data)), [named(*key) for key in zip(data.source, data.layer, strict=True)])
    panel.set_ylim(len(data) - 0.4, -0.8)
    panel.grid(False, axis="y")
    legend_below(figure, [panel], 4)
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="rank_star",
    title="C2: smallest rank r* by layer",
    section="theory",
    inputs=("minilm", "synthetic"),
    select=select,
    headline=describe,
    caption=(
        "From rank r* (diamond) on, the worst case of learned bases leaks no more than a frozen basis does on average. "
        "Circle: the rank that was used, with the leak measured on held-out windows, learned over frozen; red: above "
        "1, learned bases leaked more. Bar: the largest rank at which all concepts of the layer fit."
    ),
    draw=draw,
)
