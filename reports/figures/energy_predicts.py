"""C9: do the layers' forgetting energies predict what is lost in the pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.prediction import points_of, predict
from reports.figures.api import FigureSpec
from reports.image_cells import names
from reports.sources import Results
from reports.style import INK, headline, in_order, legend_below, look, panels, points
from theory.claims.images import PREDICTION
from theory.ledger import generator

COLUMNS = ["task", "n_concepts", "method", "order", "seed", "energy", "fisher_energy", "drop", "correlation", "low",
           "high", "within", "within_low", "within_high", "fisher", "fisher_low", "fisher_high", "cells"]  # fmt: skip
FLOOR = 1e-9  # less is rounding


def select(results: Results) -> pd.DataFrame:
    """A point for every concept and later stage of every image cell; Spearman's correlation and its interval."""
    kept = [record for record in results.records if len(points_of(record))]
    if len(kept) < 2:
        return pd.DataFrame(columns=COLUMNS)
    found = predict(kept, generator(PREDICTION.id, 0))  # the ledger's stream: one page, one interval
    rows = [{**record.cell.model_dump(), "energy": energy, "drop": drop, "fisher_energy": fisher}
            for record in kept for energy, drop, fisher in points_of(record)]  # fmt: skip
    inside, knowing = found.readings["within"], found.readings["fisher"]
    summary = {"correlation": found.correlation, "low": found.low, "high": found.high, "cells": found.cells,
               "within": inside.value, "within_low": inside.low, "within_high": inside.high,
               "fisher": knowing.value, "fisher_low": knowing.low, "fisher_high": knowing.high}  # fmt: skip
    return pd.DataFrame(rows).assign(**summary)[COLUMNS]


def describe(data: pd.DataFrame) -> str:
    """The correlation, and whether its interval excludes zero."""
    one = data.iloc[0]
    overall, within = _told(one.correlation, one.low, one.high), _told(one.within, one.within_low, one.within_high)
    return f"Spearman's correlation of layer energy and lost identity: {overall}; within methods: {within}"


def _told(value: float, low: float, high: float) -> str:
    if not np.isfinite(low):
        return f"{value:.2f}, without an interval" if np.isfinite(value) else "not defined"
    said = "below zero" if high < 0 else "above zero" if low > 0 else "not told apart from none"
    return f"{value:.2f} [{low:.2f}, {high:.2f}], {said}"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """Lost identity against either energy, one series a method; Fisher energies where cells hold them."""
    predictors = {"energy": "forgetting energy, mean over layers", "fisher_energy": "Fisher energy, sum over layers"}
    known = {column: label for column, label in predictors.items() if data[column].notna().any()}
    figure, axes = panels(len(known), narrow, columns=2, height=3.4, sharey=True)
    for panel, (column, label) in zip(axes, known.items(), strict=True):
        _scatter(panel, data[data[column].notna()], column)
        panel.set(xscale="log", xlabel=label)
        if column == "fisher_energy":
            one = data.iloc[0]
            panel.set_title(f"which outputs matter: {_told(one.fisher, one.fisher_low, one.fisher_high)}")
    axes[0].set_ylabel("identity lost, R[j, j] - R[t, j]")
    axes[0].set_title(", ".join(dict.fromkeys(names(data.task).values())))
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
        "resample whole seeds (cells where seeds are few), since points of one seed share trainings and noise. Fisher "
        "energy, in cells that hold it, weighs every direction of a layer's outputs by how much the loss reacts "
        "to it."
    ),
    draw=draw,
)
