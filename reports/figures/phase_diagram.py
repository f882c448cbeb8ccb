"""C2: where learned bases leak less into later concepts than frozen ones, and where real layers lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct, groups
from reports.sources import Results
from reports.style import CYCLE, DEAR, INK, RED, headline, legend_below, panels, plain_ticks

COLUMNS = ["kind", "source", "layer", "width", "rank", "concepts", "decay", "angle", "ratio", "ratio_measured"]
LINES = ("-", "--", ":", "-.")
SHAPES = 3  # heat maps at most


def select(results: Results) -> pd.DataFrame:
    """The diagram (the same from every source: the first is taken) and the layers on it."""
    phase = results.table("C2", "phase")
    if phase.empty:
        return pd.DataFrame(columns=COLUMNS)
    phase = phase[phase.source == phase.source.iloc[0]].assign(kind="diagram")
    layers = results.table("C2", "layers").assign(kind="layer")
    data = pd.concat([phase, layers], ignore_index=True).reindex(columns=COLUMNS)
    return data.assign(angle=np.degrees(data.angle.astype(float)))


def describe(data: pd.DataFrame) -> str:
    """On how many layers, by source, learned bases leak less on held-out data."""
    layers = data[data.kind == "layer"]
    less = layers.assign(less=layers.ratio_measured < 1).groupby("source", sort=False).less.agg(["sum", "size"])
    counts = [f"{int(row['sum'])} of {int(row['size'])} {source} layers" for source, row in less.iterrows()]
    return f"Learned bases leak less than frozen ones on {' and on '.join(counts)}" if counts else (
        "Where learned bases leak less than frozen ones"
    )  # fmt: skip


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """First the worst case against decay with the layers, then decay against overlap angle."""
    diagram, layers = data[data.kind == "diagram"], data[data.kind == "layer"]
    measured = diagram[diagram.decay > 0].dropna(subset=["ratio_measured"])  # without decay the ratio is 1
    shapes = distinct(measured, ["width", "rank", "concepts"])[:SHAPES]
    figure, axes = panels(1 + len(shapes), narrow, columns=2, height=2.9)
    _against_decay(axes[0], diagram, layers)
    limit = max(1.0, float(np.abs(np.log2(measured.ratio_measured)).max())) if len(measured) else 1.0
    for panel, shape in zip(axes[1:], shapes, strict=True):
        chosen = (measured[["width", "rank", "concepts"]] == shape).all(axis=1)
        mesh = _heat(panel, measured[chosen], min(limit, 4.0))
        panel.set_title("measured, n = {:.0f}, r = {:.0f}, T = {:.0f}".format(*shape))
        bar = figure.colorbar(mesh, ax=panel, extend="both", pad=0.02)
        ticks = np.arange(-np.floor(min(limit, 4.0)), np.floor(min(limit, 4.0)) + 1)
        bar.set_ticks(list(ticks), labels=[f"{2.0**tick:g}" for tick in ticks])
        bar.outline.set_visible(False)
        bar.set_label("learned / frozen", fontsize=8)
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _against_decay(panel: Axes, diagram: pd.DataFrame, layers: pd.DataFrame) -> None:
    for index, (shape, part) in enumerate(groups(diagram, ["width", "rank", "concepts"])):
        curve = part.groupby("decay").ratio.first()
        label = "power law, n = {:.0f}, r = {:.0f}, T = {:.0f}".format(*shape)
        panel.plot(curve.index, curve, color=INK, linestyle=LINES[index % len(LINES)], linewidth=1.1, label=label)
    for index, (source, part) in enumerate(groups(layers, "source")):
        colour = RED if source != "synthetic" else CYCLE[0]
        marker = "o" if index % 2 == 0 else "s"
        panel.vlines(part.decay, part.ratio_measured, part.ratio, color=colour, linewidth=0.7, alpha=0.6)
        panel.plot(part.decay, part.ratio_measured, linestyle="none", marker=marker, color=colour,
                   label=f"{source} layers, held out")  # fmt: skip
        panel.plot(part.decay, part.ratio, linestyle="none", marker=marker, color=colour, mfc="none",
                   label=f"{source} layers, worst case")  # fmt: skip
    panel.axhline(1, color=INK, linewidth=1)
    panel.set(yscale="log", xlabel="decay a of the spectrum, λₖ ∝ k⁻ᵃ", ylabel="leak, learned / frozen")
    panel.set_title("Worst case, and the layers")
    plain_ticks(panel, "y")
    panel.annotate("below 1 learned bases leak less", (0.03, 0.03), xycoords="axes fraction", fontsize=7.5)  # fmt: skip


def _heat(panel: Axes, data: pd.DataFrame, limit: float) -> QuadMesh:
    grid = data.pivot_table(index="angle", columns="decay", values="ratio_measured")
    Z = np.log2(grid.to_numpy())
    rows, columns = np.arange(len(grid)), np.arange(len(grid.columns))
    mesh = panel.pcolormesh(
        columns, rows, Z, cmap=DEAR, vmin=-limit, vmax=limit, shading="nearest", edgecolors="face", linewidth=0.4
    )
    if Z.min() < 0 and Z.max() > 0.05:
        panel.contour(columns, rows, Z, levels=[0], colors="#010101", linewidths=1.6)
    panel.set_xticks(columns, [f"{value:g}" for value in grid.columns])
    panel.set_yticks(rows, [f"{value:g}°" for value in grid.index])
    panel.tick_params(length=0, labelsize=7)
    panel.set(xlabel="decay a", ylabel="angle between concepts")
    panel.grid(False)
    return mesh


FIGURE = FigureSpec(
    name="phase_diagram",
    title="C2: do learned bases also leak less?",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Ratio of what later concepts read of the first one, learned over frozen bases; below 1 learned bases leak "
        "less. First panel: worst case for power-law spectra (lines) and layers at their rank (filled: measured on "
        "held-out windows, hollow: worst case for the layer's own spectrum). Heat maps: measured for power laws whose "
        "concepts are turned against each other by an angle; the black line is ratio 1, orange means that learned "
        "bases leak more."
    ),
    draw=draw,
)
