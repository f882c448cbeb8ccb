"""How far each layer's activations are from what the bound assumes."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct
from reports.sources import Results
from reports.style import BLUE, INK, headline, named, panels, plain_ticks

QUANTITIES = {
    "kappa2": ("κ², directional proxy", "log", 1.0),
    "kurtosis": ("excess kurtosis", "linear", 0.0),
    "psi_norm": ("‖Ψ‖, dependence", "log", 1.0),
    "mean_share": ("mean's energy share", "linear", 0.0),
    "effective_rank": ("effective rank", "log", None),
    "decay": ("decay exponent a", "linear", None),
}


def select(results: Results) -> pd.DataFrame:
    """Diagnostics of every layer and concept."""
    data = results.table("C3r", "diagnostics")
    columns = ["source", "layer", "concept", *QUANTITIES, "psi_converged"]
    return data.reindex(columns=columns).dropna(subset=["kappa2"])


def describe(data: pd.DataFrame) -> str:
    """Ranges on real layers where there are any."""
    real = data[data.source != "synthetic"]
    shown, what = (real, "real") if len(real) else (data, "synthetic")
    heaviest = shown["kurtosis"].max()
    return (
        f"On {shown.layer.nunique()} {what} layers κ² is {shown.kappa2.min():.1f} to {shown.kappa2.max():.1f}, "
        f"‖Ψ‖ {shown.psi_norm.min():.1f} to {shown.psi_norm.max():.1f} (1 and 1 for independent Gaussian columns), "
        f"kurtosis up to {heaviest:.1f}"
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a quantity, one row a layer, one dot a concept."""
    layers = distinct(data, ["source", "layer"])
    place = [layers.index(key) for key in zip(data.source, data.layer, strict=True)]
    height = 0.6 + 0.2 * len(layers)
    figure, axes = panels(len(QUANTITIES), narrow, columns=3, height=height, sharey=True)
    means = data.groupby(["source", "layer"], sort=False)[list(QUANTITIES)].mean()
    for panel, (name, (label, scale, reference)) in zip(axes, QUANTITIES.items(), strict=True):
        panel.plot(data[name], place, linestyle="none", marker="o", color=BLUE, alpha=0.45, markersize=4)
        panel.plot(means[name], range(len(layers)), linestyle="none", marker="|", color=INK, markersize=11)
        if reference is not None:
            panel.axvline(reference, color=INK, linewidth=1, linestyle="--")
        panel.set(xscale=scale, title=label)
        panel.set_yticks(range(len(layers)), [named(*key) for key in layers])
        panel.set_ylim(len(layers) - 0.4, -0.6)
        panel.grid(False, axis="y")
        if scale == "log":
            plain_ticks(panel, "x")
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="layer_diagnostics",
    title="C3r: what the layers look like",
    section="theory",
    inputs=("minilm", "synthetic"),
    select=select,
    headline=describe,
    caption=(
        "A dot is a concept, a bar the layer's mean. Dashed: what independent Gaussian columns with mean zero would "
        "have. κ² is the directional proxy variance over the variance; ‖Ψ‖ the largest eigenvalue of the "
        "correlation between the columns of a window; effective rank exp(entropy of the spectrum); decay a of "
        "eigenvalues falling as k^-a."
    ),
    draw=draw,
)
