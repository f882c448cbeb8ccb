"""Batched Monte Carlo of forgetting, in the smallest space that has the same law.

R = S^1/2 Z Psi^1/2 with i.i.d. entries Z of mean 0 and variance 1, F = ‖M R‖^2 / N. A Gaussian Z is rotation
invariant, so F is a weighted sum of chi-squares, one for each eigenvalue of G and Psi. Other families are not, but F
reads Z only through the q = rank(M) rows of a root of S^1/2 M^T M S^1/2: one product of a (q, n) with an (n, N trials)
matrix a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError
from theory.bounds import forgetting_weights
from theory.layers import synthetic

Array = NDArray[np.float64]

SUB_GAUSSIAN = ("gaussian", "rademacher", "uniform")
"""Families whose variance is a sub-Gaussian proxy (they are strictly sub-Gaussian)."""

CONTROLS = ("student", "sparse")
"""Families outside the assumption: no proxy at all, or one that is far above the variance."""

_ENTRIES_PER_BATCH = 2_000_000  # 16 MB of float64: stays near the cache and far from the memory limit


def symmetric_root(S: Array) -> Array:
    """The positive semi-definite root S^1/2; rounding below zero is clipped."""
    values, V = np.linalg.eigh((S + S.T) / 2)
    return (V * np.sqrt(np.clip(values, 0, None))) @ V.T


def reading_root(M: Array, S: Array) -> Array:
    """H with H^T H = S^1/2 M^T M S^1/2 and rank(M) rows: ‖M S^1/2 Z‖ = ‖H Z‖, shape (q, n)."""
    _, values, Vh = np.linalg.svd(M @ symmetric_root(S), full_matrices=False)
    keep = values > values.max(initial=0.0) * max(M.shape) * np.finfo(np.float64).eps
    return values[keep, None] * Vh[keep]


def forgetting_samples(
    M: Array,
    S: Array,
    n_samples: int,
    family: str,
    trials: int,
    rng: np.random.Generator,
    column_proxy: Array | None = None,
    mean: Array | None = None,
) -> Array:
    """Draw F = ‖M (S^1/2 Z Psi^1/2 + mu 1^T)‖^2 / N, Z with i.i.d. standardised entries of a family.

    Args:
        M: updates learned later, shape (m, n).
        S: covariance of one column, shape (n, n).
        n_samples: columns N.
        family: a key of `theory.layers.synthetic.FAMILIES`.
        trials: independent draws.
        rng: source of randomness.
        column_proxy: Psi, the covariance between columns, shape (N, N); the identity if not given.
        mean: mu, shape (n,); zero if not given.

    Returns:
        Samples of F, shape (trials,). Gaussian without mean: O(trials rank(M)) draws; otherwise
        O(trials n N rank(M)) flops.
    """
    H = reading_root(M, S)
    if family == "gaussian" and mean is None:
        return _gaussian_samples(np.einsum("qn,qn->q", H, H), n_samples, trials, rng, column_proxy)
    shift = 0.0 if mean is None else _mean_in_reading_space(M, S, H, mean)
    root = None if column_proxy is None else symmetric_root(np.asarray(column_proxy, np.float64))
    samples = np.empty(trials)
    batch = max(1, _ENTRIES_PER_BATCH // (H.shape[1] * n_samples))
    for start in range(0, trials, batch):
        size = min(batch, trials - start)
        Z = synthetic.draw(family, (H.shape[1], size * n_samples), rng)
        read = (H @ Z).reshape(len(H), size, n_samples)
        if root is not None:
            read = read @ root
        samples[start : start + size] = np.einsum("qbk,qbk->b", read + shift, read + shift) / n_samples
    return samples


def _gaussian_samples(
    g: Array, n_samples: int, trials: int, rng: np.random.Generator, column_proxy: Array | None
) -> Array:
    """Weighted chi-squares: sum_i g_i chi^2_N / N if columns are independent, sum_ik g_i psi_k chi^2_1 / N if not."""
    if column_proxy is None:
        return rng.chisquare(n_samples, (trials, len(g))) @ (g / n_samples)
    weights = forgetting_weights(g, n_samples, column_proxy).ravel()
    samples = np.empty(trials)
    batch = max(1, _ENTRIES_PER_BATCH // len(weights))
    for start in range(0, trials, batch):
        size = min(batch, trials - start)
        samples[start : start + size] = np.square(rng.standard_normal((size, len(weights)))) @ weights
    return samples


def _mean_in_reading_space(M: Array, S: Array, H: Array, mean: Array) -> Array:
    """The mean as H sees it, shape (q, 1, 1): coordinates of M mu in the left singular basis of M S^1/2.

    M S^1/2 = U H with U^T U = I on the rows of H, so ‖M mu - U U^T M mu‖ must vanish: M mu lies in the range of M.

    Raises:
        BadInputError: S is singular in a direction of the mean that M reads.
    """
    U = M @ symmetric_root(S) @ np.linalg.pinv(H)
    shift = U.T @ (M @ mean)
    lost = np.linalg.norm(M @ mean - U @ shift)
    if lost > 1e-8 * np.linalg.norm(M @ mean):
        raise BadInputError("the mean has a part that M reads and the covariance does not span; regularise S")
    return shift[:, None, None]
