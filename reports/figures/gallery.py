"""What every method draws: references on top, then each person just trained and in the final model, same noise."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import sheets
from reports.figures.api import FigureSpec
from reports.frames import each, groups
from reports.gallery import chosen, path_of
from reports.image_cells import names, off_curve
from reports.sources import Results
from reports.style import FAINT, INK, headline, in_order, look, panels

COLUMNS = ["task", "n_concepts", "seed", "method", "concept", "name", "when", "identity", "webp"]
REFERENCE, TRAINED, FINAL = "reference", "just trained", "merged"
PEOPLE = 4  # of a sequence: the first, who have most to lose
NARROW_PEOPLE = 2
SIDE = 0.84  # of an image, in columns; the rest is for its number


def select(results: Results) -> pd.DataFrame:
    """Images of the first people of the longest sequence that most methods were run on, one seed."""
    records = [record for record in chosen(results) if sheets.ARTIFACT in record.artifacts]
    if not records or results.store is None:
        return pd.DataFrame(columns=COLUMNS)
    places = pd.Series([(record.cell.task, record.cell.n_concepts) for record in records]).value_counts()
    task, count = max(place for place in places.index if places[place] == places.max())
    here = {
        record.cell.method: record for record in records if (record.cell.task, record.cell.n_concepts) == (task, count)
    }
    rows: list[dict[str, object]] = []
    for method in off_curve(pd.DataFrame({"method": list(here)})).method:
        path = path_of(here[method], sheets.ARTIFACT, results.store)
        tiles = sheets.cut(path, count) if path is not None else None
        rows += [] if tiles is None else _rows(here[method], tiles, first=not rows)
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(record: sheets.CellRecord, tiles: sheets.Pixels, first: bool) -> list[dict[str, object]]:
    """Images of one method; with the references if it is the first."""
    cell, known, last = record.cell, sheets.scores(record), len(tiles) - 1
    rows = []
    for j in range(min(PEOPLE, len(tiles))):
        common = {"task": cell.task, "n_concepts": cell.n_concepts, "seed": cell.seed, "concept": j,
                  "name": record.concepts[j]}  # fmt: skip
        if first:
            rows.append({**common, "method": REFERENCE, "when": REFERENCE, "webp": sheets.encode(tiles[j, 0])})
        for when, t in ((TRAINED, j), (FINAL, last)):
            rows.append({**common, "method": cell.method, "when": when, "identity": known.get((j, t), np.nan),
                         "webp": sheets.encode(tiles[j, t + 1])})  # fmt: skip
    return rows


def describe(data: pd.DataFrame) -> str:
    """Which method keeps the first person best in the picture shown, and which loses it most."""
    place = f"{names(data.task)[data.task.iloc[0]]}, {data.n_concepts.iloc[0]} people in one model"
    first = data[(data.concept == 0) & (data.when == FINAL)].dropna(subset=["identity"])
    if first.empty:
        return place
    ranked = first.sort_values("identity")
    best, worst = ranked.iloc[-1], ranked.iloc[0]
    return (
        f"{place}: the first person comes out with identity {best.identity:.2f} from {look(best.method).label} and "
        f"{worst.identity:.2f} from {look(worst.method).label}"
    )


def draw(data: pd.DataFrame, narrow: bool) -> Figure:
    """One row a method, two images a person."""
    people = sorted(data.concept.unique())[: NARROW_PEOPLE if narrow else PEOPLE]
    methods = [REFERENCE, *in_order(data[data.method != REFERENCE].method)]
    figure, (panel,) = panels(
        1, narrow, height=min(0.93, (2.7 if narrow else 5.7) / (2 * len(people))) * len(methods) + 0.4
    )
    for row, method in enumerate(methods):
        for _, part in groups(data[(data.method == method) & data.concept.isin(people)], "concept"):
            for image in each(part):
                _place(panel, image, 2 * people.index(image.concept) + (image.when == FINAL), row)
    labels = [REFERENCE if m == REFERENCE else "\n".join(textwrap.wrap(look(m).label, 12 if narrow else 18))
              for m in methods]  # fmt: skip
    panel.set_yticks(np.arange(len(methods)) + 0.45, labels)
    heads = [when.replace(" ", "\n") for _ in people for when in (TRAINED, FINAL)]
    panel.set_xticks(np.arange(2 * len(people)) + 0.45, heads)
    panel.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    panel.set(xlim=(-0.05, 2 * len(people)), ylim=(len(methods) + 0.06, -0.1), aspect="equal")
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    headline(figure, describe(data))
    return figure


def _place(panel: Axes, image: Any, column: int, row: int) -> None:
    """One image, its identity written under it."""
    pixels = sheets.decode(image.webp)
    height, width = (SIDE * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
    middle = column + 0.45 + (0.5 if image.when == REFERENCE else 0)
    extent = (middle - width / 2, middle + width / 2, row + height, row)
    panel.imshow(pixels, extent=extent, interpolation="none", zorder=2)
    text = image.name if image.when == REFERENCE else "" if np.isnan(image.identity) else f"{image.identity:.2f}"
    panel.text(middle, row + SIDE + 0.02, text, ha="center", va="top", fontsize=6,
               color=FAINT if image.when == REFERENCE else INK)  # fmt: skip


FIGURE = FigureSpec(
    name="gallery",
    title="The same people by every method",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Top: a held-out reference of each person. Below, for every method: the person just trained, and drawn by the "
        "final model of all people, with the same prompt and the same noise; underneath, the identity similarity of "
        "that very image. The first people of the sequence, who have most to lose. Lowest seed, not selected."
    ),
    draw=draw,
)
