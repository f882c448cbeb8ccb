"""C1: what a basis does not see, for learned, frozen and optimal bases."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct
from reports.sources import Results
from reports.style import BLUE, GREEN, RED, headline, legend_below, named, panels, plain_ticks

COLUMNS = ["source", "layer", "rank", "quantity", "mean", "low", "high", "concepts"]
QUANTITIES = {
    "frozen_mean": (GREEN, "-", "frozen Haar basis, expected ± 1 sd"),
    "learned": (BLUE, "-", "learned on the other half"),
    "optimal": (RED, ":", "optimum for this half"),
}


def select(results: Results) -> pd.DataFrame:
    """Shares of a concept's energy: means over concepts, with the range over concepts (frozen: ± sd)."""
    data = results.table("C1", "residual_energy")
    if data.empty:
        return pd.DataFrame(columns=COLUMNS)
    parts = []
    for quantity in QUANTITIES:
        share = data.assign(value=data[quantity] / data.total, sd=data.frozen_std / data.total)
        found = share.groupby(["source", "layer", "rank"], sort=False).agg(
            mean=("value", "mean"), low=("value", "min"), high=("value", "max"), sd=("sd", "mean"),
            concepts=("value", "size"),
        ).reset_index()  # fmt: skip
        if quantity == "frozen_mean":
            found = found.assign(low=found["mean"] - found.sd, high=found["mean"] + found.sd)
        parts.append(found.assign(quantity=quantity))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def describe(data: pd.DataFrame) -> str:
    """On how many layers learned bases leave less than frozen ones at every rank, and how much."""
    wide = data.pivot_table(index=["source", "layer", "rank"], columns="quantity", values="mean", sort=False)
    below = (wide.learned < wide.frozen_mean).groupby(["source", "layer"]).all()
    gap = wide.learned / wide.frozen_mean
    return (
        f"Learned bases leave less energy than frozen ones at every rank on {int(below.sum())} of {len(below)} layers: "
        f"{gap.min():.2f} to {gap.max():.2f} of it"
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a layer."""
    layers = distinct(data, ["source", "layer"])
    figure, axes = panels(len(layers), narrow, columns=4, narrow_columns=2, height=1.7, sharey=True)
    for panel, (source, layer) in zip(axes, layers, strict=True):
        _panel(panel, data[(data.source == source) & (data.layer == layer)])
        panel.set_title(named(source, layer, 26 if narrow else 30), fontsize=6.5 if narrow else 8)
    for panel in axes[:: 2 if narrow else 4]:
        panel.set_ylabel("residual / total")
    axes[-1].set_xlabel("rank r of the basis")
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _panel(panel: Axes, data: pd.DataFrame) -> None:
    for quantity, (colour, style, label) in QUANTITIES.items():
        part = data[data.quantity == quantity].sort_values("rank")
        panel.plot(part["rank"], part["mean"], color=colour, linestyle=style, label=label, zorder=3)
        if quantity != "optimal":
            panel.fill_between(part["rank"], part.low, part.high, color=colour, alpha=0.2, linewidth=0)
    panel.set(xscale="log", ylim=(0, 1.03))
    ranks = sorted(data["rank"].unique())
    panel.set_xlim(ranks[0], ranks[-1])
    plain_ticks(panel, "x")


FIGURE = FigureSpec(
    name="residual_energy",
    title="C1: residual energy, learned against frozen bases",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Share of a concept's activation energy outside its basis, on windows that the basis was not learned from; "
        "mean over concepts. Blue band: range over concepts. Green: expectation and standard deviation of a frozen "
        "random basis of the same rank in the same complement. Dotted: no basis can leave less."
    ),
    draw=draw,
)
