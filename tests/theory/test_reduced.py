from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqlora.errors import BadInputError, CapacityError
from seqlora.linear import solve_moments
from theory.convergence import random_start, retract
from theory.reduced import ReducedProblem
from theory.tolerance import orthonormality

Array = NDArray[np.float64]


def moments(n: int, m: int, rng: np.random.Generator, decay: float = 1.0) -> tuple[Array, Array, float]:
    frame = np.linalg.qr(rng.standard_normal((n, n)))[0]
    S = (frame * np.arange(1, n + 1.0) ** -decay) @ frame.T
    D = rng.standard_normal((m, n))
    return S, D @ S, float(((D @ S) * D).sum())


def problem(n: int = 12, m: int = 7, used: int = 3, seed: int = 3, **options: float) -> ReducedProblem:
    rng = np.random.default_rng(seed)
    S, K, energy = moments(n, m, rng)
    past = np.linalg.qr(rng.standard_normal((n, used)))[0].T if used else None
    return ReducedProblem.from_moments(S, K, energy, past_bases=past, **{"ridge": 1e-2, **options})


def loss(B: Array, C: Array, p: ReducedProblem) -> float:
    """L(B, C) written out, without elimination."""
    return 0.5 * p.energy - float((B * (p.cross @ C.T)).sum()) + 0.5 * float(((B @ C @ p.metric @ C.T) * B).sum())


def test_value_is_the_minimum_over_the_coefficients() -> None:
    p, rng = problem(), np.random.default_rng(0)
    C = random_start(p, 3, rng)
    B = p.coefficients(C)
    assert p.value(C) == pytest.approx(loss(B, C, p), abs=p.rounding(C))
    assert all(loss(B + 0.1 * rng.standard_normal(B.shape), C, p) > p.value(C) for _ in range(20))


def test_value_depends_on_the_row_space_only() -> None:
    p, rng = problem(), np.random.default_rng(1)
    C = random_start(p, 3, rng)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert p.value(rotation @ C) == pytest.approx(p.value(C), abs=2 * p.rounding(C))


@given(n=st.integers(2, 12), m=st.integers(1, 12), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=40, deadline=None)
def test_gradient_is_the_slope_along_retractions(n: int, m: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    S, K, energy = moments(n, m, rng)
    rank = data.draw(st.integers(1, n))
    p = ReducedProblem.from_moments(S, K, energy, ridge=0.1)
    C = random_start(p, rank, rng)
    gradient = p.gradient(C)
    # Tangent and horizontal without any projection, to the rounding of H^-1 (C N C^T) products of size ‖grad‖ cond.
    scale = np.linalg.norm(p.cross) ** 2 / p.metric_spectrum[0]
    assert (
        np.linalg.norm(gradient @ C.T) <= orthonormality(n + m) * scale * p.metric_spectrum[-1] / p.metric_spectrum[0]
    )
    V = rng.standard_normal(C.shape)
    V /= np.linalg.norm(V)
    V -= 0.5 * (V @ C.T + C @ V.T) @ C
    # Central difference: truncation L h^2-like against rounding u Phi / h; h = u^(1/3) balances them.
    h = 6e-6
    slope = (p.value(retract(C + h * V)) - p.value(retract(C - h * V))) / (2 * h)
    assert slope == pytest.approx(float((gradient * V).sum()), abs=1e-7 * p.smoothness_bound() + p.rounding(C) / h)


def test_partial_gradient_at_the_inner_optimum_is_the_gradient() -> None:
    p = problem()
    C = random_start(p, 3, np.random.default_rng(2))
    tolerance = orthonormality(20) * np.linalg.norm(p.cross) ** 2 / p.metric_spectrum[0]
    assert np.allclose(p.partial_gradient(C, p.coefficients(C)), p.gradient(C), rtol=0, atol=tolerance)


def test_curvature_is_the_second_derivative_along_retractions() -> None:
    p, rng = problem(), np.random.default_rng(3)
    C = random_start(p, 2, rng)
    operator = p.curvature(C)
    for _ in range(5):
        V = rng.standard_normal(C.shape)
        V -= (V @ C.T) @ C
        h = 2e-4  # u^(1/4): truncation h^2 against rounding u / h^2, both below 1e-6 of the curvatures here
        second = (p.value(retract(C + h * V)) - 2 * p.value(C) + p.value(retract(C - h * V))) / h**2
        assert second == pytest.approx(float(V.ravel() @ operator.matvec(V.ravel())), rel=1e-5, abs=1e-5)
    dense = np.array([operator.matvec(e) for e in np.eye(C.size)])
    assert np.allclose(dense, dense.T, atol=1e-12)
    assert p.largest_curvature(C, rng)[0] == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-4)


