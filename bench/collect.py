"""From one JSON a cell to one parquet file a suite, in long form: what tables and figures are drawn from.

Rows have a `kind`:
    matrix    R[stage, concept] of `metric`
    single    S[concept]
    base      b[concept]
    derived   a number of `bench.metrics.forgetting.summary`, its name in `item`
    value     anything else that was measured
    timing    seconds and bytes
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.api import Cell, MetricMatrix
from bench.metrics.forgetting import summary
from bench.schema import SCHEMA_VERSION, CellRecord, other_version
from bench.store import Store
from seqlora.files import atomic_write

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "method", "pretty_name", "role")),
        *((name, pa.int32()) for name in ("n_concepts", "order", "seed")),
        *((name, pa.string()) for name in ("cell", "status", "kind", "metric", "layer")),
        *((name, pa.int32()) for name in ("stage", "concept", "other")),
        ("item", pa.string()),
        ("value", pa.float64()),
        *((name, pa.string()) for name in ("fingerprint", "git_revision")),
        ("git_dirty", pa.bool_()),
    ]
)


def rows(record: CellRecord) -> Iterator[dict[str, Any]]:
    """All numbers of one cell; a cell that failed or was skipped gives one row of kind "status" without a value."""
    common = {
        **record.cell.model_dump(),
        "pretty_name": record.pretty_name,
        "role": record.role,
        "cell": record.to_cell().digest,
        "status": record.status,
        "fingerprint": record.fingerprint,
        "git_revision": record.provenance.git_revision,
        "git_dirty": record.provenance.git_dirty,
    }
    if record.status != "done":
        yield {**common, "kind": "status", "item": record.reason}
    for stored in record.matrices:
        for row in _matrix_rows(stored.to_matrix()):
            yield {**common, **row}
    for value in record.values:
        yield {**common, "kind": "value", **value.model_dump()}
    for name, number in record.timing.items():
        yield {**common, "kind": "timing", "metric": name, "layer": "", "item": "", "value": number}


def _matrix_rows(matrix: MetricMatrix) -> Iterator[dict[str, Any]]:
    name = {"metric": matrix.metric, "layer": matrix.layer, "item": ""}
    for (stage, concept), value in _present(matrix.values):
        yield {**name, "kind": "matrix", "stage": stage, "concept": concept, "value": value}
    for kind, vector in (("single", matrix.single), ("base", matrix.base)):
        for (concept,), value in _present(vector):
            yield {**name, "kind": kind, "concept": concept, "value": value}
    for item, value in summary(matrix).items():
        if value == value:  # not NaN
            yield {**name, "kind": "derived", "item": item, "value": value}


def _present(array: Any) -> Iterator[tuple[tuple[int, ...], float]]:
    import numpy as np

    for index in np.argwhere(~np.isnan(array)):
        yield tuple(int(i) for i in index), float(array[tuple(index)])


def table(records: Iterable[CellRecord]) -> pd.DataFrame:
    """Long table of many cells."""
    return _arrow(records).to_pandas()


def _arrow(records: Iterable[CellRecord]) -> pa.Table:
    return pa.Table.from_pylist([row for record in records for row in rows(record)], schema=SCHEMA)


def write_parquet(path: Path, suite: str, records: Sequence[CellRecord]) -> None:
    """Write the long table atomically; settings and provenance of every cell are JSON in the footer, key "seqlora"."""
    cells = {
        record.to_cell().digest: {
            "settings": record.settings,
            "concepts": record.concepts,
            "artifacts": record.artifacts,
            "claims": record.claims,
            "provenance": record.provenance.model_dump(mode="json"),
        }
        for record in records
    }
    footer = {"schema_version": SCHEMA_VERSION, "suite": suite, "cells": cells}
    # The stored schema would hold the footer a second time; the columns' types need none.
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd", store_schema=False) as writer,
    ):
        writer.write_table(_arrow(records))
        writer.add_key_value_metadata({"seqlora": json.dumps(footer, sort_keys=True)})


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The long table and the footer of a collected suite.

    Raises:
        SchemaVersionError: collected by another version of the code.
    """
    arrow = pq.read_table(path)
    footer = json.loads(arrow.schema.metadata[b"seqlora"])
    if footer["schema_version"] != SCHEMA_VERSION:
        raise other_version(str(path), footer["schema_version"])
    return arrow.to_pandas(), footer


def bring(store: Store, others: Sequence[Store], cells: Iterable[Cell]) -> int:
    """Copy into `store` the cells that it lacks and that another folder (a shard) has finished; returns how many."""
    import shutil

    brought = 0
    for cell in cells:
        if store.read_or_set_aside(cell) is not None:
            continue
        for other in others:
            record = next(iter(other.records([cell])), None)
            if record is None:
                continue
            if other.artifacts(cell).is_dir():
                shutil.copytree(other.artifacts(cell), store.artifacts(cell), dirs_exist_ok=True)
            store.write(record)  # last: a record means that everything else is there
            brought += 1
            break
    return brought
