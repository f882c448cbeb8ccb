"""Every method on every image task: identity, forgetting, and whether the picture still follows the prompt."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bench.metrics import METRICS
from reports.figures.api import FigureSpec
from reports.figures.method_comparison import dots, dots_height, ordinal, ranking
from reports.frames import groups
from reports.image_cells import longest, names, off_curve, with_pictures
from reports.sources import IMAGE_METRIC, Results
from reports.statistics import intervals, replications
from reports.style import INK, headline, look, panels

COLUMNS = ["task", "n_concepts", "metric", "quantity", "method", "role", "mean", "low", "high", "replications",
           "pictures"]  # fmt: skip
PANELS = {
    (IMAGE_METRIC, "final"): "identity, merged",
    (IMAGE_METRIC, "forgetting"): "identity forgotten (+ is worse)",
    ("clip_text", "final"): "CLIP-T, merged",
    ("context", "final"): "context follows the prompt",
}


def select(results: Results) -> pd.DataFrame:
    """Merged identity, forgetting, CLIP-T and context, at one number of concepts a task."""
    parts = [pd.DataFrame(columns=COLUMNS)]
    for metric, quantity in PANELS:
        values = off_curve(replications(results.images, metric, quantity))
        if len(values):
            parts.append(intervals(longest(values)).assign(metric=metric, quantity=quantity))
            if (metric, quantity) == (IMAGE_METRIC, "final"):
                parts[-1] = with_pictures(parts[-1], results.images)
    return pd.concat(parts[1:] or parts, ignore_index=True).reindex(columns=COLUMNS).dropna(subset=["mean"])


def describe(data: pd.DataFrame) -> str:
    """Who keeps most of the identities, where SeqLoRA stands, and the plain sum; by task."""
    says = []
    short = names(data.task)
    for task, group in groups(data[_is(data, (IMAGE_METRIC, "final"))], "task"):
        order, value = ranking(group, IMAGE_METRIC), group.set_index("method")["mean"]
        places = {"SeqLoRA": "seqlora", "with penalty": "seqlora-penalty", "plain sum": "plain-sum"}
        where = [f"{name} {ordinal(order.index(key) + 1)} ({value[key]:.2f})"
                 for name, key in places.items() if key in order and key != order[0]]  # fmt: skip
        best = f"{look(order[0]).label} keeps most identity of {len(order)} methods ({value[order[0]]:.2f})"
        real = [f"pictures of the people {group.pictures.mean():.2f}"] if group.pictures.notna().any() else []
        says.append(f"{short[task]}, T = {group.n_concepts.iloc[0]}: {', '.join([best, *where, *real])}")
    return "; ".join(says)


def _is(data: pd.DataFrame, key: tuple[str, str]) -> pd.Series:
    return (data.metric == key[0]) & (data.quantity == key[1])


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """A row of panels a task; methods from best to worst identity."""
    tasks, short = list(dict.fromkeys(data.task)), names(data.task)
    most = max(data[data.task == task].method.nunique() for task in tasks)
    figure, axes = panels(len(tasks) * len(PANELS), narrow, columns=2, height=dots_height(most, narrow))
    for index, task in enumerate(tasks):
        group = data[data.task == task]
        order = ranking(group[_is(group, (IMAGE_METRIC, "final"))], IMAGE_METRIC)
        row = axes[index * len(PANELS) : (index + 1) * len(PANELS)]
        for column, (panel, (key, label)) in enumerate(zip(row, PANELS.items(), strict=True)):
            part = group[_is(group, key)]
            if part.empty:
                panel.remove()
                continue
            dots(panel, part, order, narrow, named=column % 2 == 0, logarithmic=False)
            if part.pictures.notna().any():
                panel.axvline(part.pictures.mean(), color=INK, linewidth=1, linestyle=":")
            panel.set_xlabel(label + ("" if METRICS[key[0]].orientation == "higher" else " (less is better)"))
        count = int(group.replications.max())
        title = f"{short[task]}, T = {group.n_concepts.iloc[0]}, {count} replication{'s' * (count != 1)}"
        row[0].set_title(title)
    headline(figure, describe(data))
    return figure


FIGURE = FigureSpec(
    name="image_comparison",
    title="Identity, forgetting and text alignment of every method",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Mean over seeds and its 95 % t interval (no bar: one seed), methods from best to worst merged identity; (c) "
        "marks controls. Identity is the ArcFace cosine with held-out references; dotted: what the pictures that were "
        "learnt from score themselves. CLIP-T and context rise when a "
        "method forgets the person and draws the prompt alone, so a gain there counts only where identity is kept. "
        "All methods saw the same people, noise and prompts."
    ),
    draw=draw,
)
