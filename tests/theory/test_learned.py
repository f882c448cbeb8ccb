from __future__ import annotations

import numpy as np
import pytest

from seqlora.errors import BadInputError
from theory.layers.base import Layer
from theory.learned import as_columns, learn_sequence, split_windows
from theory.principal import principal_directions
from theory.tolerance import orthonormality


@pytest.mark.parametrize("width", [24, 300])  # 300 goes through the common principal subspace
def test_later_bases_avoid_earlier_ones(width: int) -> None:
    rng = np.random.default_rng(0)
    activations = {str(i): rng.standard_normal((width, 320)) for i in range(4)}
    sequence = learn_sequence(activations, 10, 3, rng)
    A = np.concatenate(list(sequence.bases))
    assert np.linalg.norm(A @ A.T - np.eye(12), 2) <= orthonormality(width) * 10
    M = sequence.later(1)
    assert np.allclose(M, sum(sequence.coefficients[i] @ sequence.bases[i] for i in (2, 3)))
    stack = sequence.later_stack(1)
    assert np.allclose(stack @ np.concatenate(list(sequence.bases[2:])), M)
    L = sequence.later_reading(1)
    assert L.shape == (6, width)
    assert np.allclose(L.T @ L, M.T @ M, atol=1e-10 * np.linalg.norm(M) ** 2)


def test_adapters_reduce_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    X = np.diag(np.arange(1, 21) ** -1.0) @ rng.standard_normal((20, 500))
    one = learn_sequence({"a": X}, 8, 2, np.random.default_rng(3))
    two = learn_sequence({"a": X}, 8, 6, np.random.default_rng(3))
    D = np.random.default_rng(3).standard_normal((8, 20)) / np.sqrt(20)
    left = [np.linalg.norm((D - s.coefficients[0] @ s.bases[0]) @ X) for s in (one, two)]
    assert left[1] < left[0] < np.linalg.norm(D @ X)


def test_windows_are_split_without_overlap_or_loss() -> None:
    X = np.arange(2 * 23, dtype=float).reshape(2, 23)
    layer = Layer("x", np.eye(2), {"a": X}, window=4)
    estimate, held_out = split_windows(layer, np.random.default_rng(2))
    assert estimate["a"].shape == (2, 2, 4)
    assert held_out["a"].shape == (3, 2, 4)
    both = np.concatenate([as_columns(estimate["a"]), as_columns(held_out["a"])], axis=1)
    assert sorted(both[0]) == list(range(20))
    firsts = np.concatenate([estimate["a"], held_out["a"]])[:, 0, 0]
    assert set(firsts % 4) == {0.0}  # whole windows, in their original order
    with pytest.raises(BadInputError, match="at least 4"):
        split_windows(Layer("x", np.eye(2), {"a": X}, window=8), np.random.default_rng(2))


@pytest.mark.parametrize("shape", [(200, 400), (400, 200), (12, 30), (30, 12)])
def test_principal_directions_capture_the_leading_energy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    n = shape[0]
    X = np.diag(np.arange(1, n + 1) ** -1.0) @ rng.standard_normal(shape)
    count = 8
    V = principal_directions(X, count, rng)
    best = np.sum(np.linalg.svd(X, compute_uv=False)[:count] ** 2)
    assert V.shape == (n, count)
    assert np.linalg.norm(V.T @ V - np.eye(count), 2) <= orthonormality(n)
    assert 0.99 * best <= np.sum((V.T @ X) ** 2) <= best * (1 + 1e-10)
