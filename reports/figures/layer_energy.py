"""Forgetting energy on every layer of the diffusion model, and the bounds that were checked there."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.figures.api import FigureSpec
from reports.frames import groups
from reports.image_cells import longest, names, off_curve
from reports.sources import Results
from reports.style import INK, cycled, headline, in_order, legend_below, look, panels

COLUMNS = ["task", "n_concepts", "panel", "method", "layer", "check", "energy", "bound", "holds"]
FLOOR = 1e-9  # below this share nothing was changed: rounding, which has no place on a logarithmic axis


def select(results: Results) -> pd.DataFrame:
    """Mean F[T, j] of every layer by method, and every bound that was checked during the image cells."""
    parts = [_energies(off_curve(results.images)), _bounds(results)]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True).reindex(columns=COLUMNS)


def _energies(cells: pd.DataFrame) -> pd.DataFrame:
    rows = cells[(cells.kind == "matrix") & (cells.metric == "forgetting_energy") & (cells.layer != "")]
    rows = rows[(rows.stage == rows.n_concepts - 1) & (rows.concept < rows.stage)]
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS)
    mean = longest(rows).groupby(["task", "n_concepts", "method", "layer"], sort=False).value.mean()
    return mean.rename("energy").reset_index().assign(panel="layers")


def _bounds(results: Results) -> pd.DataFrame:
    """Mean energy on held-out images and mean bound of every check that says both, see `bench.metrics.guarantees`."""
    tasks = set(results.images.task)
    rows = []
    for record in results.records:
        for check in record.claims if record.cell.task in tasks else ():
            details = check.get("details") or {}
            if "forgetting" in details and "bound" in details and not check.get("control", False):
                rows.append({"task": record.cell.task, "n_concepts": record.cell.n_concepts, "panel": "bounds",
                             "method": record.cell.method, "layer": check.get("layer", ""),
                             "check": str(check["name"]).partition(":")[0], "energy": float(details["forgetting"]),
                             "bound": float(details["bound"]), "holds": bool(check.get("holds"))})  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def describe(data: pd.DataFrame) -> str:
    """Median energy of SeqLoRA and of the plain sum, and how many bounds hold."""
    says = []
    layers = data[data.panel == "layers"]
    if len(layers):
        median = layers.groupby("method").energy.median()
        told = [name for name in ("plain-sum", "frozen-orthonormal", "seqlora", "seqlora-penalty") if name in median]
        texts = [f"{look(name).label} {median[name]:.2g}" for name in told or in_order(median.index)[:3]]
        says.append(f"Median layer's forgetting energy: {', '.join(texts)}")
    bounds = data[data.panel == "bounds"]
    if len(bounds):
        texts = [f"{check} on {int(part.holds.astype(bool).sum())} of {len(part)} (median {_ratio(part):.3g} times F)"
                 for check, part in groups(bounds, "check")]  # fmt: skip
        says.append(f"bounds hold: {', '.join(texts)}")
    return "; ".join(says)


def _ratio(part: pd.DataFrame) -> float:
    return float((part.bound / part.energy.clip(lower=FLOOR)).median())


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """A panel a task with one line a method over the layers; one more for energies against bounds."""
    layers, bounds = data[data.panel == "layers"], data[data.panel == "bounds"]
    tasks, short = list(dict.fromkeys(layers.task)), names(data.task)
    figure, axes = panels(len(tasks) + (len(bounds) > 0), narrow, columns=1, height=2.9)
    for panel, task in zip(axes, tasks, strict=False):
        _layers(panel, layers[layers.task == task])
        panel.set_title(f"{short[task]}, T = {layers[layers.task == task].n_concepts.iloc[0]}")
    if len(bounds):
        _against(axes[-1], bounds)
    legend_below(figure, axes, 4)
    headline(figure, describe(data))
    return figure


def _layers(panel: Axes, data: pd.DataFrame) -> None:
    order = list(dict.fromkeys(data.layer))
    for index, method in enumerate(in_order(data.method)):
        style, part = look(method, index), data[(data.method == method) & (data.energy > FLOOR)]
        places = [order.index(layer) + 1 for layer in part.layer]
        panel.plot(places, part.energy, color=style.colour, marker=style.marker, mfc=style.face,
                   markersize=3.5, linewidth=0.8, label=style.label)  # fmt: skip
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set(yscale="log", xlabel="layer, from input to output (names are in the CSV)", ylabel="forgetting energy")


def _against(panel: Axes, data: pd.DataFrame) -> None:
    data = data[(data.energy > FLOOR) & (data.bound > FLOOR)]
    for index, (check, part) in enumerate(groups(data, "check")):
        style = cycled(str(check), index)
        panel.plot(part.bound, part.energy, linestyle="none", color=style.colour,
                   marker=style.marker, mfc="none", markersize=4, alpha=0.8, label=style.label)  # fmt: skip
        broken = part[~part.holds.astype(bool)]
        panel.plot(broken.bound, broken.energy, linestyle="none", color=INK,
                   marker="x", markersize=6, label="broken too often" if len(broken) else None)  # fmt: skip
    low, high = data[["bound", "energy"]].min().min(), data[["bound", "energy"]].max().max()
    panel.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--", label="energy = bound")
    panel.set(xscale="log", yscale="log", xlabel="bound, mean", ylabel="forgetting on held-out images, mean")
    panel.set_title("Every check: a layer, a method and a bound")


FIGURE = FigureSpec(
    name="layer_energy",
    title="Forgetting energy on the layers of the diffusion model",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Share of what a concept's own update does on its activations that later stages changed, "
        "‖(M_T - M_j) X_j‖² / ‖ΔW_j X_j‖², mean over the earlier concepts and seeds (log). 1 means that as much was "
        "changed as was learnt; a method that changes nothing has no point. Last panel: the same energy on held-out "
        "images against C3's bounds and against C4's certificate, which knows no later concept; below the dashed line "
        "they lie above what was measured."
    ),
    draw=draw,
)
