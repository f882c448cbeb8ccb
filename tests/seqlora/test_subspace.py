"""Complements, retractions, angles and spreading against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlora.errors import BadInputError
from seqlora.subspace import (
    capacity,
    complement,
    overlap,
    principal_angles,
    project_out,
    retract_cholesky,
    retract_qr,
    spread,
    tangent,
    welch_floor,
)
from theory.tolerance import orthonormality, unit_roundoff


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    """(n, r, p) with r from 1 to n - p and p from 0 to n - 1; r = n and p = n - 1 are drawn too."""
    n = draw(st.integers(1, 24))
    p = draw(st.integers(0, n - 1))
    return n, draw(st.integers(1, n - p)), p


def haar(n: int, r: int, seed: int) -> np.ndarray:
    """An independent source of orthonormal rows: scipy's Haar matrices."""
    if n == 1:
        return np.ones((r, 1))
    return scipy.stats.ortho_group.rvs(n, random_state=np.random.default_rng(seed))[:r]


@given(st.integers(1, 24), st.data(), st.integers(0, 2**16))
def test_complement_completes_the_projector(n: int, data: st.DataObject, seed: int) -> None:
    p = data.draw(st.integers(0, n))
    past = haar(n, p, seed)
    Q = complement(past)
    assert Q.shape == (n, n - p)
    tolerance = orthonormality(n)
    P = Q @ Q.T
    np.testing.assert_allclose(P, np.eye(n) - past.T @ past, atol=tolerance)
    np.testing.assert_allclose(P @ P, P, atol=tolerance)
    np.testing.assert_allclose(past @ Q, 0, atol=tolerance)


@given(shapes(), st.integers(0, 2**16))
def test_retractions_agree_and_are_idempotent(shape: tuple[int, int, int], seed: int) -> None:
    n, r, _ = shape
    A = haar(n, r, seed)
    moved = A + 0.1 * np.random.default_rng(seed).standard_normal((r, n)) / np.sqrt(n)
    by_qr, by_cholesky = retract_qr(moved), retract_cholesky(moved)
    tolerance = 10 * orthonormality(n)  # the condition number of `moved` is below 10
    np.testing.assert_allclose(by_qr @ by_qr.T, np.eye(r), atol=tolerance)
    np.testing.assert_allclose(by_qr, by_cholesky, atol=tolerance)  # the same map, hence the same projector
    reference = scipy.linalg.orth(moved.T)
    np.testing.assert_allclose(by_qr.T @ by_qr, reference @ reference.T, atol=tolerance)
    np.testing.assert_allclose(retract_qr(by_qr), by_qr, atol=tolerance)
    np.testing.assert_allclose(retract_cholesky(by_cholesky), by_cholesky, atol=tolerance)


def test_cholesky_retraction_falls_back_on_rank_deficient_input() -> None:
    A = np.random.default_rng(0).standard_normal((4, 9))
    A[3] = A[0] + A[1]
    for retraction in (retract_qr, retract_cholesky):
        retracted = retraction(A)
        np.testing.assert_allclose(retracted @ retracted.T, np.eye(4), atol=orthonormality(9))
        np.testing.assert_allclose(A - A @ retracted.T @ retracted, 0, atol=orthonormality(9) * np.linalg.norm(A))


def test_batched_equals_one_by_one() -> None:
    stack = np.random.default_rng(0).standard_normal((5, 3, 8))
    for function in (complement, retract_qr, retract_cholesky):
        for one, together in zip(stack, function(stack), strict=True):
            np.testing.assert_allclose(function(one), together, atol=orthonormality(8))


@given(shapes(), st.integers(0, 2**16))
def test_project_out_leaves_nothing_even_where_little_remains(shape: tuple[int, int, int], seed: int) -> None:
    n, r, p = shape
    past = haar(n, p, seed)
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((r, p)) @ past + 1e-7 * rng.standard_normal((r, n))
    clean = project_out(A, past)
    scale = max(np.linalg.norm(clean), np.finfo(float).tiny)
    assert np.linalg.norm(clean @ past.T) <= orthonormality(n) * scale + orthonormality(n) * 1e-7


def test_one_projection_alone_is_not_enough() -> None:
    past = haar(24, 12, 0)
    rng = np.random.default_rng(1)
    A = rng.standard_normal((2, 12)) @ past + 1e-10 * rng.standard_normal((2, 24))
    once = A - A @ past.T @ past
    assert np.linalg.norm(once @ past.T) > 100 * np.linalg.norm(project_out(A, past) @ past.T)


@given(shapes(), st.integers(0, 2**16))
def test_tangent_is_the_orthogonal_projection(shape: tuple[int, int, int], seed: int) -> None:
    n, r, _ = shape
    A = haar(n, r, seed)
    G = np.random.default_rng(seed).standard_normal((r, n))
    Z = tangent(A, G)
    tolerance = orthonormality(n) * np.linalg.norm(G)
    np.testing.assert_allclose(Z @ A.T + A @ Z.T, 0, atol=tolerance)
    np.testing.assert_allclose(tangent(A, Z), Z, atol=tolerance)
    assert abs(np.sum((G - Z) * Z)) <= tolerance * np.linalg.norm(G)


