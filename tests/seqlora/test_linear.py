"""The closed form against a dense generalised eigenproblem, random search and plain Riemannian descent."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlora import solve_linear
from seqlora.errors import BadInputError, CapacityError, NonFiniteError
from seqlora.linear import solve_moments
from theory.tolerance import unit_roundoff


@dataclass(frozen=True)
class Problem:
    X: np.ndarray
    Y: np.ndarray
    ridge: float
    gamma: float
    past: np.ndarray
    past_moment: np.ndarray

    def objective(self, A: np.ndarray, B: np.ndarray) -> float:
        """The objective as the module states it, term by term."""
        BA, N = B @ A, self.X.shape[1]
        fit = np.sum((self.Y - BA @ self.X) ** 2) / N
        return 0.5 * (fit + self.ridge * np.sum(B**2) + self.gamma * np.trace(BA @ self.past_moment @ BA.T))

    def best_B(self, A: np.ndarray) -> np.ndarray:
        """Lower level by an ordinary least-squares call on stacked data, no normal equations."""
        n, N, m, r = len(self.X), self.X.shape[1], len(self.Y), len(A)
        root = scipy.linalg.sqrtm(self.past_moment).real if self.gamma else np.zeros((n, n))
        design = np.hstack([A @ self.X / N**0.5, self.ridge**0.5 * np.eye(r), self.gamma**0.5 * A @ root])
        target = np.hstack([self.Y / N**0.5, np.zeros((m, r)), np.zeros((m, n))])
        return np.linalg.lstsq(design.T, target.T, rcond=None)[0].T

    def value(self, A: np.ndarray) -> float:
        return self.objective(A, self.best_B(A))

    def free(self) -> np.ndarray:
        """Complement of the past bases, (n, n - p), by scipy."""
        return scipy.linalg.null_space(self.past) if len(self.past) else np.eye(len(self.X))

    def solve(self, rank: int) -> object:
        return solve_linear(self.X, self.Y, rank, self.ridge, self.gamma, self.past, self.past_moment)


def problem(
    seed: int, n: int = 10, m: int = 6, N: int = 40, p: int = 3, ridge: float = 0.1, gamma: float = 0.7
) -> Problem:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((n, n)) * np.arange(1, n + 1) ** -0.7
    X = mix @ rng.standard_normal((n, N))
    Y = rng.standard_normal((m, n)) @ X + 0.1 * rng.standard_normal((m, N))
    past = scipy.linalg.orth(rng.standard_normal((n, p))).T if p else np.zeros((0, n))
    Z = rng.standard_normal((n, 2 * n))
    return Problem(X, Y, ridge, gamma, past, Z @ Z.T / (2 * n))


@pytest.mark.parametrize(("ridge", "gamma", "p"), [(0.0, 0.0, 0), (0.1, 0.0, 0), (0.0, 0.0, 3), (0.1, 0.7, 3)])
@pytest.mark.parametrize("rank", [1, 3])
def test_equals_the_dense_generalised_eigenproblem(ridge: float, gamma: float, p: int, rank: int) -> None:
    task = problem(0, ridge=ridge, gamma=gamma, p=p)
    A, B, value = task.solve(rank)
    Q, N = task.free(), task.X.shape[1]
    M = Q.T @ (task.X @ task.X.T / N + ridge * np.eye(len(task.X)) + gamma * task.past_moment) @ Q
    K = task.Y @ task.X.T @ Q / N
    theta, V = scipy.linalg.eigh(K.T @ K, M)
    reference = 0.5 * np.sum(task.Y**2) / N - 0.5 * theta[-rank:].sum()
    condition = np.linalg.cond(M)
    assert value == pytest.approx(reference, abs=10 * len(M) * condition * unit_roundoff() * abs(reference))
    span = scipy.linalg.orth(Q @ V[:, -rank:])
    np.testing.assert_allclose(A.T @ A, span @ span.T, atol=1e-9)
    np.testing.assert_allclose(A @ A.T, np.eye(rank), atol=1e-12)
    np.testing.assert_allclose(A @ task.past.T, 0, atol=1e-12)
    np.testing.assert_allclose(B, task.best_B(A), atol=1e-9)
    assert value == pytest.approx(task.objective(A, B), rel=1e-10)


def test_random_search_is_never_better() -> None:
    task, rng = problem(1), np.random.default_rng(1)
    A, _, value = task.solve(2)
    Q = task.free()
    for scale in (np.inf, 1.0, 1e-1, 1e-2, 1e-3):
        for _ in range(60):
            noise = rng.standard_normal((2, Q.shape[1]))
            C = noise if np.isinf(scale) else A @ Q + scale * noise
            tried = task.value(np.linalg.qr(C.T)[0].T @ Q.T)
            assert tried >= value * (1 - 1e-11)


def test_descent_from_many_starts_gives_one_value() -> None:
    """Plain Riemannian gradient descent with backtracking, written with NumPy alone."""
    task = problem(2, n=7, p=2)
    value = float(task.solve(2).value)
    Q, N = task.free(), task.X.shape[1]
    S = task.X @ task.X.T / N + task.ridge * np.eye(7) + task.gamma * task.past_moment
    M, K = Q.T @ S @ Q, task.Y @ task.X.T @ Q / N
    constant = 0.5 * np.sum(task.Y**2) / N

    def phi(C: np.ndarray) -> tuple[float, np.ndarray]:
        inverse = np.linalg.inv(C @ M @ C.T)
        B = K @ C.T @ inverse
        gradient = B.T @ (B @ C @ M - K)
        return constant - 0.5 * np.sum(B * (K @ C.T)), gradient - gradient @ C.T @ C

    rng = np.random.default_rng(2)
    for _ in range(8):
        C = np.linalg.qr(rng.standard_normal((Q.shape[1], 2)))[0].T
        step, (now, gradient) = 1.0, phi(C)
        for _ in range(3000):
            squared = np.sum(gradient**2)
            if squared < 1e-18:
                break
            step *= 2
            while True:
                tried = np.linalg.qr((C - step * gradient).T)[0].T
                then, direction = phi(tried)
                if then <= now - 0.1 * step * squared or step < 1e-12:
                    break
                step /= 2
            C, now, gradient = tried, then, direction
        assert now == pytest.approx(value, rel=1e-8)


@given(
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(1, 12),
    st.data(),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 999),
)
def test_degenerate_shapes_stay_optimal(n: int, m: int, N: int, data: st.DataObject, ridge: float, seed: int) -> None:
    """Fewer samples than directions (rank-deficient X), m < r, n = 1, p = n - r: still orthonormal and unbeaten."""
    p = data.draw(st.integers(0, n - 1))
    rank = data.draw(st.integers(1, n - p))
    rng = np.random.default_rng(seed)
    past = scipy.linalg.orth(rng.standard_normal((n, p))).T if p else np.zeros((0, n))
    task = Problem(rng.standard_normal((n, N)), rng.standard_normal((m, N)), ridge, 0.0, past, np.zeros((n, n)))
    A, B, value = task.solve(rank)
    np.testing.assert_allclose(A @ A.T, np.eye(rank), atol=1e-11)
    np.testing.assert_allclose(A @ past.T, 0, atol=1e-11)
    assert np.isfinite(B).all()
    scale = 0.5 * np.sum(task.Y**2) / N
    assert task.objective(A, B) == pytest.approx(float(value), abs=1e-7 * scale)
    Q = scipy.linalg.null_space(past) if p else np.eye(n)
    for _ in range(5):
        C = np.linalg.qr(rng.standard_normal((n - p, rank)))[0].T
        assert task.value(C @ Q.T) >= value - 1e-7 * scale


def test_dependent_inputs_and_zero_targets() -> None:
    X = np.vstack([np.ones((2, 5)), np.zeros((4, 5))])  # rank one, equal and dead features
    A, B, value = solve_linear(X, np.ones((2, 5)), 3)
    assert value == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(B @ A @ X, np.ones((2, 5)), atol=1e-12)
    A, B, value = solve_linear(X, np.zeros((2, 5)), 2, ridge=0.1)
    assert np.abs(B).max() == 0
    np.testing.assert_allclose(A @ A.T, np.eye(2), atol=1e-12)


def test_batches_and_moments_agree_with_single_layers() -> None:
    tasks = [problem(seed) for seed in range(3)]
    X, Y = (np.stack([getattr(task, key) for task in tasks]) for key in "XY")
    past, S_past = np.stack([t.past for t in tasks]), np.stack([t.past_moment for t in tasks])
    together = solve_linear(X, Y, 2, 0.1, 0.7, past, S_past)
    N = X.shape[-1]
    streamed = solve_moments(
        X @ X.transpose(0, 2, 1) / N, Y @ X.transpose(0, 2, 1) / N, 2, 0.1, 0.7, past, S_past, (Y**2).sum((1, 2)) / N
    )
    np.testing.assert_allclose(streamed.value, together.value, rtol=1e-12)
    for index, task in enumerate(tasks):
        alone = task.solve(2)
        assert together.value[index] == pytest.approx(float(alone.value), rel=1e-12)
        np.testing.assert_allclose(together.B[index] @ together.A[index], alone.B @ alone.A, atol=1e-9)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
def test_float32_loses_what_its_roundoff_and_the_conditioning_say(condition: float) -> None:
    """The optimum is flat: the value reached in float32 is within cond(M) n u of the optimum, or the span is cut."""
    task = problem(3, ridge=1.0 / condition, gamma=0.0, p=0)
    exact = task.solve(2)
    single = solve_linear(task.X.astype(np.float32), task.Y.astype(np.float32), 2, ridge=task.ridge)
    assert single.A.dtype == single.B.dtype == np.float32
    reached = task.value(np.linalg.qr(single.A.astype(float).T)[0].T)
    M = task.X @ task.X.T / task.X.shape[1] + task.ridge * np.eye(10)
    excess = (reached - float(exact.value)) / (0.5 * np.sum(task.Y**2) / task.X.shape[1])
    assert -1e-12 <= excess <= 10 * 10 * np.linalg.cond(M) * unit_roundoff(np.float32)


def test_more_rank_never_hurts_and_constraints_never_help() -> None:
    task = problem(4)
    values = [float(task.solve(r).value) for r in range(1, 7)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))
    free = solve_linear(task.X, task.Y, 2, task.ridge, task.gamma, None, task.past_moment)
    assert float(free.value) < float(task.solve(2).value)
    assert float(solve_linear(task.X, task.Y, 2, task.ridge).value) < float(free.value)


def test_bad_input_is_named() -> None:
    X, Y = np.ones((4, 5)), np.ones((2, 5))
    with pytest.raises(CapacityError, match="2 directions left after 2"):
        solve_linear(X, Y, 3, past_bases=np.eye(4)[:2])
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        solve_linear(X * np.nan, Y, 1)
    with pytest.raises(BadInputError, match="must not be negative"):
        solve_linear(X, Y, 1, ridge=-1.0)
    with pytest.raises(BadInputError, match="N >= 1"):
        solve_linear(X, Y[:, :3], 1)
    with pytest.raises(BadInputError, match="past_bases have width 3"):
        solve_linear(torch.ones(4, 5), torch.ones(2, 5), 1, past_bases=torch.eye(3)[:1])
