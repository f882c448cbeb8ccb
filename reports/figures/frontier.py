"""C8: the adaptation-forgetting frontier that no rank-r update can pass, and where the methods lie."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct, groups
from reports.sources import Results
from reports.style import BLUE, GREEN, INK, SKY, Look, cycled, headline, legend_below, named, panels

COLUMNS = ["source", "layer", "label", "gamma", "adaptation", "forgetting", "shortfall"]
FRONTIER = "frontier"
LOOKS = {
    "frozen": Look(GREEN, "o", "frozen basis"),
    "learned orthogonal": Look(BLUE, "o", "SeqLoRA: learned, orthogonal"),
    "learned": Look(SKY, "o", "learned, not orthogonal", hollow=True),
}


def select(results: Results) -> pd.DataFrame:
    """The frontier of every layer, and the methods' points."""
    return results.table("C8", "frontier").reindex(columns=COLUMNS).dropna(subset=["adaptation", "forgetting"])


def describe(data: pd.DataFrame) -> str:
    """What each method lacks to the frontier at equal forgetting."""
    points = data[data.label != FRONTIER]
    lacks = points.groupby(["label", "gamma"], sort=False).shortfall.median()
    gammas = sorted(points.gamma.unique())
    texts = [
        f"{label} {' / '.join(f'{lacks[label, gamma]:.3f}' for gamma in gammas if (label, gamma) in lacks.index)}"
        for label in dict.fromkeys(points.label)
    ]
    weights = " / ".join(f"{gamma:g}" for gamma in gammas)
    return f"Adaptation lost against the frontier (median, γ = {weights}): {', '.join(texts)}"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a layer."""
    layers = distinct(data, ["source", "layer"])
    figure, axes = panels(len(layers), narrow, columns=4, narrow_columns=2, height=1.9)
    for panel, (source, layer) in zip(axes, layers, strict=True):
        _panel(panel, data[(data.source == source) & (data.layer == layer)])
        panel.set_title(named(source, layer, 26 if narrow else 30), fontsize=6.5 if narrow else 8)
    for panel in axes[:: 2 if narrow else 4]:
        panel.set_ylabel("adaptation")
    axes[-1].set_xlabel("forgetting")
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _panel(panel: Axes, data: pd.DataFrame) -> None:
    curve = data[data.label == FRONTIER].sort_values("forgetting")
    panel.plot(curve.forgetting, curve.adaptation, color=INK, linewidth=1.3, label="frontier over γ")
    points = data[data.label != FRONTIER]
    for index, ((label, gamma), part) in enumerate(groups(points, ["label", "gamma"])):
        style = LOOKS.get(str(label)) or cycled(str(label), index)
        # A hollow marker rings a filled one in the same place.
        face, size = ("none", 8.5) if style.hollow else (style.colour, 5)
        panel.plot(part.forgetting, part.adaptation, linestyle="none", color=style.colour, mfc=face, markersize=size,
                   marker="o" if gamma == 0 else "P", label=f"{style.label}, γ = {gamma:g}")  # fmt: skip
    panel.set(xscale="log", ylim=(0, data.adaptation.max() * 1.1))


FIGURE = FigureSpec(
    name="frontier",
    title="C8: what no last step can beat, layer by layer",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "One last step on one layer, against the exact optimum; methods over whole sequences come further down. "
        "Adaptation: share of what the last concept wants that the update gives it. Forgetting: energy that the same "
        "update adds to the earlier concepts' outputs, as a share of what they want (log). The line is the exact best "
        "over all rank-r updates as the penalty weight γ runs; up and left is better, and nothing lies above the line. "
        "Crosses: trained with the forgetting penalty."
    ),
    draw=draw,
)
