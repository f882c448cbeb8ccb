"""C9: do the layers' forgetting energies predict what is lost in the pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.prediction import points_of, predict
from reports.figures.api import FigureSpec
from reports.sources import Results
from reports.style import INK, headline, in_order, legend_below, look, panels, points
from theory.claims.images import PREDICTION
from theory.ledger import generator

PREDICTORS = {  # column -> its label, and its reading in the cells that hold all three
    "energy": ("forgetting energy,\nmean over layers", "plain"),
    "fisher_energy": ("change of prediction,\nestimated by K-FAC", "fisher"),
    "prediction_change": ("change of prediction,\nmeasured", "prediction"),
}
READINGS = ("overall", "within", "fisher", "prediction", "plain")
COLUMNS = ["task", "n_concepts", "method", "order", "seed", *PREDICTORS, "drop", "cells",
           *(name + end for name in READINGS for end in ("", "_low", "_high"))]  # fmt: skip
FLOOR = 1e-9  # less is rounding


def select(results: Results) -> pd.DataFrame:
    """A point for every concept and later stage of every image cell; the first row holds correlations and intervals."""
    kept = [record for record in results.records if len(points_of(record))]
    if len(kept) < 2:
        return pd.DataFrame(columns=COLUMNS)
    found = predict(kept, generator(PREDICTION.id, 0))  # the ledger's stream: one page, one interval
    rows = [{**record.cell.model_dump(), "energy": energy, "drop": drop, "fisher_energy": fisher,
             "prediction_change": change}
            for record in kept for energy, drop, fisher, change in points_of(record)]  # fmt: skip
    data = pd.DataFrame(rows).assign(cells=found.cells).reindex(columns=COLUMNS)
    for name in READINGS:
        reading = found.readings[name]
        data.loc[0, [name, f"{name}_low", f"{name}_high"]] = reading.value, reading.low, reading.high
    return data


def describe(data: pd.DataFrame) -> str:
    """The correlation, and whether its interval excludes zero."""
    overall, within = _told(data, "overall"), _told(data, "within")
    return f"Spearman's correlation of layer energy and lost identity: {overall}; within methods: {within}"


def _told(data: pd.DataFrame, reading: str) -> str:
    value, low, high = (data.iloc[0][reading + end] for end in ("", "_low", "_high"))
    if not np.isfinite(low):
        return f"{value:.2f}, without an interval" if np.isfinite(value) else "not defined"
    said = "below zero" if high < 0 else "above zero" if low > 0 else "not told apart from none"
    return f"{value:.2f} [{low:.2f}, {high:.2f}], {said}"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Lost identity against energies, and against the numbers on the way where cells hold them; one series a method."""
    known = {column: what for column, what in PREDICTORS.items() if data[column].notna().any()}
    figure, axes = panels(len(known), narrow, height=3.4, sharey=True)
    measured, one = data[data.prediction_change.notna()], data.iloc[0]
    for panel, (column, (label, reading)) in zip(axes, known.items(), strict=True):
        everything = column == "energy"
        _scatter(panel, data if everything else measured, column)
        panel.set(xscale="log", xlabel=label)
        if len(known) > 1:
            value, low, high = one[reading], one[f"{reading}_low"], one[f"{reading}_high"]
            panel.set_title(f"{value:.2f} [{low:.2f}, {high:.2f}]" + ", same cells" * everything)
    axes[0].set_ylabel("identity lost, R[j, j] - R[t, j]")
    legend_below(figure, axes[:1], 4)
    headline(figure, describe(data))
    return figure


def _scatter(panel: Axes, data: pd.DataFrame, column: str) -> None:
    positive = data[column][data[column] > FLOOR]
    floor = positive.min() / 3 if len(positive) else FLOOR  # 0 has no place on a logarithmic axis: left of all others
    for index, method in enumerate(in_order(data.method)):
        part, style = data[data.method == method], look(method, index)
        panel.plot(part[column].clip(lower=floor), part["drop"], alpha=0.75, markersize=4, label=style.label,
                   **points(style))  # fmt: skip
    panel.axhline(0, color=INK, linewidth=0.8)


FIGURE = FigureSpec(
    name="energy_predicts",
    title="C9: layer energies against lost identity",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Each point is a person and a later stage of one run: forgetting energy averaged over the diffusion model's "
        "layers (log; 0 at the left edge) against the identity lost since the person was learnt. Within methods: ranks "
        "taken inside each method, so that a method which forgets more is not the relation itself. 95 % intervals "
        "resample whole seeds (cells where seeds are few), since points of one seed share trainings and noise. Where "
        "cells measured how much the network's prediction changed, that and K-FAC's estimate of it stand beside; the "
        "correlations above the panels are of the cells that hold all three, the points on the left of all cells."
    ),
    draw=draw,
)
