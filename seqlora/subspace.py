"""Subspaces with orthonormal rows: complements, retractions, angles, and how many fit into a layer.

A basis is a matrix `A` of shape (..., r, n) with `A A^T = I_r`; leading dimensions are batches of layers of equal
shape. Every function takes tensors or NumPy arrays and gives back the same kind.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqlora.arrays import array_friendly
from seqlora.errors import BadInputError


@array_friendly
def complement(past: Tensor) -> Tensor:
    """Orthonormal basis of the directions that earlier concepts left free.

    Args:
        past: earlier bases, stacked: shape (..., p, n), rows linearly independent, p <= n.

    Returns:
        Q of shape (..., n, n - p) with `Q^T Q = I` and `past Q = 0`; the identity for p = 0.

    Raises:
        BadInputError: more rows than columns, or dependent rows (their complement is larger than n - p).
    """
    p, n = past.shape[-2:]
    if p == 0:
        return torch.eye(n, dtype=past.dtype, device=past.device).expand(*past.shape[:-2], n, n).clone()
    if p > n:
        raise BadInputError(f"{p} earlier directions do not fit into width {n}; lower the rank or see `capacity`")
    # past^T = [Q_1 Q_2] [R; 0]: the last n - p columns span the complement.
    Q, R = torch.linalg.qr(past.mT, mode="complete")
    diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
    if bool((diagonal.amin(-1) <= n * torch.finfo(past.dtype).eps * diagonal.amax(-1)).any()):
        raise BadInputError(f"earlier bases ({p} rows in width {n}) are linearly dependent; was one used twice?")
    return Q[..., p:]


@array_friendly
def project_out(A: Tensor, past: Tensor) -> Tensor:
    """Remove from the rows of A what lies in the span of `past` (orthonormal rows).

    Done twice: one pass leaves an error of u ‖A‖ / ‖A - A P‖, the second removes it ("twice is enough",
    Giraud, Langou & Rozloznik 2005).

    Args:
        A: shape (..., r, n).
        past: shape (..., p, n), orthonormal rows; p = 0 is allowed.
    """
    for _ in range(2):
        A = A - (A @ past.mT) @ past  # A (I - P), P = past^T past
    return A


@array_friendly
def retract_qr(A: Tensor) -> Tensor:
    """Orthonormalise the rows of A by QR, signs fixed so that `A -> A` on an orthonormal A.

    Args:
        A: shape (..., r, n) of full row rank.
    """
    Q, R = torch.linalg.qr(A.mT)
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(A.dtype)
    return (Q * signs.unsqueeze(-2)).mT.contiguous()


@array_friendly
def retract_cholesky(A: Tensor) -> Tensor:
    """The same map as `retract_qr`, by Cholesky-QR twice (Yamamoto et al. 2015): only matrix products of size r.

    Accurate to O(n u) while cond(A) < u^(-1/2) / 10, which holds after any step that is short against 1;
    a worse A (the Cholesky factor does not exist) falls back on Householder QR.

    Args:
        A: shape (..., r, n) of full row rank.
    """
    retracted = A
    for _ in range(2):
        # A A^T = L L^T, so L^-1 A has orthonormal rows and spans the same space.
        L, failed = torch.linalg.cholesky_ex(retracted @ retracted.mT)
        if bool(failed.any()):
            return retract_qr(A)
        retracted = torch.linalg.solve_triangular(L, retracted, upper=False)
    return retracted


@array_friendly
def tangent(A: Tensor, G: Tensor) -> Tensor:
    """Project a Euclidean gradient onto the tangent space of the Stiefel manifold at A (Euclidean metric).

    T_A = {Z : Z A^T + A Z^T = 0}; the projection is G - sym(G A^T) A (Edelman, Arias & Smith 1998, eq. 2.4).

    Args:
        A: shape (..., r, n), orthonormal rows.
        G: shape (..., r, n).
    """
    H = G @ A.mT
    return G - 0.5 * (H + H.mT) @ A


def overlap(A_i: Tensor | NDArray[np.floating], A_j: Tensor | NDArray[np.floating]) -> float:
    """Overlap `‖A_i A_j^T‖_F` of two bases: 0 if orthogonal, sqrt(r) if they span the same space."""
    return float(np.linalg.norm(_as_array(A_i) @ _as_array(A_j).T))


def principal_angles(A_i: Tensor | NDArray[np.floating], A_j: Tensor | NDArray[np.floating]) -> NDArray[np.float64]:
    """Principal angles between two row spaces, in radians, ascending, shape (min(r_i, r_j),).

    Small angles come from sines and large ones from cosines, so that both are accurate (Bjorck & Golub 1973).
    """
    first, second = _as_array(A_i), _as_array(A_j)
    if len(second) > len(first):
        first, second = second, first
    cosines = np.clip(np.linalg.svd(second @ first.T, compute_uv=False), 0, 1)
    sines = np.clip(np.linalg.svd(second - (second @ first.T) @ first, compute_uv=False), 0, 1)[::-1]
    sines = sines[: len(cosines)]
    return np.where(cosines**2 < 0.5, np.arccos(cosines), np.arcsin(sines))


def capacity(n: int, rank: int) -> int:
    """Number of mutually orthogonal rank-r bases that fit into width n: floor(n / r)."""
    if n < 1 or rank < 1:
        raise BadInputError(f"width {n} and rank {rank} must be positive")
    return n // rank


def welch_floor(n: int, rank: int, concepts: int) -> float:
    """Least possible total overlap `sum_{i != j} ‖A_i A_j^T‖_F^2` of T rank-r bases in width n.

    `(T r)^2 / n - T r` past capacity, else 0: the frame potential tr((sum P_i)^2) >= (tr sum P_i)^2 / n
    (Cauchy-Schwarz; Welch 1974, Benedetto & Fickus 2003).
    """
    capacity(n, rank)
    directions = concepts * rank
    return max(0.0, directions**2 / n - directions)


def spread(
    n: int,
    rank: int,
    concepts: int,
    rng: np.random.Generator,
    *,
    max_iterations: int = 20_000,
    tolerance: float = 1e-13,
) -> NDArray[np.float64]:
    """Bases that overlap as little as possible: orthogonal within capacity, of least frame potential past it.

    Past capacity, Riemannian gradient descent on the frame potential tr(S^2), S = sum_i A_i^T A_i, from a random
    start. It reaches `welch_floor` wherever a tight fusion frame exists; some shapes, mostly just past capacity, have
    none (two planes in three dimensions must share a line; Casazza et al. 2011 say which).
    Cost: O(T r n^2) an iteration.

    Args:
        n: width of the layer.
        rank: directions of each basis, <= n.
        concepts: number of bases T.
        rng: source of the start (and of the Haar rotation within capacity).
        max_iterations: bound on the descent.
        tolerance: stop when the potential is within this relative distance of the floor.

    Returns:
        Array of shape (T, r, n), each block with orthonormal rows.
    """
    if rank > n:
        raise BadInputError(f"rank {rank} is larger than width {n}")
    directions = concepts * rank
    if directions <= n:
        rows = retract_qr(rng.standard_normal((directions, n)))
        return rows.reshape(concepts, rank, n)
    A = retract_qr(rng.standard_normal((concepts, rank, n)))
    floor = directions**2 / n
    # The gradient is 4 A_i S and S is close to (T r / n) I, hence the step n / (2 T r) on A_i S.
    step = n / (2 * directions)
    for _ in range(max_iterations):
        rows = A.reshape(-1, n)
        S = rows.T @ rows
        potential = float((S**2).sum())
        gradient = tangent(A, A @ S)
        stationary = float((gradient**2).sum()) <= (directions * np.finfo(float).eps) ** 2 * potential
        if potential - floor <= tolerance * floor or stationary:
            break
        A = retract_qr(A - step * gradient)
    return A


def _as_array(A: Tensor | NDArray[np.floating]) -> NDArray[np.float64]:
    value = A.detach().cpu().numpy() if isinstance(A, Tensor) else np.asarray(A)
    return value.astype(np.float64).reshape(-1, value.shape[-1])
