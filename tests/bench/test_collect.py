"""The collected table holds exactly what was stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.api import Cell, Context
from bench.collect import bring, read_parquet, table, write_parquet
from bench.executors import Resources, Serial
from bench.runner import Job, run
from bench.store import Store

from .conftest import ScriptedTask

CELLS = [Cell("scripted", "seqlora", 3, 0, seed) for seed in range(2)]


def fill(store: Store, cells: list[Cell]) -> None:
    run(cells, Job(store.folder), Serial(Resources(1, 1, "", store.folder)))


def matrix_of(rows: pd.DataFrame) -> np.ndarray:
    return rows.pivot(index="stage", columns="concept", values="value").to_numpy()


def test_the_table_rebuilds_the_matrices(scripted: ScriptedTask, store: Store, tmp_path: Path) -> None:
    fill(store, CELLS)
    path = tmp_path / "suite.parquet"
    write_parquet(path, "suite", list(store.records(CELLS)))
    rows, footer = read_parquet(path)
    for cell in CELLS:
        record = store.read(cell)
        assert record is not None
        mine = rows[rows.cell == cell.digest]
        expected = record.matrix("relative_error")
        assert expected is not None
        assert np.array_equal(matrix_of(mine[mine.kind == "matrix"]), expected.values, equal_nan=True)
        assert mine[mine.kind == "single"].value.tolist() == expected.single.tolist()
        assert mine[mine.kind == "base"].value.tolist() == expected.base.tolist()
        derived = mine[mine.kind == "derived"].set_index("item").value
        R = expected.values
        assert derived["forgetting"] == pytest.approx(np.mean([R[2, j] - R[j, j] for j in (0, 1)]))
        assert derived["final"] == pytest.approx(R[2].mean())
        assert "forward_transfer" not in derived  # needs entries above the diagonal
        value = mine[mine.kind == "value"].iloc[0]
        assert (value.metric, value.value, value.concept, value.other, value["item"]) == ("overlap", 0.25, 0, 1, "pair")
        assert footer["cells"][cell.digest]["settings"] == record.settings
        assert footer["cells"][cell.digest]["provenance"]["argv"] == record.provenance.argv
    assert footer["suite"] == "suite"


def test_failures_are_rows_too(scripted: ScriptedTask, store: Store) -> None:
    def fail(cell: Cell, context: Context) -> None:
        raise ValueError("no luck")

    scripted.script = fail
    fill(store, CELLS[:1])
    rows = table(store.records(CELLS))
    status = rows[rows.kind == "status"]
    assert status["item"].tolist() == ["ValueError: no luck"]
    assert status.status.tolist() == ["failed"]


def test_shards_come_together(scripted: ScriptedTask, tmp_path: Path) -> None:
    def draw(cell: Cell, context: Context) -> None:
        context.artifacts.mkdir(parents=True)
        (context.artifacts / "image.txt").write_text(str(cell.seed), encoding="utf-8")

    scripted.script = draw
    shards = [Store(tmp_path / name) for name in ("a", "b")]
    for shard, cell in zip(shards, CELLS, strict=True):
        fill(shard, [cell])
    whole = Store(tmp_path / "whole")
    assert bring(whole, shards, CELLS) == 2
    assert bring(whole, shards, CELLS) == 0
    for shard, cell in zip(shards, CELLS, strict=True):
        assert whole.path(cell).read_bytes() == shard.path(cell).read_bytes()
        assert (whole.artifacts(cell) / "image.txt").read_text(encoding="utf-8") == str(cell.seed)


def test_a_corrupt_shard_cell_is_not_brought(scripted: ScriptedTask, tmp_path: Path) -> None:
    shard, whole = Store(tmp_path / "a"), Store(tmp_path / "whole")
    fill(shard, CELLS)
    shard.path(CELLS[0]).write_text("{}", encoding="utf-8")
    assert bring(whole, [shard], CELLS) == 1
    assert whole.state(CELLS[0]) == "missing"


def test_an_empty_table_has_its_columns() -> None:
    assert {"task", "metric", "value"} <= set(table([]).columns)


def test_collecting_twice_gives_the_same_rows(scripted: ScriptedTask, store: Store) -> None:
    fill(store, CELLS)
    first, second = (table(store.records(CELLS)) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
