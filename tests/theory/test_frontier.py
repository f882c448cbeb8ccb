from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from seqlora.errors import BadInputError
from seqlora.linear import solve_moments
from theory.frontier import Frontier, Point, alternate, interference_range, simultaneous
from theory.tolerance import eigenvalue

Array = NDArray[np.float64]


def moment(n: int, samples: int, rng: np.random.Generator) -> Array:
    X = rng.standard_normal((n, samples)) * (np.arange(1, n + 1.0) ** -0.5)[:, None]
    return X @ X.T / samples


def frontier(seed: int = 0, n: int = 10, m: int = 8, rank: int = 3, samples: int = 40) -> Frontier:
    rng = np.random.default_rng(seed)
    S, past, D = moment(n, samples, rng), moment(n, samples, rng), rng.standard_normal((m, n))
    return Frontier(D @ S, float(((D @ S) * D).sum()), S, past, rank)


def excess(f: Frontier, M: Array, gamma: float) -> float:
    point = f.place(M)
    return point.gain - gamma * point.forgetting - f.support(gamma)


@given(n=st.integers(1, 12), samples=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_pencil_diagonalises_both_even_when_singular(n: int, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    S_i, S_j = moment(n, samples, rng), moment(n, samples, rng)
    F, share, condition = simultaneous(S_i, S_j)
    tolerance = eigenvalue(n, condition)
    assert np.allclose(F.T @ S_i @ F, np.diag(share), rtol=0, atol=tolerance)
    assert np.allclose(F.T @ S_j @ F, np.diag(1 - share), rtol=0, atol=tolerance)
    assert F.shape[1] == np.linalg.matrix_rank(S_i + S_j)


def test_interference_range_agrees_with_the_generalised_eigenproblem() -> None:
    rng = np.random.default_rng(1)
    S_i, S_j = moment(9, 50, rng), moment(9, 50, rng)
    values = scipy.linalg.eigh(S_j, S_i, eigvals_only=True)
    assert interference_range(S_j, S_i) == pytest.approx((values[0], values[-1]), rel=1e-10)


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_interference_ratio_of_any_update_is_in_range(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    S_i, S_j = moment(6, 30, rng), moment(6, 30, rng)
    low, high = interference_range(S_j, S_i)
    M = rng.standard_normal((rows, 6))
    ratio = np.trace(M @ S_j @ M.T) / np.trace(M @ S_i @ M.T)
    assert low * (1 - 1e-9) <= ratio <= high * (1 + 1e-9)


def test_equal_moments_make_interference_equal_adaptation() -> None:
    S = moment(7, 40, np.random.default_rng(2))
    assert interference_range(S, S) == pytest.approx((1, 1), rel=1e-12)


def test_interference_is_unbounded_where_only_the_other_concept_lives() -> None:
    low, high = interference_range(np.eye(3), np.diag([1.0, 1.0, 0.0]))
    assert (low, high) == (pytest.approx(1), np.inf)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 30.0])
def test_optimum_attains_the_support_and_agrees_with_the_solver_of_the_method(gamma: float) -> None:
    f = frontier()
    M = f.optimum(gamma)
    assert np.linalg.matrix_rank(M) == f.rank
    assert abs(excess(f, M, gamma)) <= f.rounding(M, gamma)
    A, B, _ = solve_moments(f.second_moment, f.cross, f.rank, forgetting_weight=gamma, past_moment=f.past_moment)
    assert np.allclose(B @ A, M, rtol=0, atol=1e-9 * np.linalg.norm(M))
    W = f.second_moment + gamma * f.past_moment
    theta = scipy.linalg.eigh(f.cross.T @ f.cross, W, eigvals_only=True)[::-1]
    assert f.support(gamma) == pytest.approx(theta[: f.rank].sum(), rel=1e-10)


@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 5), size=st.floats(-3, 3), gamma=st.floats(0, 50))
@settings(max_examples=80, deadline=None)
def test_no_update_of_the_rank_passes_a_supporting_line(seed: int, rank: int, size: float, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    f = frontier(seed % 100, rank=rank)
    random = 10**size * rng.standard_normal((8, rank)) @ rng.standard_normal((rank, 10))
    near = f.optimum(gamma) + 1e-2 * random
    U, s, Vt = np.linalg.svd(near)
    for M in (random, (U[:, :rank] * s[:rank]) @ Vt[:rank], alternate(f, gamma, random[:rank], 30)):
        assert excess(f, M, gamma) <= f.rounding(M, gamma)
        assert f.place(M).gain <= f.best_gain(f.place(M).forgetting)[0] + f.rounding(M, gamma)


def test_wrong_frontiers_are_passed() -> None:
    f = frontier()
    M = f.optimum(1.0)
    narrow = Frontier(f.cross, f.energy, f.second_moment, f.past_moment, f.rank - 1)
    assert excess(narrow, M, 1.0) > 1e6 * f.rounding(M, 1.0)
    point = f.place(M)
    assert point.gain - point.forgetting > f.support(2.0) + 1e6 * f.rounding(M, 1.0)


def test_frontier_is_concave_and_bracketed_by_chords_and_lines() -> None:
    f = frontier(3)
    points = f.sweep(np.geomspace(1e-3, 1e3, 40))
    g, F = np.array(points).T
    assert (np.diff(F) < 0).all()
    assert (np.diff(g) < 0).all()
    slopes = np.diff(g) / np.diff(F)
    assert (np.diff(slopes) > 0).all()  # steeper towards less forgetting
    middle = f.best_gain((F[10] + F[11]) / 2)[0]
    assert (g[10] + g[11]) / 2 < middle < g[10]


def test_frontier_is_attained_between_supported_points_that_tie() -> None:
    # Two directions, rank 1: at gamma = 15/16 they are equally good, and pure choices leave a jump in forgetting.
    f = Frontier(np.diag([2.0, 1.0]), 9.0, np.eye(2), np.diag([4.0, 0.2]), 1)
    gamma = 15 / 16
    assert 4 / (1 + 4 * gamma) == pytest.approx(1 / (1 + 0.2 * gamma))
    W = np.diag(f.second_moment + gamma * f.past_moment)
    forgettings = []
    for angle in np.linspace(0, np.pi / 2, 7):
        A = np.array([[np.cos(angle), np.sin(angle)]]) / np.sqrt(W)
        M = f.cross @ A.T @ A / ((A * W) @ A.T).item()
        point = f.place(M)
        assert excess(f, M, gamma) == pytest.approx(0, abs=1e-12)
        assert f.best_gain(point.forgetting)[0] == pytest.approx(point.gain, rel=1e-4)
        forgettings.append(point.forgetting)
    # Rotating inside the tied eigenspace sweeps the whole jump.
    assert forgettings == sorted(forgettings, reverse=True)
    assert forgettings[0] == pytest.approx(4 * (4 / (1 + 4 * gamma) ** 2))


def test_constrained_search_reaches_the_frontier_and_no_further() -> None:
    f, rng = frontier(4, n=4, m=4, rank=2), np.random.default_rng(4)
    budget = f.place(f.optimum(0.5)).forgetting * 0.7
    best, gamma = f.best_gain(budget)

    def unpack(flat: Array) -> Array:
        return flat[:8].reshape(4, 2) @ flat[8:].reshape(2, 4)

    gains = []
    for _ in range(5):
        found = minimize(
            lambda flat: -f.place(unpack(flat)).gain,
            rng.standard_normal(16),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda flat: budget - f.place(unpack(flat)).forgetting},
            options={"maxiter": 500, "ftol": 1e-12},
        )
        point = f.place(unpack(found.x))
        gains.append(point.gain - gamma * max(0.0, point.forgetting - budget))
    assert max(gains) <= best + 1e-9 * f.energy
    assert max(gains) == pytest.approx(best, rel=1e-4)


def test_full_rank_frontier_ends_at_least_squares() -> None:
    f = frontier(5, n=6, m=6, rank=6)
    assert f.place(f.optimum(0.0)).gain == pytest.approx(f.energy, rel=1e-10)
    assert f.best_gain(1e6) == (pytest.approx(f.energy), 0.0)
    assert f.shortfall(Point(0.0, 1e6)) == pytest.approx(1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInputError, match="rank 9"):
        frontier(rank=9)
    with pytest.raises(BadInputError, match="gamma=-1"):
        frontier().support(-1.0)
    with pytest.raises(BadInputError, match="zero"):
        simultaneous(np.zeros((2, 2)), np.zeros((2, 2)))
