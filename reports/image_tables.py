"""Tables of the image tasks: methods, leakage between people, cost against the number of concepts."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bench.composed import DRAWN, PLAIN, REGIONAL
from bench.metrics import METRICS
from reports.entries import Entry, Table, anchor, chosen, estimate, method_name, replicated, text
from reports.sources import IMAGE_METRIC, Results
from reports.statistics import by_concepts, largest_values, mean_values, replications, timings
from reports.style import in_order

MERGED = ("detection", "face_found", "clip_text", "clip_image", "context")  # printed beside identity, always
WAYS = {PLAIN: "plain prompt", REGIONAL: "regional", DRAWN: "drawn by the world"}  # how images of two came about
COSTS = {
    "learn_seconds_per_concept": "s a concept",
    "merge_seconds": "s to merge",
    "stored_bytes_per_concept": "kB stored a concept",
}


def all_tables(results: Results) -> list[Table]:
    """Methods and leakage of every image task and number of concepts, then cost of all tasks."""
    return [*method_tables(results), *leakage_tables(results), *cost_tables(results)]


def method_tables(results: Results) -> list[Table]:
    """Identity of the merged model and what it costs, with what must be read beside it."""
    cells = results.images
    columns = {
        "identity, merged": replications(cells, IMAGE_METRIC, "final"),
        "just trained": replications(cells, IMAGE_METRIC, "just_trained"),
        "alone": replications(cells, IMAGE_METRIC, "single"),
        "forgetting": replications(cells, IMAGE_METRIC, "forgetting"),
        "drop from alone": replications(cells, IMAGE_METRIC, "identity_drop"),
        **{METRICS[name].pretty_name: replications(cells, name, "final") for name in MERGED},
        "drift": mean_values(cells, "drift"),
    }
    note = "identity, merged: more is better; forgetting, drop and drift: + is worse. Read CLIP-T beside identity."
    return _tables(columns, "images", "", note, by_concepts(cells, "identity_real"))


def leakage_tables(results: Results) -> list[Table]:
    """How much of the other people is in a person's image, and in a person's region of a composed image."""
    cells = results.images
    columns = {
        "identity, own": replications(cells, IMAGE_METRIC, "final"),
        "to others, mean": mean_values(cells, "cross_similarity"),
        "to others, largest": largest_values(cells, "cross_similarity"),
    }
    for how, words in WAYS.items():
        columns |= {
            f"own, {words}": mean_values(cells, f"{how}region_identity"),
            f"other, {words}": mean_values(cells, f"{how}leakage"),
            f"face found, {words}": mean_values(cells, f"{how}region_face_found"),
            f"context, {words}": mean_values(cells, f"{how}region_context"),
        }
    columns = {head: frame for head, frame in columns.items() if len(frame)}
    if len(columns) < 2:  # identity alone says nothing about others
        return []
    note = (
        "identity similarity of a person's images, or of a person's region in an image of two, to the own references "
        f"(more is better) and to those of others (less is better; strangers have about 0). {WAYS[DRAWN]}: what one "
        "could reach."
    )
    return _tables(columns, "leakage", "who is in the picture", note, {})


def cost_tables(results: Results) -> list[Table]:
    """Seconds and bytes of every method, by number of concepts."""
    cells = results.cells
    columns = {head: timings(cells, name) for name, head in COSTS.items()}
    columns["kB stored a concept"] = columns["kB stored a concept"].assign(value=lambda kept: kept.value / 1000)
    columns = {head: frame for head, frame in columns.items() if len(frame)}
    rows: list[tuple[Entry, ...]] = []
    if not columns:
        return []
    places = pd.concat(columns.values())[["task", "n_concepts"]].drop_duplicates().sort_values(["task", "n_concepts"])
    for task, count in places.itertuples(index=False):
        here = pd.concat([f[(f.task == task) & (f.n_concepts == count)] for f in columns.values()])
        for method in in_order(here.method):
            one = here[here.method == method].iloc[0]
            numbers = [estimate(chosen(frame, task, count, method)) for frame in columns.values()]
            rows.append((text(task), Entry(str(count), float(count)), method_name(one), *numbers))
    heads = ("task", "T", "method", *columns)
    note = "Mean over seeds ± 95 % t interval, measured in the runs. Shared trainings count for each method."
    return [
        Table(
            "cost-by-length",
            "Cost against the number of concepts",
            note,
            heads,
            rows,
            frozenset({1, *range(3, len(heads))}),
        )
    ]


def _tables(
    columns: Mapping[str, pd.DataFrame],
    name: str,
    title: str,
    note: str,
    pictures: Mapping[tuple[str, int], float],
) -> list[Table]:
    """One table a task and number of concepts; a column that nothing was measured for is left out."""
    columns = {head: frame for head, frame in columns.items() if len(frame)}
    if not columns:
        return []
    first = next(iter(columns.values()))
    tables = []
    for (task, count), group in first.groupby(["task", "n_concepts"], sort=True):
        rows = []
        for method in in_order(group.method):
            one = group[group.method == method].iloc[0]
            numbers = [estimate(chosen(frame, task, count, method)) for frame in columns.values()]
            rows.append((method_name(one), text(str(one.role)), *numbers))
        real = pictures.get((str(task), int(count)))
        reached = "" if real is None else f" The pictures that were learnt from score {real:.2f} themselves."
        seeds = int(group.groupby("method").size().max())
        tables.append(
            Table(
                anchor(name, task, f"T{count}"),
                f"{task}, T = {count}{': ' if title else ''}{title}",
                f"{replicated(seeds)}; mean ± 95 % t interval; {note}{reached}",
                ("method", "role", *columns),
                rows,
                frozenset(range(2, 2 + len(columns))),
            )
        )
    return tables