@given(n=st.integers(3, 14), seed=st.integers(0, 2**32 - 1), decay=st.floats(0, 3), length=st.floats(1e-3, 10))
@settings(max_examples=60, deadline=None)
def test_smoothness_bound_covers_every_step(n: int, seed: int, decay: float, length: float) -> None:
    rng = np.random.default_rng(seed)
    p = ReducedProblem.from_moments(*moments(n, 5, rng, decay), ridge=1e-3)
    C = random_start(p, min(2, n), rng)
    V = rng.standard_normal(C.shape)
    V = length * (V - (V @ C.T) @ C)
    L = p.smoothness_bound()
    model = p.value(C) + float((p.gradient(C) * V).sum()) + 0.5 * L * float((V**2).sum())
    assert p.value(retract(C + V)) <= model + 2 * p.rounding(C)


@pytest.mark.parametrize(("used", "gamma"), [(0, 0.0), (4, 0.0), (4, 2.0)])
def test_closed_form_agrees_with_the_solver_of_the_method(used: int, gamma: float) -> None:
    rng = np.random.default_rng(4)
    S, K, energy = moments(16, 9, rng)
    past_moment = moments(16, 9, rng)[0]
    past = np.linalg.qr(rng.standard_normal((16, used)))[0].T if used else np.zeros((0, 16))
    p = ReducedProblem.from_moments(
        S, K, energy, ridge=1e-2, forgetting_weight=gamma, past_moment=past_moment, past_bases=past
    )
    C, value = p.optimum(3)
    solution = solve_moments(S, K, 3, 1e-2, gamma, past, past_moment, target_energy=energy)
    tolerance = 4 * p.rounding(C)
    assert value == pytest.approx(p.value(C), abs=tolerance)
    assert value == pytest.approx(float(solution.value), abs=tolerance)
    assert np.linalg.norm(p.basis(C) @ past.T) <= orthonormality(16) * 4


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_no_random_basis_beats_the_closed_form_and_the_certificate_is_valid(seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    p = ReducedProblem.from_moments(*moments(8, 6, rng), ridge=1e-2)
    C, best = p.optimum(rank)
    near = retract(C + 1e-3 * rng.standard_normal(C.shape))
    for point in (random_start(p, rank, rng), near):
        gap = p.value(point) - best
        assert gap >= -2 * p.rounding(point)
        assert gap <= p.certified_gap(point) + 2 * p.rounding(point)
    assert rank == 6 or p.certified_gap(near) < np.inf or p.generalised_eigenvalues[0][rank - 1] < 1e-2


def test_certificate_says_nothing_away_from_the_optimum() -> None:
    p = problem()
    _, U = p.generalised_eigenvalues
    worst = np.linalg.qr(U[:, -3:])[0].T  # a critical point: no gradient, yet the global maximum
    assert np.linalg.norm(p.gradient(worst)) < 1e-10
    assert p.certified_gap(worst) == np.inf


def test_bad_problems_are_refused() -> None:
    S = np.diag([1.0, 0.0, 1.0])
    with pytest.raises(BadInputError, match="singular"):
        ReducedProblem.from_moments(S, S, 1.0)
    with pytest.raises(CapacityError, match="does not fit"):
        problem(n=6, used=4).optimum(3)
