"""C7: what a merge costs, and what it is worth against fusion."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import groups
from reports.sources import Results
from reports.style import BLUE, INK, PURPLE, RED, Look, cycled, headline, legend_below, panels, plain_ticks

COLUMNS = ["source", "layer", "concepts", "method", "seconds", "relative_to_copy", "peak_bytes", "error"]
GOAL = 1.5
METHODS = {
    "sum": Look(INK, "o", "sum of T updates"),
    "sum, plain": Look(RED, "o", "sum, plain LoRA"),
    "sum, SeqLoRA": Look(BLUE, "o", "sum, SeqLoRA"),
    "sum, SeqLoRA gamma=1": Look(BLUE, "P", "sum, SeqLoRA + penalty"),
    "fusion, exact": Look(PURPLE, "s", "fusion of plain LoRA, exact", hollow=True),
    "fusion, L-BFGS": Look(PURPLE, "D", "fusion of plain LoRA, L-BFGS", hollow=True),
}


def select(results: Results) -> pd.DataFrame:
    """Times against one copy of the weight, and merged errors, by layer and method."""
    return results.table("C7", "merge").reindex(columns=COLUMNS).dropna(subset=["relative_to_copy"])


def describe(data: pd.DataFrame) -> str:
    """Time of the largest sum, and errors of sum and fusion."""
    merged = data[data.method == "sum"].sort_values("concepts")
    error = data.dropna(subset=["error"]).groupby("method").error.median()
    parts = []
    if len(merged):
        last = merged.iloc[-1]
        parts.append(
            f"Summing {last.concepts:.0f} updates takes {last.relative_to_copy:,.0f} times one copy of the weight"
        )
    if {"sum, SeqLoRA", "fusion, exact"} <= set(error.index):
        texts = [
            f"{METHODS[name].label} {error[name]:.2f}" for name in METHODS if name in error.index and "sum," in name
        ]
        parts.append(f"median merged error: {', '.join(texts)}, fusion {error['fusion, exact']:.2f}")
    return "; ".join(parts)


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Left, time against T; right, error against time."""
    names = [name for name in METHODS if name in set(data.method)] + sorted(set(data.method) - set(METHODS))
    figure, (left, right) = panels(2, narrow, columns=2, height=3.0)
    _times(left, data[data.method == "sum"])
    for index, name in enumerate(names):
        part = data[(data.method == name) & data.error.notna()]
        style = METHODS.get(name) or cycled(name, index)
        if len(part):
            right.plot(part.relative_to_copy, part.error, linestyle="none", color=style.colour, marker=style.marker,
                       mfc=style.face, alpha=0.85, label=style.label)  # fmt: skip
    right.axhline(1, color=INK, linestyle=":", linewidth=1)
    right.set(xscale="log", yscale="log", xlabel="time / one copy of the weight", ylabel="merged relative error")
    right.set_title("A layer each: error against time")
    plain_ticks(right, "y")
    legend_below(figure, (left, right), 3)
    headline(figure, describe(data))
    return figure


def _times(panel: Axes, data: pd.DataFrame) -> None:
    for index, (source, part) in enumerate(groups(data, "source")):
        part = part.sort_values("concepts")
        panel.plot(part.concepts, part.relative_to_copy, color=INK, marker="os^D"[index % 4], mfc="none",
                   linestyle=("-", "--", ":")[index % 3], label=f"sum of T updates ({source} run)")  # fmt: skip
    panel.axhline(GOAL, color=INK, linewidth=1, linestyle="-.", label=f"goal {GOAL:g}")
    panel.set(xscale="log", yscale="log", xlabel="T, concepts merged", ylabel="time / one copy of the weight")
    panel.set_title(f"Sum, layer {data.layer.iloc[0]}" if len(data) else "Sum")
    plain_ticks(panel, "x")
    plain_ticks(panel, "y")


FIGURE = FigureSpec(
    name="merge_cost",
    title="C7: merging by sum against fusion",
    section="cost",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Left: fastest of several merges of T rank-r updates into one weight, in units of copying that weight. Right: "
        "each point is a layer; lower is better, left is faster; relative error 1 (dotted) is the untrained base. "
        "Fusion reads every concept's second moment, the sum reads none."
    ),
    draw=draw,
)
