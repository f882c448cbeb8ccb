"""The exact solution of one concept on a linear layer: a generalised eigenproblem.

The lower level fits B for a given basis, the upper level chooses the basis inside the complement of all earlier ones:

    L(B, A) = 1/2 ‖Y - B A X‖^2 / N + ridge/2 ‖B‖^2 + gamma/2 tr(B A S_past A^T B^T),    A = C Q^T,  C C^T = I.

With M = Q^T (S + ridge I + gamma S_past) Q and K = Y X^T Q / N, eliminating B* = K C^T (C M C^T)^-1 leaves

    Phi(C) = 1/2 ‖Y‖^2 / N - 1/2 tr[(C M C^T)^-1 C K^T K C^T],

which depends on the row space of C only and is least at the top-r generalised eigenvectors of (K^T K, M) (ours;
a generalised Rayleigh quotient). With W^T M W = I these are W times the right singular vectors of K W.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from seqlora.arrays import array_friendly
from seqlora.errors import BadInputError, CapacityError, NonFiniteError
from seqlora.subspace import complement, retract_qr


class LinearSolution(NamedTuple):
    """Optimum of one concept: `A` (..., r, n) with orthonormal rows, `B` (..., m, r), and the objective's `value`."""

    A: Tensor
    B: Tensor
    value: Tensor


@array_friendly
def solve_linear(
    X: Tensor,
    Y: Tensor,
    rank: int,
    ridge: float = 0.0,
    forgetting_weight: float = 0.0,
    past_bases: Tensor | None = None,
    past_moment: Tensor | None = None,
) -> LinearSolution:
    """Best rank-r update of one concept from its activations and the output shift that it wants.

    Args:
        X: activations, shape (..., n, N).
        Y: wanted output shift, shape (..., m, N).
        rank: directions r to use, at most n - p.
        ridge: weight of ‖B‖^2 / 2, >= 0.
        forgetting_weight: weight gamma of the forgetting that the update causes on `past_moment`, >= 0.
        past_bases: earlier bases stacked, orthonormal rows, shape (..., p, n); None for no constraint.
        past_moment: weighted sum of earlier second moments, shape (..., n, n); None for zero.

    Returns:
        The global optimum. Complexity: O(N n (n + m) + n^3) a layer.

    Raises:
        CapacityError: fewer than `rank` directions are left.
        NonFiniteError: X or Y is not finite.
        BadInputError: shapes that do not fit, a negative weight.
    """
    if X.shape[:-2] != Y.shape[:-2] or X.shape[-1] != Y.shape[-1] or X.shape[-1] < 1:
        raise BadInputError(
            f"X {tuple(X.shape)} and Y {tuple(Y.shape)} must be (..., n, N) and (..., m, N) with N >= 1"
        )
    if not (bool(torch.isfinite(X).all()) and bool(torch.isfinite(Y).all())):
        raise NonFiniteError("X or Y holds NaN or infinite values; check the recorded activations")
    count = X.shape[-1]
    return solve_moments(
        X @ X.mT / count,
        Y @ X.mT / count,
        rank,
        ridge,
        forgetting_weight,
        past_bases,
        past_moment,
        target_energy=Y.square().sum((-2, -1)) / count,
    )


@array_friendly
def solve_moments(
    second_moment: Tensor,
    cross_moment: Tensor,
    rank: int,
    ridge: float = 0.0,
    forgetting_weight: float = 0.0,
    past_bases: Tensor | None = None,
    past_moment: Tensor | None = None,
    target_energy: Tensor | float = 0.0,
) -> LinearSolution:
    """The same optimum from moments, for layers whose activations were streamed and not kept.

    Args:
        second_moment: X X^T / N, shape (..., n, n).
        cross_moment: Y X^T / N, shape (..., m, n).
        rank: directions r to use.
        ridge: weight of ‖B‖^2 / 2.
        forgetting_weight: weight of tr(B A S_past A^T B^T) / 2.
        past_bases: earlier bases, shape (..., p, n).
        past_moment: S_past, shape (..., n, n).
        target_energy: ‖Y‖^2 / N, which only shifts `value`.
    """
    _check(second_moment, cross_moment, rank, ridge, forgetting_weight, past_bases, past_moment)
    if past_bases is None:
        past_bases = second_moment.new_zeros(*second_moment.shape[:-2], 0, second_moment.shape[-1])
    Q = complement(past_bases)
    # M = Q^T (S + ridge I + gamma S_past) Q,   K = Y X^T Q / N
    S = second_moment + ridge * torch.eye(second_moment.shape[-1], dtype=Q.dtype, device=Q.device)
    if past_moment is not None and forgetting_weight > 0:
        S = S + forgetting_weight * past_moment
    M = Q.mT @ S @ Q
    K = cross_moment @ Q
    C = _top_generalised_directions(K, M, rank)
    # B* = K C^T (C M C^T)^-1: least squares, by pseudo-inverse where the data do not determine B.
    inverse = _pseudo_inverse(C @ M @ C.mT, scale=M)
    B = K @ C.mT @ inverse
    # Phi = 1/2 ‖Y‖^2 / N - 1/2 <B*, K C^T>
    value = 0.5 * torch.as_tensor(target_energy, dtype=B.dtype) - 0.5 * (B * (K @ C.mT)).sum((-2, -1))
    return LinearSolution(C @ Q.mT, B, value)


