"""Leading principal directions of wide data without an n x n eigenproblem."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_OVERSAMPLING = 16
_STEPS = 2


def principal_directions(X: Array, count: int, rng: np.random.Generator) -> Array:
    """Leading left singular vectors of X by randomised subspace iteration (Halko, Martinsson and Tropp 2011).

    Two steps with 16 extra directions: direction k is off by about (lambda_{count+16} / lambda_k)^2, which matters
    only where eigenvalues are nearly equal, and there any direction between them serves the callers as well.

    Args:
        X: data, shape (n, N).
        count: directions wanted, at most min(n, N).
        rng: draws the start.

    Returns:
        Orthonormal columns, leading first, shape (n, count). O(n N count).
    """
    n, N = X.shape
    size = min(count + _OVERSAMPLING, n, N)
    if 3 * size > min(n, N):  # nothing to save
        return np.linalg.svd(X, full_matrices=False)[0][:, :count] if n > N else _descending(X @ X.T)[:, :count]
    V = np.linalg.qr(X @ (X.T @ rng.standard_normal((n, size))))[0]
    for _ in range(_STEPS - 1):
        V = np.linalg.qr(X @ (X.T @ V))[0]
    # Rayleigh-Ritz: rotate to the principal directions inside the subspace.
    read = V.T @ X
    return V @ _descending(read @ read.T)[:, :count]


def _descending(S: Array) -> Array:
    """Eigenvectors of a symmetric matrix, largest eigenvalue first."""
    return np.linalg.eigh(S)[1][:, ::-1]
