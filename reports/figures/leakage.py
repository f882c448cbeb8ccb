"""Who is in the picture: the own person against the others, alone in a picture and composed with others."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.composed import PLAIN, REGIONAL
from reports.figures.api import FigureSpec
from reports.frames import distinct, each
from reports.image_cells import longest, names, off_curve
from reports.sources import IMAGE_METRIC, Results
from reports.statistics import AXES, intervals, mean_values, replications
from reports.style import INK, headline, in_order, legend_below, look, panels

COLUMNS = ["task", "n_concepts", "picture", "method", "role", "own", "own_low", "own_high", "others", "others_low",
           "others_high", "replications"]  # fmt: skip
ONE = "one person a picture"
COMPOSED = {PLAIN: "two people, plain prompt", REGIONAL: "two people, regional"}


def select(results: Results) -> pd.DataFrame:
    """Similarity to the own and to the other people's references, at one number of people a task."""
    cells = off_curve(results.images)
    pairs = {
        ONE: (replications(cells, IMAGE_METRIC, "final"), mean_values(cells, "cross_similarity")),
        **{
            title: (mean_values(cells, f"{how}region_identity"), mean_values(cells, f"{how}leakage"))
            for how, title in COMPOSED.items()
        },
    }
    parts = [pd.DataFrame(columns=COLUMNS)]
    for picture, (own, others) in pairs.items():
        if len(own) and len(others):
            joined = intervals(longest(own)).merge(intervals(longest(others)), on=AXES, suffixes=("_o", "_x"))
            joined = joined.rename(columns={"mean_o": "own", "low_o": "own_low", "high_o": "own_high",
                                            "mean_x": "others", "low_x": "others_low", "high_x": "others_high",
                                            "replications_o": "replications"})  # fmt: skip
            parts.append(joined.assign(picture=picture)[COLUMNS])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def describe(data: pd.DataFrame) -> str:
    """The margin between own and others in the hardest pictures of a task: best method and SeqLoRA with its penalty."""
    says, short = [], names(data.task)
    for (task,) in distinct(data, ["task"]):
        picture = next(
            way
            for way in (COMPOSED[PLAIN], COMPOSED[REGIONAL], ONE)
            if ((data.task == task) & (data.picture == way)).any()
        )
        group = data[(data.task == task) & (data.picture == picture)]
        margin = (group.own - group.others).set_axis(group.method).sort_values(ascending=False)
        told = dict.fromkeys([margin.index[0], *(["seqlora-penalty"] if "seqlora-penalty" in margin else [])])
        texts = [f"{look(m).label} {margin[m]:.2f}" for m in told]
        says.append(f"{short[task]}, {picture}: own less others {', '.join(texts)}")
    return "; ".join(says)


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a task and kind of picture: own up, others across."""
    keys, short = distinct(data, ["task", "picture"]), names(data.task)
    figure, axes = panels(len(keys), narrow, columns=2, height=3.2)
    for panel, (task, picture) in zip(axes, keys, strict=True):
        group = data[(data.task == task) & (data.picture == picture)]
        for index, method in enumerate(in_order(group.method)):
            for row in each(group[group.method == method]):
                style = look(method, index)
                spread: dict[str, Any] = {} if row.replications < 2 else {
                    "xerr": [[row.others - row.others_low], [row.others_high - row.others]],
                    "yerr": [[row.own - row.own_low], [row.own_high - row.own]],
                }  # fmt: skip
                panel.errorbar(row.others, row.own, **spread, color=style.colour, marker=style.marker, mfc=style.face,
                               linestyle="none", elinewidth=0.7, capsize=0, label=style.label)  # fmt: skip
        panel.axline((0, 0), slope=1, color=INK, linestyle="--", linewidth=1)
        panel.set(xlabel="similarity to the others", title=f"{short[task]}, T = {group.n_concepts.iloc[0]}: {picture}")
        panel.margins(0.1)
        panel.locator_params(axis="x", nbins=5)  # small numbers have long labels
    axes[0].set_ylabel("similarity to the own references")
    legend_below(figure, axes, 3)
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="leakage",
    title="Leakage: the own person against the others",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Identity similarity of a person's images in the final model to the own held-out references (up) and to those "
        "of the other people in the model (across). On the dashed line the picture shows one person as much as any "
        "other; up and left is better. Mean over people, then over seeds, with 95 % t intervals where there are "
        "several. In pictures of two people each region is judged by itself, against the person who belongs there and "
        "the other one."
    ),
    draw=draw,
)
