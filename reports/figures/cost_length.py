"""What a concept costs, against how many there are: seconds to learn and to merge, bytes to keep."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.options import split_name
from reports.figures.api import FigureSpec
from reports.frames import distinct, groups
from reports.sources import Results
from reports.statistics import intervals, timings
from reports.style import headline, in_order, legend_below, look, panels, plain_ticks

COLUMNS = ["task", "quantity", "n_concepts", "method", "mean", "low", "high", "replications"]
QUANTITIES = {
    "learn_seconds_per_concept": ("s to learn a concept", 1.0),
    "merge_seconds": ("s for all merges", 1.0),
    "stored_bytes_per_concept": ("kB stored a concept", 1e-3),
}


def select(results: Results) -> pd.DataFrame:
    """Timings of one task of each kind, the one that was run with most numbers of concepts."""
    cells = results.cells[results.cells.status == "done"]
    if cells.empty:
        return pd.DataFrame(columns=COLUMNS)
    kinds = cells.task.map(lambda task: split_name(task)[0])
    tasks = [
        min(part.groupby("task").n_concepts.nunique().items(), key=lambda found: (-found[1], len(found[0])))[0]
        for _, part in cells.groupby(kinds, sort=False)
    ]
    parts = []
    for quantity, (_, unit) in QUANTITIES.items():
        found = intervals(timings(cells[cells.task.isin(tasks)], quantity)).assign(quantity=quantity)
        found[["mean", "low", "high"]] *= unit
        parts.append(found)
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    data = data.reindex(columns=COLUMNS).dropna(subset=["mean"])
    return data[(data.method != "base") & (data["mean"] > 0)].sort_values("task", kind="stable").reset_index(drop=True)


def describe(data: pd.DataFrame) -> str:
    """How the seconds a concept change from the shortest to the longest sequence, for SeqLoRA and the plain sum."""
    says = []
    learn = data[data.quantity == "learn_seconds_per_concept"]
    for task, group in groups(learn, "task"):
        first, last = group.n_concepts.min(), group.n_concepts.max()
        texts = []
        for method in (name for name in ("seqlora", "seqlora-penalty", "plain-sum") if (group.method == name).any()):
            seconds = group[group.method == method].set_index("n_concepts")["mean"]
            if last in seconds:
                change = f" to {_short(seconds[last])}" if first in seconds and first < last else ""
                texts.append(f"{look(method).label} {_short(seconds.get(first, seconds[last]))}{change} s")
        if texts:
            span = f"from T = {first} to {last}" if first < last else f"at T = {first}"
            says.append(f"{task.partition(':')[0]}, a concept {span}: {', '.join(texts)}")
    return "; ".join(says) or "Nothing but bytes was measured"


def _short(number: float) -> str:
    """Two digits, and never a power of ten for hundreds."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One panel a task and quantity."""
    keys = distinct(data, ["task", "quantity"])
    figure, axes = panels(len(keys), narrow, columns=3, height=2.5)
    for panel, (task, quantity) in zip(axes, keys, strict=True):
        _lines(panel, data[(data.task == task) & (data.quantity == quantity)])
        panel.set(xlabel="T, concepts", title=f"{task.partition(':')[0]}: {QUANTITIES[quantity][0]}")
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _lines(panel: Axes, data: pd.DataFrame) -> None:
    for index, method in enumerate(in_order(data.method)):
        style, part = look(method, index), data[data.method == method].sort_values("n_concepts")
        panel.plot(part.n_concepts, part["mean"], color=style.colour, marker=style.marker, mfc=style.face, linewidth=1,
                   label=style.label)  # fmt: skip
    counts = sorted(data.n_concepts.unique())
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [str(count) for count in counts])
    panel.minorticks_off()
    panel.set_yscale("log")
    low, high = data["mean"].min(), data["mean"].max()
    if high / low < 2:  # one number for all: room above and below
        panel.set_ylim(low / 2, high * 2)
    plain_ticks(panel, "y")


FIGURE = FigureSpec(
    name="cost_length",
    title="Cost of a concept against the number of concepts",
    section="cost",
    inputs=("images", "bench"),
    select=select,
    headline=describe,
    caption=(
        "Means over seeds, measured in the runs themselves (intervals are in the table and the CSV); both axes are "
        "logarithmic. A flat line means that a step does not become dearer with the concepts already learnt. Merge "
        "methods that share trainings share their learning time; merging counts all stages of the sequence."
    ),
    draw=draw,
)
