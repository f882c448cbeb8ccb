"""C6: how much bases overlap below and past capacity, and how many concepts real widths hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import each
from reports.sources import Results
from reports.style import BLUE, GREEN, INK, RED, headline, legend_below, panels, plain_ticks

COLUMNS = ["kind", "layer", "width", "rank", "concepts", "random_overlap", "spread_overlap", "welch_floor", "capacity"]


def select(results: Results) -> pd.DataFrame:
    """Overlaps by width and number of concepts, and the capacity account; each shape once."""
    overlaps, accounts = results.table("C6", "capacity"), results.table("C6", "accounts")
    data = pd.concat([overlaps.assign(kind="overlap"), accounts.assign(kind="account")], ignore_index=True)
    data = data.reindex(columns=COLUMNS).dropna(subset=["width"])
    return data.drop_duplicates(["kind", "layer", "width", "concepts"], ignore_index=True)


def describe(data: pd.DataFrame) -> str:
    """How close spreading comes to the floor, and which widths of the account are too narrow."""
    past = data[(data.kind == "overlap") & (data.welch_floor > 0)]
    excess = float((past.spread_overlap / past.welch_floor - 1).max()) if len(past) else 0.0
    account = data[data.kind == "account"]
    narrow = sorted({int(width) for width in account.width[account.capacity < account.concepts]})
    text = f"Spread bases reach the Welch floor to {max(excess, 0):.0e}"
    if narrow:
        widths = ", ".join(str(width) for width in narrow)
        asked = account.iloc[0]
        text += f"; {asked.concepts:.0f} concepts of rank {asked['rank']:.0f} do not fit into widths {widths}"
    return text


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Overlap a direction against load, and capacity by width."""
    overlaps, account = data[data.kind == "overlap"], data[data.kind == "account"]
    figure, axes = panels(2 if len(account) else 1, narrow, columns=2, height=3.0)
    _overlaps(axes[0], overlaps)
    if len(account):
        _account(axes[1], account)
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _overlaps(panel: Axes, data: pd.DataFrame) -> None:
    directions = data.concepts * data["rank"]
    load = directions / data.width
    x = np.linspace(0, load.max() * 1.05, 200)
    panel.plot(x, np.maximum(0, x - 1), color=INK, linewidth=1.2, label="Welch floor, Tr/n - 1")
    panel.plot(load, data.random_overlap / directions, linestyle="none", marker="^", color=GREEN, mfc="none",
               label="independent random bases")  # fmt: skip
    panel.plot(load, data.spread_overlap / directions, linestyle="none", marker="o", color=BLUE, label="spread bases")
    panel.axvline(1, color=INK, linewidth=1, linestyle=":")
    panel.annotate("capacity", (1, 0.97), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                   va="top", fontsize=8)  # fmt: skip
    widths = ", ".join(str(int(width)) for width in sorted(data.width.unique()))
    panel.set(
        xlabel="load T r / n",
        ylabel=r"$\Sigma_{i\neq j}\,\Vert A_i A_j^{\top}\Vert_F^2$ / (T r)",
        title=f"Overlap a direction, widths {widths}",
    )


def _account(panel: Axes, data: pd.DataFrame) -> None:
    data = data.sort_values(["layer", "width"], kind="stable")
    concepts = int(data.concepts.iloc[0])
    for place, row in enumerate(each(data)):
        enough = row.capacity >= row.concepts
        label = "all concepts fit" if enough else "they do not fit"
        panel.barh(place, row.capacity, color=BLUE if enough else RED, height=0.6, label=label)
    panel.axvline(concepts, color=INK, linestyle="--", linewidth=1.2, label=f"{concepts} concepts, as in the abstract")
    panel.set(xscale="log", xlabel=f"concepts of rank {int(data['rank'].iloc[0])} that fit", title="Capacity by width")
    panel.set_xlim(5, data.capacity.max() * 2)
    plain_ticks(panel, "x")
    panel.set_yticks(range(len(data)), [f"{row.layer}, {row.width:.0f}: {row.capacity:.0f}" for row in each(data)])
    panel.set_ylim(len(data) - 0.4, -0.6)
    panel.grid(False, axis="y")


FIGURE = FigureSpec(
    name="capacity",
    title="C6: capacity and the Welch floor",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Left: total squared overlap of all pairs of bases, over the number of directions, against how full the layer "
        "is; past capacity no choice of bases lies below the line. Right: how many concepts can be mutually orthogonal "
        "in layers of each width."
    ),
    draw=draw,
)
