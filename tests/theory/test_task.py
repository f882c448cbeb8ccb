from __future__ import annotations

import numpy as np
import pytest

from seqlora.errors import BadInputError
from theory.layers import synthetic
from theory.layers.base import Layer
from theory.task import LinearTask, learn, within
from theory.tolerance import orthonormality


def layer(width: int = 24, concepts: int = 3, seed: int = 0) -> Layer:
    return synthetic.layer(width, concepts, 200, 1.5, np.random.default_rng(seed))


def test_moments_energies_and_errors_agree_with_the_activations() -> None:
    case, rng = layer(), np.random.default_rng(1)
    task = LinearTask.on(case, 3, rng, outputs=10)
    merged = rng.standard_normal((10, 24))
    X = [case.activations[name] for name in case.concepts]
    missing = [np.linalg.norm((task.targets[i] - merged) @ X[i]) ** 2 / X[i].shape[1] for i in range(3)]
    energy = [np.linalg.norm(task.targets[i] @ X[i]) ** 2 / X[i].shape[1] for i in range(3)]
    assert [task.energy(i) for i in range(3)] == pytest.approx(energy)
    assert task.relative_error(merged) == pytest.approx(sum(missing) / sum(energy))
    Y = (task.targets[2] - merged) @ X[2]
    assert np.allclose(task.cross(2, merged), Y @ X[2].T / X[2].shape[1])


def test_learned_bases_are_orthogonal_only_where_that_is_asked() -> None:
    task = LinearTask.on(layer(), 3, np.random.default_rng(2))
    rows = learn(task, 4).stacked_bases
    assert np.linalg.norm(rows @ rows.T - np.eye(12)) <= orthonormality(24)
    free = learn(task, 4, orthogonal=False).stacked_bases
    assert np.linalg.norm(free @ free.T - np.eye(12)) > 0.1


def test_sequence_learns_what_is_missing_and_the_penalty_helps_the_merge() -> None:
    task = LinearTask.on(layer(), 3, np.random.default_rng(3))
    alone = learn(task, 4, sequential=False, orthogonal=False)
    sequence = learn(task, 4)
    penalised = learn(task, 4, forgetting_weight=1.0)
    # The first concept is learned the same way by all.
    assert np.allclose(alone.updates[0], sequence.updates[0])
    errors = [task.relative_error(adapters.merged) for adapters in (alone, sequence, penalised)]
    assert errors == sorted(errors, reverse=True)


def test_layers_within_a_budget() -> None:
    layers = [layer(width) for width in (24, 48, 24)]
    assert [case.width for case in within(layers, 2 * 24**2)] == [24, 24]
    assert [case.width for case in within(layers[1:2], 1)] == [48]


def test_more_concepts_than_the_layer_has_are_refused() -> None:
    with pytest.raises(BadInputError, match="3 concepts, 4 are asked for"):
        LinearTask.on(layer(), 4, np.random.default_rng(0))
