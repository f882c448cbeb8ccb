"""C1 with finite samples: how much data a learned basis needs to beat a frozen one."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct
from reports.sources import Results
from reports.style import INK, cycled, headline, legend_below, named, panels, plain_ticks, points

COLUMNS = ["source", "layer", "n_samples", "probability", "excess", "excess_bound", "needed", "sufficient"]
GOAL = 0.99


def select(results: Results) -> pd.DataFrame:
    """Probability, excess over the optimum and its bound, by sample size."""
    data = results.table("C1", "sample_size").rename(columns={"probability_learned_beats_frozen": "probability"})
    return data.reindex(columns=COLUMNS).dropna(subset=["probability"])


def describe(data: pd.DataFrame) -> str:
    """The sample sizes from which on learned bases win."""
    needed = data.groupby(["source", "layer"]).needed.first()
    reached = needed.dropna()
    span = f"from {reached.min():.0f} to {reached.max():.0f} samples on" if len(reached) else "at no size tried"
    return f"A learned basis beats a frozen one with probability {GOAL} {span} ({len(reached)} of {len(needed)} layers)"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Left, the probability; right, the excess against its bound."""
    layers = distinct(data, ["source", "layer"])
    figure, (left, right) = panels(2, narrow, columns=2, height=2.8)
    for index, (source, layer) in enumerate(layers):
        part = data[(data.source == source) & (data.layer == layer)].sort_values("n_samples")
        style = cycled(named(source, layer), index)
        look = {**points(style), "markersize": 4}
        left.plot(part.n_samples, part.probability, label=style.label, linewidth=1.1, **{**look, "linestyle": "-"})
        right.plot(part.excess_bound, part.excess, **look)
    left.axhline(GOAL, color=INK, linestyle="--", linewidth=1.2)
    left.set(xscale="log", ylim=(-0.02, 1.04), xlabel="samples N", ylabel="P(learned beats frozen)")
    ends = [data.excess_bound.min() * 0.5, data.excess_bound.max() * 2]
    right.plot(ends, ends, color=INK, linestyle="--", linewidth=1.2)
    right.set(
        xscale="log", yscale="log", xlabel="bound 2r ‖estimation error‖ of the moment", ylabel="excess over the optimum"
    )
    for panel, axis in ((left, "x"), (right, "x"), (right, "y")):
        plain_ticks(panel, axis)
    legend_below(figure, [left], 3)
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="sample_size",
    title="C1: how much data a learned basis needs",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Left: probability, over draws of the data, that a basis learned from N samples leaves less residual energy "
        "than a frozen one; dashed, 0.99. Right: what estimation costs over the best basis, against the bound from the "
        "error of the estimated second moment; below the dashed line the bound holds."
    ),
    draw=draw,
)