@given(st.integers(2, 20), st.data(), st.integers(0, 2**16))
def test_principal_angles_match_scipy(n: int, data: st.DataObject, seed: int) -> None:
    r_i, r_j = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    A_i, A_j = haar(n, r_i, seed), haar(n, r_j, seed + 1)
    ours = principal_angles(A_i, torch.from_numpy(A_j))
    reference = np.sort(scipy.linalg.subspace_angles(A_i.T, A_j.T))
    # scipy itself is accurate to sqrt(u) at angle 0 only; `test_tiny_and_right_angles_are_accurate` is stricter.
    np.testing.assert_allclose(ours, reference, atol=2 * np.finfo(float).eps ** 0.5)
    expected = np.sqrt(np.sum(np.cos(reference) ** 2))
    assert overlap(A_i, A_j) == pytest.approx(expected, abs=1e3 * orthonormality(n))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.7, np.pi / 2 - 1e-9, np.pi / 2])
def test_tiny_and_right_angles_are_accurate(angle: float) -> None:
    A_i, A_j = np.array([[1.0, 0.0, 0.0]]), np.array([[np.cos(angle), np.sin(angle), 0.0]])
    assert principal_angles(A_i, A_j)[0] == pytest.approx(angle, abs=4 * unit_roundoff())


def test_capacity_and_floor() -> None:
    assert [capacity(n, 4) for n in (3, 4, 7, 320)] == [0, 1, 1, 80]
    assert welch_floor(320, 4, 80) == 0
    assert welch_floor(320, 4, 101) == pytest.approx(404**2 / 320 - 404)
    with pytest.raises(BadInputError, match="must be positive"):
        capacity(0, 4)


@pytest.mark.parametrize("concepts", [12, 24])
def test_spread_reaches_the_welch_floor(concepts: int) -> None:
    A = spread(32, 4, concepts, np.random.default_rng(0))
    np.testing.assert_allclose(A @ A.transpose(0, 2, 1), np.broadcast_to(np.eye(4), (concepts, 4, 4)), atol=1e-12)
    total = sum(overlap(A[i], A[j]) ** 2 for i in range(concepts) for j in range(concepts) if i != j)
    floor = welch_floor(32, 4, concepts)
    # The descent stops within 1e-13 of the floor of the frame potential, which is floor + T r.
    assert abs(total - floor) <= 2e-13 * (floor + 4 * concepts) + orthonormality(32) * floor
    haar_total = 4**2 / 32 * concepts * (concepts - 1)  # mean overlap of random bases: r^2 / n a pair
    assert total < 0.9 * haar_total  # bases that are merely random are measurably worse


def test_spread_within_capacity_is_orthogonal() -> None:
    A = spread(12, 3, 4, np.random.default_rng(0)).reshape(12, 12)
    np.testing.assert_allclose(A @ A.T, np.eye(12), atol=orthonormality(12))


def test_spread_where_no_tight_frame_exists() -> None:
    """Two planes in three dimensions share a line: the best total is 2 (one each way), the Welch value is 4/3."""
    A = spread(3, 2, 2, np.random.default_rng(0))
    assert welch_floor(3, 2, 2) == pytest.approx(4 / 3)
    assert 2 * overlap(A[0], A[1]) ** 2 == pytest.approx(2, abs=1e-9)


@given(st.integers(1, 6), st.data(), st.integers(0, 2**16))
def test_nothing_beats_the_floor(n: int, data: st.DataObject, seed: int) -> None:
    r, concepts = data.draw(st.integers(1, n)), data.draw(st.integers(1, 6))
    A = np.stack([haar(n, r, seed + k) for k in range(concepts)])
    gram = np.einsum("irn,jsn->ijrs", A, A)
    total = np.sum(gram**2) - concepts * r
    assert total >= welch_floor(n, r, concepts) - orthonormality(n) * (1 + concepts * r) ** 2


def test_bad_input_is_named() -> None:
    with pytest.raises(BadInputError, match="do not fit into width 2"):
        complement(np.eye(3)[:, :2])
    twice = np.vstack([np.eye(5)[:2], np.eye(5)[:1]])
    with pytest.raises(BadInputError, match="linearly dependent"):
        complement(twice)
    with pytest.raises(BadInputError, match="rank 4 is larger"):
        spread(3, 4, 2, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    A = torch.randn(2, 7, dtype=dtype)
    for function in (complement, retract_qr, retract_cholesky):
        assert function(A).dtype == dtype
    assert isinstance(retract_qr(A.numpy()), np.ndarray)
