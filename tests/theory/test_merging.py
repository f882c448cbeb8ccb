from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqlora.errors import BadInputError
from theory.merging import fuse_exact, fuse_lbfgs, fusion_objective, merge, merge_rounding

Array = NDArray[np.float64]


def adapters(m: int, n: int, rank: int, count: int, rng: np.random.Generator) -> list[tuple[Array, Array]]:
    return [(rng.standard_normal((m, rank)), rng.standard_normal((rank, n))) for _ in range(count)]


@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9),
    rank=st.integers(1, 4),
    count=st.integers(0, 7),
    block=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_merge_is_the_sum_in_any_order_and_block(m: int, n: int, rank: int, count: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W0, pairs = rng.standard_normal((m, n)), adapters(m, n, rank, count, rng)
    before = W0.copy()
    # Reference: one long-double outer product at a time.
    exact = W0.astype(np.longdouble) + sum(B.astype(np.longdouble) @ A.astype(np.longdouble) for B, A in pairs)
    bound = merge_rounding(W0, pairs)
    for order in (pairs, pairs[::-1], [pairs[i] for i in rng.permutation(count)]):
        assert (np.abs(merge(W0, order, block) - exact) <= bound).all()
    assert np.array_equal(W0, before)


def test_rounding_bound_is_not_a_blank_cheque() -> None:
    rng = np.random.default_rng(0)
    W0, pairs = rng.standard_normal((8, 8)), adapters(8, 8, 2, 5, rng)
    assert (np.abs(merge(W0, pairs[:-1]) - merge(W0, pairs)) > merge_rounding(W0, pairs)).all()
    assert merge_rounding(W0, pairs).max() < 1e-12


def test_memory_does_not_grow_with_the_number_of_concepts() -> None:
    n, rank = 256, 4
    W0 = np.zeros((n, n))

    def peak(count: int) -> int:
        rng = np.random.default_rng(0)
        tracemalloc.start()
        merge(W0, ((rng.standard_normal((n, rank)), rng.standard_normal((rank, n))) for _ in range(count)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(160) <= peak(16) + 2 * rank * n * 8


def test_adapters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInputError, match="does not fit a weight"):
        merge(np.zeros((3, 4)), [(np.zeros((3, 2)), np.zeros((2, 5)))])


def fusion_case(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    updates = rng.standard_normal((3, 5, 2)) @ rng.standard_normal((3, 2, 7))
    X = rng.standard_normal((3, 7, 20))
    return updates, X @ X.swapaxes(1, 2) / 20


def test_fusion_objective_is_the_distance_to_each_concepts_outputs() -> None:
    rng = np.random.default_rng(1)
    updates, X = rng.standard_normal((3, 5, 7)), rng.standard_normal((3, 7, 20))
    delta = rng.standard_normal((5, 7))
    direct = sum(np.linalg.norm((updates[i] - delta) @ X[i]) ** 2 / 20 for i in range(3))
    assert fusion_objective(delta, updates, X @ X.swapaxes(1, 2) / 20) == pytest.approx(direct, rel=1e-12)


def test_exact_fusion_is_the_minimum_and_lbfgs_approaches_it_from_above() -> None:
    updates, moments = fusion_case()
    best = fuse_exact(updates, moments)
    least = fusion_objective(best, updates, moments)
    rng = np.random.default_rng(2)
    for _ in range(20):
        step = 1e-2 * rng.standard_normal(best.shape)
        assert fusion_objective(best + step, updates, moments) > least
    stages = [fusion_objective(fuse_lbfgs(updates, moments, k), updates, moments) for k in (1, 5, 50)]
    assert stages == sorted(stages, reverse=True)
    assert stages[0] > least
    assert stages[-1] == pytest.approx(least, rel=1e-6)
    assert fusion_objective(updates.sum(0), updates, moments) > 1.1 * least


def test_fusion_of_a_singular_moment_needs_a_ridge() -> None:
    updates, moments = fusion_case()
    moments = np.zeros_like(moments)
    with pytest.raises(BadInputError, match="ridge > 0"):
        fuse_exact(updates, moments)
    assert np.linalg.norm(fuse_exact(updates, moments, ridge=1.0)) == 0
