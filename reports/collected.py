"""Cell records out of a collected parquet file: what is published is one such file, not thousands of small ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.schema import CellAxes, CellRecord, LongValue, Matrix, Provenance

VECTORS = ("single", "base")


class Row(NamedTuple):
    """One number of a cell, as `bench.collect` lays it out; an index that does not apply is NaN."""

    cell: str
    kind: str
    metric: str
    layer: str
    stage: float
    concept: float
    other: float
    item: str
    value: float


def records_of(frame: pd.DataFrame, footer: Mapping[str, Any]) -> Iterator[CellRecord]:
    """The records that `bench.collect.write_parquet` wrote; without tracebacks and checksums, which it does not keep.

    One pass over the rows: O(rows).

    Args:
        frame: the long table.
        footer: settings, concepts, artifacts, claims and provenance of every cell.

    Raises:
        KeyError: the footer lacks a cell of the table.
        pydantic.ValidationError: the file was not written by `write_parquet`.
    """
    first = frame.drop_duplicates("cell").set_index("cell")
    rows: dict[str, list[Row]] = {digest: [] for digest in first.index}
    for values in frame[list(Row._fields)].itertuples(index=False, name=None):
        rows[values[0]].append(Row(*values))
    for digest, found in rows.items():
        yield _record(first.loc[digest], found, footer["cells"][digest])


def _record(first: pd.Series, rows: Sequence[Row], more: Mapping[str, Any]) -> CellRecord:
    return CellRecord(
        cell=CellAxes(**{name: _plain(first[name]) for name in CellAxes.model_fields}),
        status=first["status"],
        reason="" if first["status"] == "done" else str(first["item"]),
        pretty_name=first["pretty_name"],
        role=first["role"],
        settings=more["settings"],
        concepts=more["concepts"],
        matrices=list(_matrices(rows, int(first["n_concepts"]))),
        values=[_value(row) for row in rows if row.kind == "value"],
        claims=more["claims"],
        timing={row.metric: row.value for row in rows if row.kind == "timing"},
        artifacts=more["artifacts"],
        provenance=Provenance(**more["provenance"]),
        fingerprint=first["fingerprint"],
    )


def _matrices(rows: Sequence[Row], concepts: int) -> Iterator[Matrix]:
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for row in rows:
        if row.kind == "matrix" or row.kind in VECTORS:
            parts = found.get((row.metric, row.layer)) or found.setdefault((row.metric, row.layer), _empty(concepts))
            if row.kind == "matrix":
                parts["R"][int(row.stage), int(row.concept)] = row.value
            else:
                parts[row.kind][int(row.concept)] = row.value
    for (metric, layer), parts in found.items():
        yield Matrix(
            metric=metric, layer=layer, R=parts["R"].tolist(), S=parts["single"].tolist(), b=parts["base"].tolist()
        )


def _empty(concepts: int) -> dict[str, np.ndarray]:
    return {"R": np.full((concepts, concepts), np.nan), **{name: np.full(concepts, np.nan) for name in VECTORS}}


def _value(row: Row) -> LongValue:
    stage, concept, other = (None if math.isnan(index) else int(index) for index in (row.stage, row.concept, row.other))
    return LongValue(
        metric=row.metric, value=row.value, layer=row.layer, item=row.item, stage=stage, concept=concept, other=other
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
