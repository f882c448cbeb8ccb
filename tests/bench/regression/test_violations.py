"""Broken promises are counted, and what never promised is left alone."""

from __future__ import annotations

import pytest

from bench.api import Cell
from bench.regression.numbers import GATED, numbers
from bench.regression.violations import violations
from bench.runner import Job, compute
from bench.schema import CellRecord, LongValue, Matrix
from bench.store import Store

SMALL = "linear-synthetic:width=16,samples=100,rank=2"


def record_of(method: str, store: Store) -> CellRecord:
    return compute(Cell(SMALL, method, 2), store, Job(store.folder))


def with_value(record: CellRecord, **value: object) -> CellRecord:
    return record.model_copy(update={"values": [*record.values, LongValue(**value)]})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["seqlora", "seqlora-penalty", "plain-sum", "frozen-random"])
def test_sound_cells_break_nothing(method: str, store: Store) -> None:
    record = record_of(method, store)
    assert violations(record) == []
    assert numbers(record)["bound_violations"] == 0


def test_overlapping_bases_count_where_orthogonality_was_promised(record: CellRecord) -> None:
    touching = with_value(record, metric="overlap", value=0.5, concept=5, other=6)
    assert len(violations(touching)) == 1
    assert numbers(touching)["bound_violations"] == 1
    plain = touching.model_copy(update={"cell": touching.cell.model_copy(update={"method": "frozen-random"})})
    assert violations(plain) == []


def test_a_pair_counts_once_by_its_largest_overlap(record: CellRecord) -> None:
    for item, value in (("", 0.1), ("largest over layers", 0.3)):
        record = with_value(record, metric="overlap", value=value, concept=5, other=6, item=item)
    (line,) = violations(record)
    assert "0.3" in line


def test_claims_count_unless_they_are_controls(record: CellRecord) -> None:
    broken = {"name": "C3", "holds": False, "control": False, "lhs": 2.0, "rhs": 1.0}
    claims = [broken, {**broken, "control": True}, {**broken, "holds": True}]
    assert violations(record.model_copy(update={"claims": claims})) == ["C3 is broken: 2.0 > 1.0"]


def test_steps_beyond_the_frontier_and_numbers_out_of_range_count(record: CellRecord) -> None:
    assert len(violations(with_value(record, metric="frontier_distance", value=-0.1))) == 1
    assert violations(with_value(record, metric="frontier_distance", value=-1e-9)) == []
    assert len(violations(with_value(record, metric="residual_energy", value=1.5))) == 1
    assert len(violations(with_value(record, metric="residual_energy", value=-0.5))) == 1
    matrix = Matrix(metric="identity", R=[[1.5]], S=[None], b=[None])
    assert len(violations(record.model_copy(update={"matrices": [matrix]}))) == 1


def test_gated_numbers_are_few_and_signed(record: CellRecord) -> None:
    assert len(GATED) <= 5
    found = numbers(record)
    assert {"relative_error.final", "relative_error.forgetting", "bound_violations"} <= set(found)
    matrix = record.matrix("relative_error")
    assert matrix is not None
    assert found["relative_error.final"] == pytest.approx(matrix.values[-1].mean())
    # + is worse: relative error rises when a concept is forgotten
    assert found["relative_error.forgetting"] == pytest.approx(matrix.values[-1, 0] - matrix.values[0, 0])
    assert GATED["identity.final"].worsening(0.8, 0.7) == pytest.approx(0.1)
    assert GATED["identity.forgetting"].worsening(0.1, 0.3) == pytest.approx(0.2)