def _top_generalised_directions(K: Tensor, M: Tensor, rank: int) -> Tensor:
    """Orthonormal rows spanning the top-r generalised eigenvectors of (K^T K, M), M positive semi-definite.

    Directions outside the range of M carry no data (K vanishes there too) and come last.
    """
    W, U = _whitening(M)
    whitened = K @ W
    V = torch.linalg.eigh(whitened.mT @ whitened).eigenvectors.flip(-1)[..., :rank]
    rows = (W @ V).mT
    # Rows outside the range of M are zero: give them any direction, QR makes it orthogonal to the others.
    norms = rows.norm(dim=-1, keepdim=True)
    empty = norms <= 1e-12 * norms.amax(-2, keepdim=True)
    return retract_qr(torch.where(empty, (U @ V).mT, rows / norms.clamp_min(torch.finfo(M.dtype).tiny)))


def _whitening(M: Tensor) -> tuple[Tensor, Tensor]:
    """W with W^T M W = I on the range of M (zero elsewhere), and an orthogonal matrix in the same coordinates.

    Cholesky, M = L L^T and W = L^-T, while M is well conditioned; its eigenvectors otherwise (ten times slower).
    """
    I = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device).expand_as(M)
    L, failed = torch.linalg.cholesky_ex(M)
    pivots = L.diagonal(dim1=-2, dim2=-1)
    limit = (M.shape[-1] * torch.finfo(M.dtype).eps) ** 0.5
    if not bool(failed.any()) and bool((pivots.amin(-1) > limit * pivots.amax(-1)).all()):
        return torch.linalg.solve_triangular(L.mT, I, upper=True), I
    energies, U = torch.linalg.eigh(M)
    cut = energies[..., -1:].clamp_min(0) * M.shape[-1] * torch.finfo(M.dtype).eps
    tiny = torch.finfo(M.dtype).tiny
    return U * torch.where(energies > cut, energies.clamp_min(tiny).rsqrt(), 0.0).unsqueeze(-2), U


def _pseudo_inverse(S: Tensor, scale: Tensor) -> Tensor:
    """Inverse of a symmetric positive semi-definite S on its range, `scale` setting what counts as zero."""
    values, U = torch.linalg.eigh(S)
    largest = scale.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).clamp_min(0)
    cut = largest * scale.shape[-1] * torch.finfo(S.dtype).eps
    return (U * torch.where(values > cut, 1 / values.clamp_min(torch.finfo(S.dtype).tiny), 0.0).unsqueeze(-2)) @ U.mT


def _check(
    second_moment: Tensor,
    cross_moment: Tensor,
    rank: int,
    ridge: float,
    forgetting_weight: float,
    past_bases: Tensor | None,
    past_moment: Tensor | None,
) -> None:
    n = second_moment.shape[-1]
    if second_moment.shape[-2] != n or cross_moment.shape[-1] != n:
        raise BadInputError(
            f"moments of shapes {tuple(second_moment.shape)} and {tuple(cross_moment.shape)} "
            "must be (..., n, n) and (..., m, n)"
        )
    if ridge < 0 or forgetting_weight < 0:
        raise BadInputError(f"ridge {ridge} and forgetting_weight {forgetting_weight} must not be negative")
    if past_bases is not None and past_bases.shape[-1] != n:
        raise BadInputError(f"past_bases have width {past_bases.shape[-1]}, the activations {n}")
    if past_moment is not None and past_moment.shape[-2:] != (n, n):
        raise BadInputError(f"past_moment has shape {tuple(past_moment.shape)}, expected (..., {n}, {n})")
    used = 0 if past_bases is None else past_bases.shape[-2]
    if not 1 <= rank <= n - used:
        raise CapacityError(
            f"rank {rank} does not fit: width {n} has {n - used} directions left after {used}; "
            "lower the rank or choose another capacity policy"
        )
