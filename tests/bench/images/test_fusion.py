"""The fused weights minimise the published objective, by whichever solver, in memory that does not grow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.methods.images.fusion import LayerSums, solve_by_lbfgs, solve_exactly
from seqlora.moments import ExactMoment


def random_sums(m: int, n: int, rows: int, concepts: int, seed: int) -> tuple[LayerSums, list, list]:
    rng = np.random.default_rng(seed)
    sums = LayerSums(torch.zeros(n, n, dtype=torch.float64), torch.zeros(m, n, dtype=torch.float64))
    updates, inputs = [], []
    for _ in range(concepts):
        X, D = torch.from_numpy(rng.standard_normal((rows, n))), torch.from_numpy(rng.standard_normal((m, n)))
        moment = ExactMoment(n)
        moment.update(X)
        sums.add(D, moment)
        updates.append(D)
        inputs.append(X)
    return sums, updates, inputs


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_exact_fusion_is_the_least_squares_solution_of_least_norm(
    m: int, n: int, rows: int, concepts: int, seed: int
) -> None:
    sums, updates, inputs = random_sums(m, n, rows, concepts, seed)
    # reference: stack the activations of all concepts and let LAPACK solve
    X = torch.cat(inputs)
    Y = torch.cat([x @ d.mT for x, d in zip(inputs, updates, strict=True)])
    reference = torch.linalg.lstsq(X, Y, driver="gelsd").solution.mT
    fused = solve_exactly("layer", sums)
    residual = (X @ fused.mT - Y).square().mean()
    best = (X @ reference.mT - Y).square().mean()
    # squaring the activations costs half of the digits
    assert float(residual) <= float(best) + 1e-10 * float(Y.square().mean() + 1)
    torch.testing.assert_close(sums.objective(fused), residual, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("layer", ["unet.attn1.to_q", "unet.attn2.to_k"])
def test_exact_is_never_worse_than_lbfgs_and_lbfgs_beats_the_sum(layer: str) -> None:
    for seed in range(5):
        sums, updates, _ = random_sums(6, 10, 30, 3, seed)
        exact = float(sums.objective(solve_exactly(layer, sums)))
        descent = float(sums.objective(solve_by_lbfgs(layer, sums)))
        assert exact <= descent + 1e-12
        assert descent < float(sums.objective(sum(updates)))


def test_one_concept_is_fused_to_itself_where_it_is_seen() -> None:
    sums, updates, inputs = random_sums(4, 8, 5, 1, 0)
    fused = solve_exactly("layer", sums)
    torch.testing.assert_close(inputs[0] @ fused.mT, inputs[0] @ updates[0].mT)
    unseen = torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(inputs[0]) @ inputs[0]
    assert float((fused @ unseen).norm()) < 1e-6  # elsewhere the base weight stays
