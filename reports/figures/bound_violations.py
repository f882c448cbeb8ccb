"""C3 against Monte Carlo: how often forgetting exceeds its bound, by family of the residual activations."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.sources import Results
from reports.style import FAMILIES, INK, cycled, headline, legend_below, panels, points, short, zero_rate

COLUMNS = [
    "source",
    "layer",
    "family",
    "control",
    "delta",
    "n_samples",
    "trials",
    "violations",
    "rate",
    "lower",
    "upper",
]


def select(results: Results) -> pd.DataFrame:
    """Violation rates and their exact 95 % intervals."""
    return results.table("C3", "violations").reindex(columns=COLUMNS).dropna(subset=["rate"])


def describe(data: pd.DataFrame) -> str:
    """Which families keep the bound and which break it, by the lower limits of their rates."""
    broken = data.assign(broken=data.lower > data.delta).groupby("family", sort=False).broken.any()
    kept = [_name(name) for name, bad in broken.items() if not bad]
    lost = [_name(name) for name, bad in broken.items() if bad]
    says = [f"The bound holds on {_and(kept)}"] if kept else []
    says += [f"it is broken on {_and(lost)}" if kept else f"The bound is broken on {_and(lost)}"] if lost else []
    return "; ".join(says)


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a source of layers; points above the line break the bound."""
    sources = list(dict.fromkeys(data.source))
    figure, axes = panels(len(sources), narrow, columns=2, height=3.0, sharey=True)
    lowest = data.loc[data.violations > 0, "lower"].min() if (data.violations > 0).any() else data.delta.min()
    floor = min(lowest, data.upper.min() * 0.5, data.delta.min()) / 2
    for panel, source in zip(axes, sources, strict=True):
        part = data[data.source == source]
        deltas = sorted(part.delta.unique())
        panel.plot(deltas, deltas, color=INK, linestyle="--", linewidth=1.2, label="allowed: rate = δ")
        families = list(dict.fromkeys(part.family))
        for index, family in enumerate(families):
            _series(panel, part[part.family == family], family, index, 1.09 ** (index - (len(families) - 1) / 2))
        panel.set(xscale="log", yscale="log", xlabel="δ, allowed failure probability", ylim=(floor, 1))
        panel.set_title(f"{source}: {short(part.layer.iloc[0])}")
        panel.set_xticks(deltas, [f"{delta:g}" for delta in deltas])
        panel.minorticks_off()
    axes[0].set_ylabel("share of trials with F above the bound")
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


def _series(panel: Axes, rows: pd.DataFrame, family: str, index: int, shift: float) -> None:
    style = FAMILIES.get(family) or cycled(family, index)
    seen, unseen = rows[rows.violations > 0], rows[rows.violations == 0]
    spread = [seen.rate - seen.lower, seen.upper - seen.rate]
    panel.errorbar(seen.delta * shift, seen.rate, yerr=spread, label=style.label, elinewidth=1, **points(style))
    if len(unseen):
        zero_rate(panel, unseen.delta * shift, unseen.upper, style)


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _name(family: object) -> str:
    return FAMILIES[str(family)].label.removesuffix(", control") if family in FAMILIES else str(family)


FIGURE = FigureSpec(
    name="bound_violations",
    title="C3: the forgetting bound against data",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Share of independent trials in which forgetting exceeds the high-probability bound. Bars are exact 95 % "
        "binomial intervals; an arrow starts at the upper limit where no violation was seen. Below the dashed line "
        "the bound keeps its promise. Hollow markers are the controls outside the assumptions: they must lie above "
        "the line somewhere, or the test could not fail."
    ),
    draw=draw,
)
