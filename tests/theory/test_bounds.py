from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from seqlora.errors import BadInputError
from theory.bounds import (
    certificate,
    forgetting_bound,
    forgetting_weights,
    gaussian_tail,
    quadratic_form_bound,
    union_delta,
)
from theory.tolerance import eigenvalue, matmul


def spd(size: int, rng: np.random.Generator, rank: int | None = None) -> np.ndarray:
    H = rng.standard_normal((size, rank or size))
    return H @ H.T


@given(size=st.integers(1, 8), columns=st.integers(1, 6), delta=st.floats(1e-5, 0.5), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_matrix_form_equals_the_stated_terms(size: int, columns: int, delta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    G, Psi, kappa2 = spd(size, rng), spd(columns, rng), 1.7
    x = np.log(1 / delta)
    stated = kappa2 * (
        np.trace(G) * np.trace(Psi)
        + 2 * np.linalg.norm(G) * np.linalg.norm(Psi) * np.sqrt(x)
        + 2 * np.linalg.norm(G, 2) * np.linalg.norm(Psi, 2) * x
    )
    bound = forgetting_bound(G, columns, delta, Psi, kappa2)
    assert bound == pytest.approx(stated / columns, rel=1e-12 * size * columns)
    plain = np.trace(G) + 2 * np.linalg.norm(G) * np.sqrt(x / columns) + 2 * np.linalg.norm(G, 2) * x / columns
    assert forgetting_bound(G, columns, delta) == pytest.approx(plain, rel=1e-12 * size)


@pytest.mark.parametrize("delta", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("kappa2", [1.0, 2.5])
def test_factor_covers_the_whole_right_hand_side(delta: float, kappa2: float) -> None:
    """R = sqrt(kappa2) S^1/2 Z has proxy kappa2 S; multiplying less than everything by kappa2 fails for it."""
    g = np.arange(1, 13) ** -1.0
    weights = forgetting_weights(kappa2 * g, 16).ravel()
    G = np.diag(g)
    assert gaussian_tail(weights, forgetting_bound(G, 16, delta, kappa2=kappa2)) <= delta
    if kappa2 > 1:
        deviation_only = np.trace(G) + kappa2 * (forgetting_bound(G, 16, delta) - np.trace(G))
        assert gaussian_tail(weights, deviation_only) > delta


@pytest.mark.parametrize("delta", [0.1, 0.01, 0.001])
def test_wrong_constants_are_caught_by_the_exact_tail(delta: float) -> None:
    one = np.ones(1)  # one direction, one column: x is what the last term must pay for
    many = np.full(400, 1 / 400)  # many directions: sqrt(x) is what the middle term must pay for
    x = -np.log(delta)
    for w in (one, many):
        assert gaussian_tail(w, quadratic_form_bound(w, delta)) <= delta
    frobenius, largest = np.linalg.norm(many), many.max()
    without_middle = many.sum() + 2 * x * largest
    halved_middle = many.sum() + np.sqrt(x) * frobenius + 2 * x * largest
    assert gaussian_tail(many, without_middle) > delta
    assert gaussian_tail(many, halved_middle) > delta
    if delta < 0.05:  # the last term rules far out only
        assert gaussian_tail(one, 1 + 2 * np.sqrt(x)) > delta
        assert gaussian_tail(one, 1 + x) > delta


@given(seed=st.integers(0, 10**6), mean_energy=st.floats(0, 50), delta=st.floats(1e-4, 0.5))
@settings(max_examples=40, deadline=None)
def test_a_mean_is_paid_by_the_cheaper_of_two_terms(seed: int, mean_energy: float, delta: float) -> None:
    w = np.random.default_rng(seed).random(10)
    centred = quadratic_form_bound(w, delta)
    bound = quadratic_form_bound(w, delta, mean_energy=mean_energy)
    assert centred + mean_energy <= bound * (1 + 1e-12)
    assert bound <= (np.sqrt(mean_energy) + np.sqrt(centred)) ** 2 * (1 + 1e-12)


@given(
    n=st.integers(2, 12),
    rank=st.integers(1, 3),
    directions=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_certificate_covers_every_admissible_update(n: int, rank: int, directions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = min(rank, n - 1)
    q = min(directions, n - rank)
    frame = ortho_group.rvs(n, random_state=rng) if n > 1 else np.ones((1, 1))
    A_j, A = frame[:rank], frame[rank : rank + q]
    S = spd(n, rng)
    B = rng.standard_normal((5, q))
    budget = float(np.linalg.norm(B, 2))
    residual = np.eye(n) - A_j.T @ A_j
    spectrum = np.clip(np.linalg.eigvalsh(residual @ S @ residual), 0, None)
    M = B @ A
    tolerance = 10 * eigenvalue(n, budget**2 * float(np.linalg.norm(S, 2))) * n
    assert forgetting_bound(M @ S @ M.T, 7, 0.05) <= certificate(spectrum, q, budget, 7, 0.05) + tolerance


def test_certificate_is_attained_and_needs_each_of_its_terms() -> None:
    rng = np.random.default_rng(5)
    n, q, budget = 10, 3, 1.5
    S = np.diag(np.arange(n, 0, -1.0))
    A_j = np.eye(n)[:2]
    spectrum = np.concatenate([np.zeros(2), np.arange(n - 2, 0, -1.0)])
    certified = certificate(spectrum, q, budget, 4, 0.1)

    def realised(M: np.ndarray) -> float:
        return forgetting_bound(M @ S @ M.T, 4, 0.1)

    slack = 1 + matmul(n, 10.0)
    assert realised(budget * np.eye(n)[2:5]) == pytest.approx(certified, rel=1e-12)
    assert realised(1.01 * budget * np.eye(n)[2:5]) > certified * slack  # budget broken
    assert realised(budget * np.eye(n)[2:6]) > certified * slack  # one direction too many
    assert realised(budget * np.eye(n)[:3]) > certified * slack  # this concept's directions reused
    assert np.allclose(A_j @ np.eye(n)[2:5].T, 0)
    haar = ortho_group.rvs(q, random_state=rng)
    assert realised(budget * haar @ np.eye(n)[2:5]) == pytest.approx(certified, rel=1e-12)


def test_empty_and_degenerate_cases() -> None:
    assert forgetting_bound(np.zeros((3, 3)), 5, 0.1) == 0.0
    assert certificate(np.arange(4.0), 0, 2.0, 5, 0.1, mean_energy=3.0) == 0.0
    assert certificate(np.arange(4.0), 9, 1.0, 5, 0.1) == certificate(np.arange(4.0), 4, 1.0, 5, 0.1)
    assert union_delta(0.1, 11) == pytest.approx(0.01)


def test_bad_arguments_get_one_line() -> None:
    G = np.eye(2)
    for arguments in ((G, 0, 0.1), (G, 4, 0.0), (np.ones(3), 4, 0.1), (np.full((2, 2), np.nan), 4, 0.1)):
        with pytest.raises(BadInputError):
            forgetting_bound(*arguments)
    with pytest.raises(BadInputError, match="column_proxy"):
        forgetting_bound(G, 4, 0.1, np.eye(3))
    with pytest.raises(BadInputError, match="kappa2"):
        forgetting_bound(G, 4, 0.1, kappa2=0.0)
    with pytest.raises(BadInputError, match="budget"):
        certificate(np.ones(3), 2, -1.0, 4, 0.1)
    with pytest.raises(BadInputError, match="second concept"):
        union_delta(0.1, 1)
