"""Identity and text alignment against the number of people in one model."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import METRICS
from reports.figures.api import FigureSpec
from reports.frames import distinct, groups
from reports.image_cells import names, off_curve, with_pictures
from reports.sources import IMAGE_METRIC, Results
from reports.statistics import AXES, intervals, replications
from reports.style import INK, headline, in_order, legend_below, look, panels

COLUMNS = ["task", "axis", "metric", "method", "concepts", "mean", "low", "high", "replications", "pictures"]
SHOWN = (IMAGE_METRIC, "clip_text")
AXIS = {"sequences": "T, people in the model", "stages": "t, people learnt so far"}


def select(results: Results) -> pd.DataFrame:
    """Merged value by length of the sequence; where most methods ran few lengths, by stage of their longest."""
    cells, parts = off_curve(results.images), []
    for task, group in groups(cells, "task"):
        lengths = group.groupby("method").n_concepts
        enough = max(2, np.log2(group.n_concepts.max()))  # the axis is logarithmic: a length each time T doubles
        axis = "sequences" if (lengths.nunique() >= enough).mean() >= 0.5 else "stages"
        group = group if axis == "sequences" else group[group.n_concepts == lengths.transform("max")]
        for metric in SHOWN:
            values = replications(group, metric, "final") if axis == "sequences" else _stages(group, metric)
            by = AXES if axis == "sequences" else [*AXES, "stage"]
            found = intervals(values, by)
            concepts = found.n_concepts if axis == "sequences" else found.stage + 1
            parts.append(found.assign(task=task, axis=axis, metric=metric, concepts=concepts.astype(int)))
            if metric == IMAGE_METRIC:
                parts[-1] = with_pictures(parts[-1], cells)
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return data.reindex(columns=COLUMNS).dropna(subset=["mean"])


def _stages(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over j <= t of R[t, j], one number a cell and stage."""
    rows = cells[(cells.kind == "matrix") & (cells.metric == metric) & (cells.layer == "")]
    rows = rows[rows.concept <= rows.stage]
    return rows.groupby([*AXES, "order", "seed", "stage"], sort=False).value.mean().reset_index()


def describe(data: pd.DataFrame) -> str:
    """What is left at the right end, by method: best, SeqLoRA with and without penalty, plain sum.

    Methods that ended earlier are told with where they did.
    """
    says, short = [], names(data.task)
    for task, group in groups(data[data.metric == IMAGE_METRIC], "task"):
        first, last = group.concepts.min(), group.concepts.max()
        ends = group.loc[group.groupby("method").concepts.idxmax()].set_index("method")
        start = group[group.concepts == first].set_index("method")["mean"]
        best = ends["mean"].where(ends.concepts == last).idxmax()
        told = dict.fromkeys([best, *(m for m in ("seqlora-penalty", "seqlora", "plain-sum") if m in ends.index)])
        texts = [f"{look(m).label} {_change(start[m], ends.loc[m], last)}" for m in told if m in start]
        says.append(f"{short[task]}: identity from {first} to {last} people: {', '.join(texts)}")
    return "; ".join(says)


def _change(start: float, end: pd.Series, last: int) -> str:
    left = round(end["mean"], 2) + 0.0  # no minus before nothing
    return f"{start:.2f} to {left:.2f}" + (f" at {end.concepts}" if end.concepts < last else "")


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """A row a task: identity left, CLIP-T right; one line a method."""
    tasks, short = distinct(data, ["task", "axis"]), names(data.task)
    figure, axes = panels(len(tasks) * 2, narrow, columns=2, height=2.7)
    for index, (task, axis) in enumerate(tasks):
        for panel, metric in zip(axes[2 * index : 2 * index + 2], SHOWN, strict=True):
            part = data[(data.task == task) & (data.metric == metric)]
            _lines(panel, part)
            panel.set(xlabel=AXIS[axis], ylabel=METRICS[metric].pretty_name, title=short[task])
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _lines(panel: Axes, data: pd.DataFrame) -> None:
    methods = in_order(data.method)
    for index, method in enumerate(methods):
        style, part = look(method, index), data[data.method == method].sort_values("concepts")
        beside = part.concepts * 1.012 ** (index - len(methods) / 2)  # intervals side by side
        spread = [part["mean"] - part.low, part.high - part["mean"]]
        panel.errorbar(beside, part["mean"], yerr=spread, color=style.colour, marker=style.marker, mfc=style.face,
                       elinewidth=0.8, capsize=0, linewidth=1, label=style.label)  # fmt: skip
    real = data.dropna(subset=["pictures"]).groupby("concepts").pictures.mean()
    panel.plot(real.index, real, color=INK, linewidth=1, linestyle=":", marker="")
    # the means fill the panel: an interval of two seeds may be wider than all that a cosine can be
    shown = np.array([*data["mean"], *real])
    if len(shown):  # photographs may have no judge of text
        margin = 0.15 * float(np.ptp(shown)) or 0.05
        panel.set_ylim(shown.min() - margin, shown.max() + margin)
    # beyond 8 the logarithmic axis has room for few: every fourth up to 16, every eighth up to 32
    counts = sorted(c for c in data.concepts.unique() if c <= 8 or c % 2 ** (np.ceil(np.log2(c)) - 2) == 0)
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.minorticks_off()


FIGURE = FigureSpec(
    name="identity_length",
    title="Identity and CLIP-T against the number of people",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Mean over all people in the model, then over seeds, with 95 % t intervals (no bar: one seed; cut where they "
        "leave the panel). Where most methods ran a sequence for each doubling of T, a point is one of T people after "
        "its last stage; otherwise a stage of each method's longest. Dotted: what the pictures that were learnt from "
        "score themselves. CLIP-T is printed beside identity because it rises when identity is lost."
    ),
    draw=draw,
)
