"""C4: what was certified before any later concept was known, against the forgetting that then came."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.figures.api import FigureSpec
from reports.sources import Results
from reports.style import BLUE, GREEN, INK, PURPLE, Look, headline, legend_below, panels

COLUMNS = [
    "source",
    "layer",
    "concept",
    "realised",
    "certificate",
    "distribution_free",
    "a_posteriori",
    "budget",
    "directions",
]
SERIES = {
    "certificate": Look(BLUE, "o", "certificate, sub-Gaussian"),
    "distribution_free": Look(GREEN, "^", "certificate, distribution-free", hollow=True),
    "a_posteriori": Look(PURPLE, "D", "bound once the later updates are known", hollow=True),
}


def select(results: Results) -> pd.DataFrame:
    """Certificates and realised quantiles of every layer and concept."""
    return results.table("C4", "certificate").reindex(columns=COLUMNS).dropna(subset=["realised", "certificate"])


def describe(data: pd.DataFrame) -> str:
    """How many certificates held, and by what factor they are too large."""
    kept = int((data.realised <= data.certificate).sum())
    factor = (data.certificate / data.realised).median()
    free = int((data.distribution_free < data.certificate).sum())
    return (
        f"{kept} of {len(data)} certificates cover the realised forgetting, by a median factor of {factor:.0f}; "
        f"the distribution-free form is the tighter one for {free} of them"
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Log-log, one panel a source; a certificate below the diagonal would have been broken."""
    sources = list(dict.fromkeys(data.source))
    figure, axes = panels(len(sources), narrow, columns=2, height=3.1)
    for panel, source in zip(axes, sources, strict=True):
        part = data[data.source == source]
        for name, style in SERIES.items():
            panel.plot(part.realised, part[name], linestyle="none", color=style.colour, marker=style.marker,
                       mfc=style.face, label=style.label, alpha=0.9)  # fmt: skip
        ends = np.array([part.realised.min() * 0.6, part.realised.max() * 1.6])
        panel.plot(ends, ends, color=INK, linestyle="--", linewidth=1.2, label="certified = realised")
        panel.set(xscale="log", yscale="log", title=f"{source} ({part.layer.nunique()} layers)")
        panel.set_xlabel("realised forgetting F, 95 % quantile")
    axes[0].set_ylabel("certified or bounded F")
    legend_below(figure, axes, 2)
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="certificate",
    title="C4: certificate against realised forgetting",
    section="theory",
    inputs=("synthetic", "minilm"),
    select=select,
    headline=describe,
    caption=(
        "Each point is a concept of a layer. Across: the 95 % quantile of the forgetting that later concepts caused on "
        "windows the certificate never saw. Up: what was certified from a budget on later updates alone (filled), "
        "the distribution-free form, and the bound once the later updates are known. Above the dashed line it held; "
        "the distance to the line is what not knowing the future costs."
    ),
    draw=draw,
)
