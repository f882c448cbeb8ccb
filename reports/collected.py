"""Cell records out of a collected parquet file: what is published is one such file, not thousands of small ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.schema import CellAxes, CellRecord, LongValue, Matrix, Provenance
from reports.frames import each, groups

INDICES = ("stage", "concept", "other")


def records_of(frame: pd.DataFrame, footer: Mapping[str, Any]) -> Iterator[CellRecord]:
    """The records that `bench.collect.write_parquet` wrote; without tracebacks and checksums, which it does not keep.

    Args:
        frame: the long table.
        footer: settings, concepts, artifacts, claims and provenance of every cell.

    Raises:
        KeyError: the footer lacks a cell of the table.
        pydantic.ValidationError: the file was not written by `write_parquet`.
    """
    for digest, rows in groups(frame, "cell"):
        first, more = rows.iloc[0], footer["cells"][digest]
        done = first.status == "done"
        yield CellRecord(
            cell=CellAxes(**{name: _plain(first[name]) for name in CellAxes.model_fields}),
            status=first.status,
            reason="" if done else str(first["item"]),
            pretty_name=first.pretty_name,
            role=first.role,
            settings=more["settings"],
            concepts=more["concepts"],
            matrices=list(_matrices(rows, int(first.n_concepts))),
            values=[_value(row) for row in each(rows[rows.kind == "value"])],
            claims=more["claims"],
            timing={row.metric: float(row.value) for row in each(rows[rows.kind == "timing"])},
            artifacts=more["artifacts"],
            provenance=Provenance(**more["provenance"]),
            fingerprint=first.fingerprint,
        )


def _matrices(rows: pd.DataFrame, concepts: int) -> Iterator[Matrix]:
    kinds = rows[rows.kind.isin(["matrix", "single", "base"])]
    for (metric, layer), part in groups(kinds, ["metric", "layer"]):
        R = np.full((concepts, concepts), np.nan)
        vectors = {"single": np.full(concepts, np.nan), "base": np.full(concepts, np.nan)}
        inside = part[part.kind == "matrix"]
        R[inside.stage.astype(int), inside.concept.astype(int)] = inside.value
        for kind, vector in vectors.items():
            entries = part[part.kind == kind]
            vector[entries.concept.astype(int)] = entries.value
        S, b = vectors["single"].tolist(), vectors["base"].tolist()
        yield Matrix(metric=metric, layer=layer, R=R.tolist(), S=S, b=b)


def _value(row: Any) -> LongValue:
    places = {name: None if pd.isna(index := getattr(row, name)) else int(index) for name in INDICES}
    return LongValue(metric=row.metric, value=float(row.value), layer=row.layer, item=row.item, **places)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
