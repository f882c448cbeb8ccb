"""C3r: violations of the bound on held-out windows of every layer, with and without an estimated proxy."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct, groups
from reports.sources import Results
from reports.style import BLUE, INK, RED, Look, headline, legend_below, named, panels, points, zero_rate

COLUMNS = ["source", "layer", "form", "delta", "windows", "violations", "rate", "lower", "upper"]
FORMS = {
    "plain": Look(RED, "D", "plain form: covariance, independent columns", hollow=True),
    "proxy": Look(BLUE, "o", "proxy estimated on the other half"),
}


def select(results: Results) -> pd.DataFrame:
    """Violation rates of both forms and their exact 95 % intervals."""
    return results.table("C3r", "violations").reindex(columns=COLUMNS).dropna(subset=["rate"])


def describe(data: pd.DataFrame) -> str:
    """On how many layers each form is broken (the interval of a rate lies above its delta)."""
    count = {}
    for form, part in groups(data, "form"):
        broken = [bool((layer.lower > layer.delta).any()) for _, layer in groups(part, ["source", "layer"])]
        count[form] = f"{sum(broken)} of {len(broken)}"
    return " and ".join(
        f"{'the' if index else 'The'} {form} form is broken on {text} layers"
        for index, (form, text) in enumerate(count.items())
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a delta, one row a layer."""
    deltas = sorted(data.delta.unique(), reverse=True)
    layers = distinct(data, ["source", "layer"])
    figure, axes = panels(len(deltas), narrow, columns=3, height=0.55 + 0.27 * len(layers), sharey=True)
    floor = min(
        data.upper[data.violations == 0].min() * 0.4, data.delta.min() * 0.5, data.rate[data.rate > 0].min() / 2
    )
    for panel, delta in zip(axes, deltas, strict=True):
        panel.axvline(delta, color=INK, linestyle="--", linewidth=1.2, label="allowed: rate = δ")
        for form, style in FORMS.items():
            _series(panel, data[(data.delta == delta) & (data.form == form)], layers, style)
        panel.set(xscale="log", xlim=(floor, 1), title=f"δ = {delta:g}", xlabel="share above the bound")
        panel.set_yticks(range(len(layers)), [named(*key) for key in layers])
        panel.set_ylim(len(layers) - 0.4, -0.6)
        panel.grid(False, axis="y")
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _series(panel: Axes, rows: pd.DataFrame, layers: list[tuple[str, str]], style: Look) -> None:
    place = rows.apply(lambda row: layers.index((row.source, row.layer)), axis=1) + (0.14 if style.hollow else -0.14)
    seen, unseen = rows.violations > 0, rows.violations == 0
    spread = [(rows.rate - rows.lower)[seen], (rows.upper - rows.rate)[seen]]
    panel.errorbar(rows.rate[seen], place[seen], xerr=spread, elinewidth=1, label=style.label, **points(style))
    if unseen.any():
        zero_rate(panel, rows.upper[unseen], place[unseen], style, horizontal=True)


FIGURE = FigureSpec(
    name="bound_real",
    title="C3r: the bound on held-out real activations",
    section="theory",
    inputs=("minilm", "synthetic"),
    select=select,
    headline=describe,
    caption=(
        "Updates, covariance and proxy come from one half of the windows, forgetting from the other. Left of the "
        "dashed line the bound keeps its promise. Bars are exact 95 % binomial intervals; an arrow starts at the upper "
        "limit where no window exceeded the bound. Synthetic layers have dependent columns planted in them."
    ),
    draw=draw,
)
