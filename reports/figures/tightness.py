"""How loose the bound is: bound over true quantile, exactly for Gaussians, measured elsewhere."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.frames import distinct
from reports.sources import Results
from reports.style import CYCLE, INK, MARKERS, headline, legend_below, named, panels

COLUMNS = ["panel", "source", "layer", "series", "delta", "n_samples", "ratio"]
GOAL = 3.0


def select(results: Results) -> pd.DataFrame:
    """Exact ratios for Gaussians (C3), measured ratios on held-out windows with the estimated proxy (C3r)."""
    exact = results.table("C3", "tightness").assign(panel="exact", series="exact Gaussian tail")
    real = results.table("C3r", "violations").rename(columns={"tightness": "ratio"})
    real = real[real.form == "proxy"].assign(panel="held out", series="estimated proxy") if len(real) else real
    return pd.concat([exact, real], ignore_index=True).reindex(columns=COLUMNS).dropna(subset=["ratio"])


def describe(data: pd.DataFrame) -> str:
    """Ranges of both."""
    parts = []
    for panel, text in (("exact", "with the law known"), ("held out", "on held-out windows")):
        ratio = data.ratio[data.panel == panel]
        if len(ratio):
            parts.append(f"{ratio.min():.2f} to {ratio.max():.2f} times the quantile {text}")
    return f"The bound is {', '.join(parts)}"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Left, against the number of columns; right, by layer."""
    names = [name for name in ("exact", "held out") if name in set(data.panel)]
    rows = data[data.panel == "held out"].groupby(["source", "layer"]).ngroups
    figure, axes = panels(len(names), narrow, columns=2, height=max(2.8, 0.9 + 0.24 * rows))
    deltas = sorted(data.delta.unique(), reverse=True)
    for panel, name in zip(axes, names, strict=True):
        (_exact if name == "exact" else _held_out)(panel, data[data.panel == name], deltas)
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _exact(panel: Axes, data: pd.DataFrame, deltas: list[float]) -> None:
    sources = list(dict.fromkeys(data.source))
    for index, source in enumerate(sources):
        for k, delta in enumerate(deltas):
            part = data[(data.source == source) & (data.delta == delta)].sort_values("n_samples")
            label = f"δ = {delta:g}" if index == 0 else None
            panel.plot(part.n_samples, part.ratio, color=CYCLE[k], marker=MARKERS[k], label=label,
                       linestyle=("-", "--", ":")[index % 3])  # fmt: skip
    panel.axhline(1, color=INK, linewidth=1)
    panel.set(xscale="log", xlabel="N, columns in a window", ylabel="bound / exact quantile")
    counts = sorted(data.n_samples.unique())
    panel.set_xticks(counts, [f"{int(count)}" for count in counts])
    panel.minorticks_off()
    styles = ", ".join(f"{s} {('solid', 'dashed', 'dotted')[i % 3]}" for i, s in enumerate(sources))
    panel.set_title(f"Gaussian, exact tail ({styles})")


def _held_out(panel: Axes, data: pd.DataFrame, deltas: list[float]) -> None:
    layers = distinct(data, ["source", "layer"])
    for k, delta in enumerate(deltas):
        part = data[data.delta == delta]
        place = [layers.index(key) for key in zip(part.source, part.layer, strict=True)]
        panel.plot(part.ratio, place, color=CYCLE[k], marker=MARKERS[k], linestyle="none", label=f"δ = {delta:g}")
    panel.axvline(1, color=INK, linewidth=1)
    panel.axvline(GOAL, color=INK, linewidth=1, linestyle=":", label=f"goal: at most {GOAL:g}")
    panel.set(xscale="log", xlabel="bound / measured quantile", title="Held-out windows, estimated proxy")
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50) if tick <= max(data.ratio.max() * 1.2, 4)]
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_yticks(range(len(layers)), [named(*key) for key in layers])
    panel.set_ylim(len(layers) - 0.4, -0.6)


FIGURE = FigureSpec(
    name="tightness",
    title="C3, C3r: how tight the bound is",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Bound over the (1 - δ) quantile of forgetting; 1 is the best any bound can do. Left: the quantile of the "
        "weighted chi-square law, computed and not sampled. Right: the quantile over held-out windows, with the proxy "
        "estimated on the other half; a value below 1 there means that the bound was exceeded too often."
    ),
    draw=draw,
)
