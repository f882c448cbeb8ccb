"""Energies against direct computation on samples, Monte Carlo and exhaustive alternatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlora.errors import BadInputError, CapacityError
from seqlora.subspace import complement
from theory import energy
from theory.haar import haar_reads
from theory.layers.synthetic import spectrum
from theory.stattest import check_mean
from theory.tolerance import eigenvalue, matmul, orthonormality


def haar(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def problem(n: int, p: int, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs X, their second moment, and p earlier directions."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, samples)) * np.arange(1, n + 1)[:, None] ** -1.0
    return X, X @ X.T / samples, haar(n, rng)[:p]


shapes = st.tuples(st.integers(2, 24), st.integers(0, 8), st.integers(1, 8), st.integers(1, 40)).filter(
    lambda shape: shape[1] + shape[2] <= shape[0]
)


@given(shape=shapes, seed=st.integers(0, 99))
def test_optimal_basis_is_orthonormal_and_orthogonal_to_the_past(shape: tuple[int, int, int, int], seed: int) -> None:
    n, p, rank, samples = shape  # samples < rank: fewer directions with energy than the basis has
    _, S, past = problem(n, p, samples, seed)
    A = energy.optimal_basis(S, rank, past)
    assert A.shape == (rank, n)
    assert np.abs(A @ A.T - np.eye(rank)).max() <= orthonormality(n)
    assert np.abs(A @ past.T).max(initial=0) <= orthonormality(n)


@given(shape=shapes, seed=st.integers(0, 99))
def test_optimum_is_the_ky_fan_value_of_the_complement(shape: tuple[int, int, int, int], seed: int) -> None:
    n, p, rank, samples = shape
    X, S, past = problem(n, p, samples, seed)
    Q = complement(past)
    expected = np.trace(S) - np.linalg.eigvalsh(Q.T @ S @ Q)[::-1][:rank].sum()
    optimum = energy.optimal_residual_energy(S, rank, past)
    tolerance = 4 * eigenvalue(n, float(np.trace(S)))
    assert optimum == pytest.approx(expected, abs=tolerance)
    # and it is the energy of the residual activations themselves
    A = energy.optimal_basis(S, rank, past)
    residual = X - A.T @ (A @ X)
    assert optimum == pytest.approx(float(np.sum(residual**2)) / samples, abs=tolerance)


@given(seed=st.integers(0, 99))
def test_flat_and_zero_spectra_still_give_whole_bases(seed: int) -> None:
    past = haar(8, np.random.default_rng(seed))[:3]
    for S in (np.eye(8), np.zeros((8, 8)), np.diag([1.0] + [0.0] * 7)):
        A = energy.optimal_basis(S, 5, past)
        assert np.abs(np.vstack([A, past]) @ np.vstack([A, past]).T - np.eye(8)).max() <= orthonormality(8)


def test_wide_layers_take_the_lanczos_path_to_the_same_optimum() -> None:
    rng = np.random.default_rng(0)
    n, U = energy.LANCZOS_WIDTH, haar(energy.LANCZOS_WIDTH, rng)
    S = (U * spectrum(n, 1.0)) @ U.T
    past = U[:, 1:4].T  # the second to fourth eigenvectors are taken
    expected = n - spectrum(n, 1.0)[[0, 4, 5, 6]].sum()
    assert energy.optimal_residual_energy(S, 4, past) == pytest.approx(expected, abs=eigenvalue(n, n))
    flat = energy.optimal_basis(np.eye(n), 4, past)
    assert np.abs(flat @ flat.T - np.eye(4)).max() <= orthonormality(n)
    assert np.abs(flat @ past.T).max() <= orthonormality(n)


@pytest.mark.parametrize(("n", "p", "rank"), [(3, 0, 1), (5, 1, 2), (6, 0, 5), (8, 3, 2), (5, 2, 3)])
def test_frozen_mean_and_variance_are_those_of_haar_bases(n: int, p: int, rank: int) -> None:
    rng = np.random.default_rng(n + p)
    _, S, past = problem(n, p, 50, 1)
    Q = complement(past)
    reads = [
        energy.residual_energy(S, np.linalg.qr(rng.standard_normal((n - p, rank)))[0].T @ Q.T) for _ in range(4000)
    ]
    mean, variance = energy.frozen_residual_energy(S, rank, past)
    energies = np.array(reads)
    if rank == n - p:
        assert variance == 0
        assert energies == pytest.approx(mean, abs=matmul(n * n, float(np.trace(S))))
        return
    assert check_mean("mean", energies, mean).holds
    assert check_mean("variance", (energies - mean) ** 2, variance).holds
    # power: a formula with n in the place of d, or without the trace term, is told from the right one
    if p:
        wrong_mean = np.trace(S) * (1 - rank / n)
        assert not check_mean("mean", energies, wrong_mean).holds
    assert not check_mean("variance", (energies - mean) ** 2, 1.5 * variance).holds


@pytest.mark.parametrize(("d", "rank"), [(3, 1), (6, 4), (40, 8)])
def test_haar_reads_have_the_law_of_orthonormalised_gaussians(d: int, rank: int) -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(d)
    w = spectrum(d, 1.0)
    fast = haar_reads(w, rank, 3000, rng)
    slow = [float(np.sum(w[:, None] * np.linalg.qr(rng.standard_normal((d, rank)))[0] ** 2)) for _ in range(3000)]
    assert ks_2samp(fast, slow).pvalue > 1e-6
    assert ks_2samp(1.1 * fast, slow).pvalue < 1e-6


@given(shape=shapes, seed=st.integers(0, 99))
def test_leak_and_forgetting_equal_sums_over_samples(shape: tuple[int, int, int, int], seed: int) -> None:
    n, _, rank, samples = shape
    rng = np.random.default_rng(seed)
    X, S, _ = problem(n, 0, samples, seed)
    pairs = [(rng.standard_normal((rank, n)), rng.standard_normal((5, rank))) for _ in range(3)]
    M = sum(B @ A for A, B in pairs)
    expected = float(np.sum((M @ X) ** 2)) / samples
    assert energy.forgetting_energy(pairs, S) == pytest.approx(expected, rel=1e-10)
    assert energy.forgetting_energy(M, S) == pytest.approx(expected, rel=1e-10)
    others = pairs[0][1] @ pairs[0][0] + pairs[2][1] @ pairs[2][0]
    assert energy.interference(pairs, S, 1) == pytest.approx(float(np.sum((others @ X) ** 2)) / samples, rel=1e-10)
    assert energy.interference(pairs, S, -2) == energy.interference(pairs, S, 1)
    bases = np.stack([A for A, _ in pairs])
    assert energy.leak(S, bases) == pytest.approx(sum(float(np.sum((A @ X) ** 2)) for A in bases) / samples, rel=1e-10)


@given(n=st.integers(4, 24), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_no_later_directions_read_more_than_the_worst_case(n: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, S, _ = problem(n, 0, 30, seed)
    w, V = np.linalg.eigh(S)
    q = n - rank - 1 if n - rank > 1 else 1
    A = energy.optimal_basis(S, rank)
    worst, tolerance = energy.worst_leak(w, rank, q), eigenvalue(n, float(np.trace(S)))
    later = np.linalg.qr(complement(A) @ rng.standard_normal((n - rank, q)))[0].T
    assert energy.leak(S, later) <= worst + tolerance
    assert energy.leak(S, V[:, ::-1][:, rank : rank + q].T) == pytest.approx(worst, abs=tolerance)  # attained


def test_learned_bases_fill_the_layer_and_no_more() -> None:
    moments = [np.diag(np.roll([8.0, 4, 2, 1, 0, 0], shift)) for shift in (0, 1, 2)]
    bases = energy.learned_bases(moments, 2)
    rows = bases.reshape(6, 6)
    assert np.abs(rows @ rows.T - np.eye(6)).max() <= orthonormality(6)
    # the second concept's strongest free directions are axes 2 and 3 (its axes 0 and 1 are taken)
    assert np.abs(bases[1] @ np.eye(6)[[2, 3]].T).max(axis=1) == pytest.approx([1, 1])
    with pytest.raises(CapacityError, match="rank 2 does not fit: 6 of 6 directions are taken"):
        energy.learned_bases([*moments, moments[0]], 2)


def test_bad_input_is_named() -> None:
    S = np.eye(4)
    with pytest.raises(CapacityError, match="choose 1 to 4"):
        energy.optimal_residual_energy(S, 5)
    with pytest.raises(CapacityError, match="choose 1 to 4"):
        energy.frozen_residual_energy(S, 0)
    with pytest.raises(CapacityError, match="do not fit into 4"):
        energy.worst_leak(np.ones(4), 3, 2)
    with pytest.raises(BadInputError, match="no updates"):
        energy.forgetting_energy([], S)
    with pytest.raises(BadInputError, match="concept 2 is not one of 1"):
        energy.interference([(np.ones((1, 4)), np.ones((2, 1)))], S, 2)
    assert energy.interference([(np.ones((1, 4)), np.ones((2, 1)))], S, 0) == 0
