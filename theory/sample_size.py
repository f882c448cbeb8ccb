"""How many samples a learned basis needs before it beats a frozen one (claim C1, finite samples).

The population is the recorded data itself: windows are drawn from it with replacement, so Σ is known exactly, the
draws are i.i.d. and bounded, and the theory below applies without any assumption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import eigsh

from theory.energy import frozen_residual_energy, optimal_residual_energy, residual_energy
from theory.haar import haar_reads
from theory.layers.base import Array

MIN_SIZES = 4  # so that the table shows how the excess falls, also where the first size is already enough
CONFIDENCE = 0.99  # probability with which the learned basis has to win


@dataclass(frozen=True)
class SampleSize:
    """Learning from few windows, measured.

    Attributes:
        n_windows: windows that the basis was learned from.
        probability: share of draws in which its residual energy was below that of a frozen basis.
        excess: largest excess over the optimum among the draws for which the bound was evaluated.
        excess_bound: 2 r ‖Σ̂ - Σ‖_op of that draw.
        worst_ratio: largest excess / bound over those draws.
    """

    n_windows: int
    probability: float
    excess: float
    excess_bound: float
    worst_ratio: float


def sufficient_windows(windows: Array, S: Array, rank: int) -> float:
    """Number of windows above which a learned basis beats a frozen one with probability 0.99, by theory.

    Excess <= 2 r ‖Σ̂ - Σ‖; Cantelli's inequality keeps the frozen basis above `mean - s √199` and matrix Bernstein
    (Tropp 2015, Theorem 1.6.2) keeps `‖Σ̂ - Σ‖` below `t = (mean - s √199 - ρ*) / (2 r)`, each but for 0.005:
        N >= 2 log(2n / 0.005) (b ‖Σ‖ + b t / 3) / t^2,        b = max over windows of ‖X_w X_w^T / w‖_op.

    Args:
        windows: the population, shape (K, n, w).
        S: its second moment, shape (n, n).
        rank: r.

    Returns:
        N, or infinity where the spectrum has no gap to learn.
    """
    n, half_failure = len(S), (1 - CONFIDENCE) / 2
    mean, variance = frozen_residual_energy(S, rank)
    # Cantelli: P(rho <= mean - k s) <= 1 / (1 + k^2)
    margin = mean - np.sqrt((1 / half_failure - 1) * variance) - optimal_residual_energy(S, rank)
    if margin <= 0:
        return np.inf
    t = margin / (2 * rank)
    grams = np.swapaxes(windows, 1, 2) @ windows / windows.shape[2]  # w x w: the same norm as n x n
    b = float(np.linalg.eigvalsh(grams)[:, -1].max())
    return float(2 * np.log(2 * n / half_failure) * (b * _norm(S) + b * t / 3) / t**2)


def measure(
    windows: Array, S: Array, rank: int, draws: int, bounded: int, rng: np.random.Generator
) -> list[SampleSize]:
    """Double the number of windows until a learned basis wins in at least 99 % of the draws (four sizes at least).

    Args:
        windows: the population, shape (K, n, w).
        S: its second moment, shape (n, n).
        rank: r.
        draws: independent draws of data for each number of windows, and as many frozen bases.
        bounded: draws for which the excess bound, which needs a norm of an n x n matrix, is evaluated too.
        rng: source of randomness.

    Returns:
        One row for each number of windows tried; the last one reached 99 % or the size of the population.
    """
    total, optimum = float(np.trace(S)), optimal_residual_energy(S, rank)
    frozen = total - haar_reads(np.asarray(np.linalg.eigvalsh(S), dtype=np.float64), rank, draws, rng)
    rows: list[SampleSize] = []
    count = -(-rank // windows.shape[2])  # fewer columns than the rank do not make a basis
    while not rows or (count <= len(windows) and (len(rows) < MIN_SIZES or rows[-1].probability < CONFIDENCE)):
        learned, checked = np.empty(draws), []
        for draw in range(draws):
            sample = windows[rng.integers(len(windows), size=count)].transpose(1, 0, 2).reshape(len(S), -1)
            learned[draw] = residual_energy(S, leading_directions(sample, rank))
            if draw < bounded:
                bound = 2 * rank * _norm(sample @ sample.T / sample.shape[1] - S)
                checked.append((learned[draw] - optimum, bound))
        excess, bound = max(checked, key=lambda pair: pair[0] / pair[1])
        rows.append(SampleSize(count, float(np.mean(learned < frozen)), float(excess), bound, float(excess / bound)))
        count *= 2
    return rows


def windows_needed(rows: list[SampleSize]) -> int | None:
    """Smallest number of windows from which on every size tried reached 99 %; None if the last one did not."""
    losing = [index for index, row in enumerate(rows) if row.probability < CONFIDENCE]
    first = losing[-1] + 1 if losing else 0
    return rows[first].n_windows if first < len(rows) else None


def leading_directions(X: Array, rank: int) -> Array:
    """Top-r left singular vectors of a sample as rows, shape (r, n): through the smaller of the two Gram matrices."""
    n, columns = X.shape
    if columns >= n:
        return np.linalg.eigh(X @ X.T)[1][:, n - rank :].T
    V = np.linalg.eigh(X.T @ X)[1][:, columns - rank :]
    return np.linalg.qr(X @ V)[0].T


def _norm(S: Array) -> float:
    """Operator norm of a symmetric matrix."""
    n = len(S)
    if n < 256:  # LAPACK; above it Lanczos, which gets an extreme eigenvalue to rounding in a few dozen products
        return float(np.abs(np.linalg.eigvalsh(S)).max())
    return float(np.abs(eigsh(S, k=1, which="LM", v0=np.ones(n), return_eigenvectors=False)[0]))
