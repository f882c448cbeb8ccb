"""C5: descent on the basis against the closed form, and what too few inner steps cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reports.figures.api import FigureSpec
from reports.frames import groups
from reports.sources import Results
from reports.style import BLUE, GREEN, INK, RED, headline, legend_below, panels

COLUMNS = ["quantity", "source", "layer", "start", "rule", "step", "value", "bound"]
RULES = {"armijo": (BLUE, "Armijo"), "1/L": (GREEN, "fixed step 1/L")}
EPSILON = 1e-16  # gaps below this share of ‖Y‖² are rounding and cannot be drawn on a logarithmic axis


def select(results: Results) -> pd.DataFrame:
    """Gaps and gradients along every descent, and the hypergradient error against inner steps."""
    descent = results.table("C5", "descent")
    inner = results.table("C5", "inner_error")
    parts = []
    if len(descent):
        step = descent.rename(columns={"iteration": "step"})
        parts.append(step.assign(quantity="gap", value=descent.gap))
        least = descent.groupby(["source", "layer", "start", "rule"]).gradient_norm2.cummin()
        first = descent.groupby(["source", "layer", "start", "rule"]).gradient_norm2.transform("first")
        parts.append(step.assign(quantity="gradient", value=least / first))
    if len(inner):
        first = inner.groupby(["source", "layer"]).error.transform("first")
        scaled = inner.assign(value=inner.error / first, bound=inner.bound / first)
        parts.append(scaled.rename(columns={"inner_steps": "step"}).assign(quantity="inner"))
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return data.reindex(columns=COLUMNS).dropna(subset=["value"])


def describe(data: pd.DataFrame) -> str:
    """Largest last gap, and whether the descents were monotone as far as they are recorded."""
    armijo = data[(data.quantity == "gap") & (data.rule == "armijo")]
    runs = armijo.groupby(["source", "layer", "start"], dropna=False)
    last = runs.value.last()
    monotone = int(runs.value.apply(lambda gap: bool((np.diff(gap) <= EPSILON).all())).sum())
    return (
        f"{monotone} of {len(last)} descents from random starts are monotone; the largest last gap to the closed form "
        f"is {last.max():.0e} of ‖Y‖²"
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Gap, gradient, inner steps."""
    figure, axes = panels(3, narrow, columns=3, height=2.8)
    for panel in axes[:2]:
        panel.set(xscale="log", yscale="log", xlabel="iteration + 1")
    _runs(axes[0], data[data.quantity == "gap"])
    axes[0].set(ylabel="gap to the closed form / ‖Y‖²", title="Value", ylim=(EPSILON, 2))
    _runs(axes[1], data[data.quantity == "gradient"])
    steps = np.array([1.0, max(2.0, data.step[data.quantity == "gradient"].max())])
    axes[1].plot(steps, 1 / steps, color=INK, linestyle="--", linewidth=1.2)
    axes[1].set(ylabel="least ‖grad Φ‖² so far / first", title="Gradient")
    _inner(axes[2], data[data.quantity == "inner"])
    handles = [Line2D([], [], color=colour, label=label) for colour, label in RULES.values()]
    handles += [
        Line2D([], [], color=INK, linestyle="--", label="slope -1, what the bound promises"),
        Line2D([], [], color=RED, label="hypergradient error"),
        Line2D([], [], color=INK, linestyle=":", label="its bound c ρᵏ"),
    ]
    legend_below(figure, [], 3, handles)
    headline(figure, describe(data))
    return figure


def _runs(panel: Axes, data: pd.DataFrame) -> None:
    for (_, _, _, rule), run in groups(data, ["source", "layer", "start", "rule"]):
        colour = RULES.get(str(rule), (INK, ""))[0]
        visible = run[run.value > EPSILON]
        panel.plot(visible.step + 1, visible.value, color=colour, linewidth=0.9, alpha=0.7)


def _inner(panel: Axes, data: pd.DataFrame) -> None:
    for _, run in groups(data, ["source", "layer"]):
        visible = run[run.value > EPSILON]
        panel.plot(visible.step, visible.value, color=RED, linewidth=0.9, alpha=0.7)
        panel.plot(run.step, run.bound, color=INK, linewidth=0.7, linestyle=":", alpha=0.8)
    panel.set(
        yscale="log",
        ylim=(EPSILON / 10, None),
        xlabel="K, inner steps on B",
        ylabel="hypergradient error / first",
        title="Inner steps",
    )


FIGURE = FigureSpec(
    name="convergence",
    title="C5: convergence to the closed form",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "One line a layer, random start and step rule. Left: value of the upper problem above its closed-form optimum. "
        "Middle: the least squared gradient norm so far, against the slope -1 that the rate theorem promises; steeper "
        "is better. Right: error of the upper gradient when the lower level takes K steps only, and its linear bound. "
        "Gaps below 1e-16 are rounding and are not drawn."
    ),
    draw=draw,
)
