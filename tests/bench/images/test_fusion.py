"""The fused weights minimise the published objective, by whichever solver; a ridge goes between that and the base."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.methods.images.fusion import LayerSums, published_iterations, solve_by_lbfgs, solve_exactly
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
    fused = solve_exactly(sums)
    residual = (X @ fused.mT - Y).square().mean()
    best = (X @ reference.mT - Y).square().mean()
    # squaring the activations costs half of the digits
    assert float(residual) <= float(best) + 1e-10 * float(Y.square().mean() + 1)
    torch.testing.assert_close(sums.objective(fused), residual, rtol=1e-7, atol=1e-9)


def test_published_iterations_are_long_where_text_goes_through() -> None:
    layers = ("unet.attn1.to_q", "unet.attn2.to_q", "unet.attn2.to_k", "text_encoder.x.q_proj")
    assert [published_iterations(layer) for layer in layers] == [50, 50, 500, 500]


@pytest.mark.parametrize("layer", ["unet.attn1.to_q", "unet.attn2.to_k"])
def test_exact_is_never_worse_than_lbfgs_and_lbfgs_beats_the_sum(layer: str) -> None:
    for seed in range(5):
        sums, updates, _ = random_sums(6, 10, 30, 3, seed)
        exact = float(sums.objective(solve_exactly(sums)))
        descent = float(sums.objective(solve_by_lbfgs(sums, published_iterations(layer))))
        assert exact <= descent + 1e-12
        assert descent < float(sums.objective(sum(updates)))


def test_one_concept_is_fused_to_itself_where_it_is_seen() -> None:
    sums, updates, inputs = random_sums(4, 8, 5, 1, 0)
    fused = solve_exactly(sums)
    torch.testing.assert_close(inputs[0] @ fused.mT, inputs[0] @ updates[0].mT)
    unseen = torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(inputs[0]) @ inputs[0]
    assert float((fused @ unseen).norm()) < 1e-6  # elsewhere the base weight stays


def test_written_gradient_is_the_derivative_of_the_objective() -> None:
    sums, _, _ = random_sums(3, 5, 12, 2, 1)
    point = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 5))).requires_grad_()
    value, gradient = sums.value_and_gradient(point)
    (expected,) = torch.autograd.grad(value, point)
    torch.testing.assert_close(gradient.detach(), expected, rtol=1e-12, atol=1e-14)


@given(st.integers(1, 5), st.integers(2, 8), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_ridge_solution_is_stationary_and_goes_from_least_squares_to_the_base(
    m: int, n: int, rows: int, concepts: int, seed: int
) -> None:
    sums, _, _ = random_sums(m, n, rows, concepts, seed)
    scale = sums.G.trace() / n
    ridges = (1e-3, 1e-1, 1e1, 1e12)
    fused = [solve_exactly(sums, ridge) for ridge in ridges]
    for ridge, update in zip(ridges, fused, strict=True):
        # Δ (G + λ tr(G)/n I) = N
        residual = update @ sums.G + ridge * scale * update - sums.N
        assert float(residual.norm()) <= 1e-9 * float(sums.N.norm() + 1)
    values = [float(sums.objective(update)) for update in (solve_exactly(sums), *fused)]
    assert all(a <= b + 1e-9 * abs(values[-1]) for a, b in itertools.pairwise(values))  # fits less and less
    norms = [float(update.norm()) for update in fused]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] <= 1e-9 * (norms[0] + 1)


def test_ridge_tames_a_nearly_singular_layer_that_least_squares_answers_with_huge_weights() -> None:
    # states of a few tokens: one common direction, and differences between concepts of a hundred-thousandth of it
    rng = np.random.default_rng(0)
    common = torch.from_numpy(rng.standard_normal(8))
    sums = LayerSums.empty(4, 8)
    largest = 0.0
    for _ in range(3):
        update = torch.from_numpy(rng.standard_normal((4, 8)))
        moment = ExactMoment(8)
        moment.update(common + 1e-5 * torch.from_numpy(rng.standard_normal((2, 8))))
        sums.add(update, moment)
        largest = max(largest, float(update.norm()))
    assert float(solve_exactly(sums).norm()) > 100 * largest
    assert float(solve_exactly(sums, 1e-3).norm()) < 3 * largest
