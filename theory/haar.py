"""Frozen bases by Monte Carlo: what Haar-random subspaces read of a second moment, in the law and not by formula."""

from __future__ import annotations

import numpy as np

from theory.layers.base import Array

_ENTRIES_PER_BATCH = 2_000_000  # 16 MB of float64


def haar_reads(eigenvalues: Array, rank: int, trials: int, rng: np.random.Generator) -> Array:
    """Draw `tr(A S A^T)` for Haar-random bases A of rank r in d dimensions.

    The law depends on the eigenvalues of S only. Rows of a Gaussian matrix Z span a Haar subspace, so the projector
    is `Z^T (Z Z^T)^-1 Z` and no basis is ever orthonormalised: `tr(A S A^T) = tr((Z Z^T)^-1 Z diag(w) Z^T)`.

    Args:
        eigenvalues: w of S inside the complement, shape (d,).
        rank: r, at most d.
        trials: independent draws.
        rng: source of randomness.

    Returns:
        Energies, shape (trials,). Cost O(trials r^2 d).
    """
    d = len(eigenvalues)
    batch = max(1, _ENTRIES_PER_BATCH // (rank * d))
    reads = []
    for start in range(0, trials, batch):
        Z = rng.standard_normal((min(batch, trials - start), rank, d))
        gram, weighted = Z @ Z.transpose(0, 2, 1), (Z * eigenvalues) @ Z.transpose(0, 2, 1)
        reads.append(np.trace(np.linalg.solve(gram, weighted), axis1=1, axis2=2))
    return np.concatenate(reads)
