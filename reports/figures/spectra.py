"""Does the order of methods hang on the spectrum, or on how much concepts overlap? Merged error over both."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.options import split_name, with_options
from bench.tasks.linear import SyntheticOptions
from reports.figures.api import FigureSpec
from reports.sources import SYNTHETIC, Results
from reports.statistics import intervals, replications
from reports.style import headline, in_order, legend_below, look, panels, plain_ticks

COLUMNS = ["angle", "decay", "n_concepts", "method", "mean", "low", "high", "replications"]
SHOWN = ("plain-sum", "plain-average", "frozen-random", "frozen-orthonormal", "seqlora", "seqlora-penalty",
         "penalty-only", "fusion", "joint-rank")  # fmt: skip
LEAST = 3  # decays at an angle, for a line to say something
LENGTH = 8  # concepts of the sequences shown, or the longest below that every spectrum has


def select(results: Results) -> pd.DataFrame:
    """Merged error of sequences of one length, at every angle that was run with several decays."""
    cells = results.linear
    cells = cells[cells.task.map(lambda task: split_name(task)[0] == SYNTHETIC).astype(bool) & cells.method.isin(SHOWN)]
    found = intervals(replications(cells, "relative_error", "final"))
    if found.empty:
        return pd.DataFrame(columns=COLUMNS)
    options = [with_options(SyntheticOptions(), split_name(task)[1], "task") for task in found.task]
    data = found.assign(decay=[o.decay for o in options], angle=[o.angle for o in options])
    several = data.groupby(["angle", "n_concepts"]).decay.transform("nunique") >= LEAST
    data = data[several & (data.n_concepts <= LENGTH)]
    longest = data.n_concepts == data.n_concepts.max()
    return data.loc[longest, COLUMNS].sort_values(["angle", "decay"], ignore_index=True)


def describe(data: pd.DataFrame) -> str:
    """What the orderings are on all spectra together."""
    wide = data.pivot_table(index=["angle", "decay"], columns="method", values="mean")
    says = [f"Of {len(wide)} spectra at T = {data.n_concepts.iloc[0]}"]
    pairs = (("penalty-only", "seqlora-penalty"), ("fusion", "penalty-only"), ("seqlora", "frozen-orthonormal"),
             ("seqlora", "plain-average"))  # fmt: skip
    for better, worse in pairs:
        if {better, worse} <= set(wide):
            wins = int((wide[better] < wide[worse]).sum())
            says.append(f"{look(better).label} beats {look(worse).label} on {wins}")
    if {"frozen-orthonormal", "frozen-random"} <= set(wide):
        gap = float((wide["frozen-orthonormal"] / wide["frozen-random"] - 1).abs().max())
        says.append(f"frozen orthonormal and random bases at most {gap:.0%} apart")
    return f"{says[0]}: {', '.join(says[1:])}"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel an angle; one line a method."""
    angles = sorted(data.angle.unique())
    figure, axes = panels(len(angles), narrow, columns=3, height=2.9)
    for panel, angle in zip(axes, angles, strict=True):
        _lines(panel, data[data.angle == angle])
        panel.set(xlabel="decay a of the spectrum k^-a", title=f"{angle:g} degrees between concepts")
        panel.set_ylim(0.9 * data["mean"].min(), 1.1 * data["mean"].max())
    axes[0].set_ylabel("relative error, merged")
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _lines(panel: Axes, data: pd.DataFrame) -> None:
    for index, method in enumerate(in_order(data.method)):
        style, part = look(method, index), data[data.method == method]
        spread = [part["mean"] - part.low, part.high - part["mean"]]
        panel.errorbar(part.decay, part["mean"], yerr=spread, color=style.colour, marker=style.marker, mfc=style.face,
                       elinewidth=0.8, capsize=0, linewidth=1, label=style.label)  # fmt: skip
    panel.set_yscale("log")
    plain_ticks(panel, "y")
    panel.set_xticks(sorted(data.decay.unique()))


FIGURE = FigureSpec(
    name="spectra",
    title="Methods on every spectrum and overlap of concepts",
    section="methods",
    inputs=("spectra",),
    select=select,
    headline=describe,
    caption=(
        "Synthetic layers; error of the merged model on held-out activations, relative to the untrained base (1), mean "
        "over concepts, then over seeds and orders, with 95 % t intervals. Left to right: energy falls off faster, so "
        "a basis of few directions holds more of it. Angle 0: all concepts have the same second moment."
    ),
    draw=draw,
)
