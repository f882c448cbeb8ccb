"""Energies of one linear layer, per sample: what a basis misses, what later bases read, what updates destroy.

With S the second moment of the inputs, A a basis (rows orthonormal) and M a sum of updates:

    residual energy  rho = tr((I - A^T A) S)      leak = tr(A_later S A_later^T)      forgetting F = tr(M S M^T)

Everything here is exact algebra on second moments; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse.linalg import eigsh

from seqlora.errors import BadInputError, CapacityError
from seqlora.subspace import project_out, retract_qr
from theory.layers.base import Array

LANCZOS_WIDTH = 512  # from here on the few leading eigenvectors come from Lanczos: O(n^2 r) and not O(n^3)


def residual_energy(S: Array, A: Array) -> float:
    """Energy that a basis does not see, `rho = tr S - tr(A S A^T)`.

    Args:
        S: second moment, shape (n, n).
        A: basis, shape (r, n), rows orthonormal.
    """
    return float(np.trace(S)) - leak(S, A)


def leak(S: Array, bases: Array) -> float:
    """Energy that bases read, `tr(A S A^T)`: of concept j's S by the bases learnt after j.

    Args:
        S: second moment, shape (n, n).
        bases: shape (q, n) or (T, r, n), all rows orthonormal.
    """
    A = np.reshape(bases, (-1, S.shape[0]))
    # tr(A S A^T) = sum of (A S) * A, without the q x q product
    return float(np.sum((A @ S) * A))


def restricted(S: Array, past: Array | None) -> Array:
    """`(I - P) S (I - P)`, P the projector onto the rows of `past`: S inside the complement, in ambient coordinates."""
    if past is None or not len(past):
        return S
    rows = project_out(project_out(S, past).T, past)
    return (rows + rows.T) / 2


def optimal_basis(S: Array, rank: int, past: Array | None = None) -> Array:
    """Basis of least residual energy orthogonal to `past`: the top eigenvectors of `Q^T S Q` (constrained Ky Fan).

    Args:
        S: second moment, shape (n, n), positive semi-definite.
        rank: r, at most n - p.
        past: earlier bases, shape (p, n), rows orthonormal.

    Returns:
        A of shape (r, n), rows orthonormal, by falling eigenvalue.

    Raises:
        CapacityError: fewer than r directions are left.
    """
    n, taken = S.shape[0], 0 if past is None else len(past)
    _require_room(n, taken, rank)
    inside = restricted(S, past)
    # A shift by tau inside the complement keeps the eigenvectors and lifts all of them above the p zeros of the past,
    # also where S has fewer than r directions of its own.
    tau = np.trace(inside) / n or 1.0
    shifted = inside + tau * np.eye(n) - (0 if past is None else tau * (past.T @ past))
    if n >= LANCZOS_WIDTH and rank <= n // 16:
        start = np.sum(shifted, axis=1) + tau  # a fixed start makes the result repeatable
        _, vectors = eigsh(shifted, k=rank, v0=start, ncv=max(4 * rank, 32))
    else:
        # all of them: LAPACK's subset driver may return fewer than asked for where eigenvalues cluster
        vectors = np.linalg.eigh(shifted)[1][:, n - rank :]
    A = np.ascontiguousarray(vectors[:, ::-1].T)
    # rounding left the rows within u of the complement; one projection puts them there exactly
    return A if past is None or not taken else retract_qr(project_out(A, past))


def optimal_residual_energy(S: Array, rank: int, past: Array | None = None) -> float:
    """Least residual energy of a rank-r basis orthogonal to `past`.

    `rho* = tr S - sum_{k<=r} lambda_k(Q^T S Q)`, Q the complement of `past` (constrained Ky Fan; claim C1).

    Args:
        S: second moment, shape (n, n).
        rank: r, at most n - p.
        past: earlier bases, shape (p, n), rows orthonormal.
    """
    return residual_energy(S, optimal_basis(S, rank, past))


def frozen_residual_energy(S: Array, rank: int, past: Array | None = None) -> tuple[float, float]:
    """Mean and variance of the residual energy of a Haar-random basis in the complement of `past` (claim C1).

    With `d = n - p` and `H = Q^T S Q`:
        E rho = tr S - (r/d) tr H,      Var rho = 2r(d-r) / (d(d-1)(d+2)) * (tr H^2 - (tr H)^2 / d).

    Args:
        S: second moment, shape (n, n).
        rank: r, at most n - p.
        past: earlier bases, shape (p, n), rows orthonormal.
    """
    n, taken = S.shape[0], 0 if past is None else len(past)
    _require_room(n, taken, rank)
    d, inside = n - taken, restricted(S, past)
    # Q^T S Q and (I-P) S (I-P) have the same non-zero eigenvalues, hence the same traces
    trace, trace_of_square = float(np.trace(inside)), float(np.sum(inside**2))
    mean = float(np.trace(S)) - rank / d * trace
    if d == rank:
        return mean, 0.0  # the only basis of the whole complement
    variance = 2 * rank * (d - rank) / (d * (d - 1) * (d + 2)) * (trace_of_square - trace**2 / d)
    return mean, max(variance, 0.0)


def frozen_leak(S: Array, directions: int) -> float:
    """Expected leak into q Haar-random directions: `(q/n) tr S`, which is `(q/(n-r)) E rho` for frozen bases."""
    return directions / S.shape[0] * float(np.trace(S))


def worst_leak(eigenvalues: Array, rank: int, directions: int) -> float:
    """Most that q later directions can read once the top r are taken: `sum_{r<k<=r+q} lambda_k` (Ky Fan on the tail).

    Args:
        eigenvalues: of S inside the complement of the earlier bases, in any order.
        rank: r.
        directions: q; r + q at most the number of eigenvalues.
    """
    if rank + directions > len(eigenvalues):
        raise CapacityError(f"{rank} + {directions} directions do not fit into {len(eigenvalues)}")
    return float(np.sort(eigenvalues)[::-1][rank : rank + directions].sum())


def learned_bases(moments: Sequence[Array], rank: int) -> Array:
    """Bases learnt one after another from second moments, each optimal in the complement of the earlier ones.

    Returns:
        Shape (T, r, n); all T r rows are orthonormal.
    """
    rows = np.zeros((0, moments[0].shape[0]))
    for S in moments:
        rows = np.concatenate([rows, optimal_basis(S, rank, rows)])
    return rows.reshape(len(moments), rank, -1)


def merged(updates: Array | Sequence[tuple[Array, Array]]) -> Array:
    """Sum of updates `M = sum B_i A_i`, shape (m, n), from (A_i, B_i) pairs; a matrix is returned as it is."""
    if isinstance(updates, np.ndarray):
        return updates
    if not updates:
        raise BadInputError("no updates were given; a sum of updates needs at least one (A, B) pair")
    return np.add.reduce([B @ A for A, B in updates])


def forgetting_energy(updates: Array | Sequence[tuple[Array, Array]], S: Array) -> float:
    """Change of concept j's outputs by later updates, per sample: `F = tr(M S M^T) = ‖M X_j‖^2 / N`.

    Args:
        updates: M of shape (m, n), or the (A_i, B_i) of the concepts learnt after j.
        S: second moment of concept j, shape (n, n).
    """
    M = merged(updates)
    return float(np.sum((M @ S) * M))


def interference(updates: Sequence[tuple[Array, Array]], S: Array, index: int) -> float:
    """Change of concept j's outputs by all other updates in the full merge: the sum runs over i ≠ j.

    Args:
        updates: (A_i, B_i) of every concept.
        S: second moment of concept j, shape (n, n).
        index: j; negative counts from the end.
    """
    if not -len(updates) <= index < len(updates):
        raise BadInputError(f"concept {index} is not one of {len(updates)}")
    others = [update for i, update in enumerate(updates) if i != index % len(updates)]
    return forgetting_energy(others, S) if others else 0.0


def _require_room(n: int, taken: int, rank: int) -> None:
    if not 1 <= rank <= n - taken:
        raise CapacityError(f"rank {rank} does not fit: {taken} of {n} directions are taken; choose 1 to {n - taken}")
