"""Disturbed cells: as far from the plain ones as rounding may take them, and no farther."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.api import Cell
from bench.disturbance import disturb_weights, disturbance, disturbed_problem
from bench.runner import Job, compute
from bench.store import Store
from bench.tasks import load_task
from seqlora.errors import BadInputError

from .conftest import SMALL


def test_weights_move_to_their_neighbours() -> None:
    layer = torch.nn.Linear(8, 8)
    before = layer.weight.detach().clone()
    disturb_weights(layer, np.random.default_rng(0))
    up, down = torch.nextafter(before, torch.tensor(torch.inf)), torch.nextafter(before, torch.tensor(-torch.inf))
    assert bool(((layer.weight == up) | (layer.weight == down)).all())
    assert 0 < int((layer.weight == up).sum()) < 64


def test_a_disturbed_problem_wants_the_same_of_almost_the_same_activations() -> None:
    seeds = Cell(SMALL, "seqlora", 2).seeds
    problem = load_task(SMALL).problems(2, 0, seeds)[1][0].fitted  # type: ignore[attr-defined]
    other = disturbed_problem(problem, np.random.default_rng(1))
    eps = np.finfo(np.float64).eps
    assert not np.array_equal(other.moments, problem.moments)
    assert np.all(np.abs(other.moments - problem.moments) <= 4 * eps * np.abs(problem.moments))
    np.testing.assert_array_equal(other.energies, problem.energies)


def test_the_option_moves_a_cell_by_round_off_and_is_on_record(store: Store) -> None:
    cell = Cell(SMALL, "seqlora", 2)
    plain = compute(cell, store, Job(store.folder))
    moved = compute(cell, store, Job(store.folder, options={"disturbance": "1"}))
    assert moved.settings["disturbance"] == 1
    assert "disturbance" not in plain.settings
    first, second = (record.matrix("relative_error").values for record in (plain, moved))  # type: ignore[union-attr]
    assert 0 < np.abs(first - second).max() < 1e-9


def test_no_number_is_one_line() -> None:
    with pytest.raises(BadInputError, match="no whole number"):
        disturbance({"disturbance": "some"})
