"""The image side of the gates: what is read from image cells, and planted regressions in the code that trains them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.api import Cell
from bench.methods.images import sequential
from bench.regression.comparison import compare
from bench.regression.margins import NO_PILOT
from bench.regression.numbers import numbers
from bench.regression.snapshot import Snapshot
from bench.schema import CellRecord, Matrix
from bench.store import Store

TINY = "portraits:steps=2,batch=1,images=1,references=1,prompts=1,sampler_steps=1"
CELLS = [Cell(TINY, "seqlora", 2, 0, seed) for seed in range(8)]


def test_identity_is_read_with_its_orientation(record: CellRecord) -> None:
    identity = Matrix(metric="identity", R=[[0.6, None], [0.2, 0.5]], S=[0.6, 0.5], b=[0.0, 0.0])
    energy = [
        Matrix(metric="forgetting_energy", layer=layer, R=[[0.0, None], [x, 0.0]], S=[None] * 2, b=[None] * 2)
        for layer, x in (("a", 0.1), ("b", 0.3), ("", 0.2))
    ]
    found = numbers(record.model_copy(update={"matrices": [identity, *energy], "values": []}))
    assert found["identity.final"] == pytest.approx(0.35)
    assert found["identity.forgetting"] == pytest.approx(0.4)  # + is worse although more identity is better
    assert found["identity.single"] == pytest.approx(0.55)
    assert found["forgetting_energy.final"] == pytest.approx(0.1)  # the mean over layers, not one of them


@pytest.mark.slow
def test_image_cells_repeat_and_a_dropped_projection_is_caught(
    make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Snapshot = make.measured(CELLS, Store(tmp_path / "base"))
    again = make.measured(CELLS[:1], Store(tmp_path / "again"))
    first = base.model_copy(update={"cells": base.cells[:1]})
    assert compare(first, again, NO_PILOT).exit_code == 0  # bit for bit, trained anew
    # as if somebody had lost the projection: the same cells, trained without it
    monkeypatch.setattr(sequential.SeqLoRA, "orthogonal", False)
    planted = make.measured(CELLS, Store(tmp_path / "planted"))
    found = compare(make.elsewhere(base), planted, NO_PILOT)
    assert found.exit_code == 1
    assert "bound_violations" in {gate.number.name for gate in found.regressions}
