"""Rank correlation of energies and identity drops over cells, with its interval and a control without relation."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import MetricMatrix
from bench.prediction import points_of, predict
from bench.schema import CellRecord
from seqlora.errors import BadInputError


class Stored:
    """The part of a record that is read."""

    def __init__(self, energy: np.ndarray, identity: np.ndarray) -> None:
        self.parts = {"forgetting_energy": energy, "identity": identity}

    def matrix(self, metric: str) -> MetricMatrix:
        R = self.parts[metric]
        nothing = np.full(len(R), np.nan)
        return MetricMatrix(metric, R, nothing, nothing)


def cells(count: int, related: bool, rng: np.random.Generator) -> list[CellRecord]:
    found = []
    for _ in range(count):
        energy = np.where(np.tri(4, k=-1, dtype=bool), rng.random((4, 4)), 0.0)
        drop = energy**2 if related else np.where(np.tri(4, k=-1, dtype=bool), rng.random((4, 4)), 0.0)
        found.append(Stored(energy, 0.8 - drop))
    return found  # type: ignore[return-value]


def test_points_are_energy_and_drop_since_the_concept_was_learnt() -> None:
    energy, identity = np.array([[0.0, np.nan], [2.0, 0.0]]), np.array([[0.9, np.nan], [0.5, 0.8]])
    points = points_of(Stored(energy, identity))  # type: ignore[arg-type]
    np.testing.assert_allclose(points, [[2.0, 0.4]])


def test_monotone_relation_is_one_and_no_relation_covers_zero() -> None:
    rng = np.random.default_rng(0)
    perfect = predict(cells(6, True, rng), rng)
    assert perfect.correlation == pytest.approx(1.0)
    assert perfect.low == pytest.approx(1.0)
    unrelated = predict(cells(30, False, rng), rng)
    assert unrelated.low < 0 < unrelated.high
    assert unrelated.cells == 30


def test_one_cell_is_no_sample() -> None:
    with pytest.raises(BadInputError, match="1 cells hold"):
        predict(cells(1, True, np.random.default_rng(0)), np.random.default_rng(0))
