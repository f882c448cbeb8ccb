"""Two ways to put concepts into one weight: the plain sum, and fusion to the concepts' own outputs.

Sum: W = W0 + sum_i B_i A_i, from the factors alone. Gradient fusion (Mix-of-Show, Gu et al. 2023) instead minimises

    sum_i ‖(W0 + ΔW_i) X_i - W X_i‖_F^2,    W* = W0 + (sum_i ΔW_i G_i)(sum_i G_i)^-1,    G_i = X_i X_i^T / N_i,

which needs every concept's activations (or their Gram matrices). If later bases read nothing of other concepts
(A_i X_j = 0 for i != j), the sum already attains 0, the least value there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg.blas import dgemm
from scipy.optimize import minimize

from seqlora.errors import BadInputError
from theory.tolerance import gamma

Array = NDArray[np.float64]

BLOCK = 16
"""Adapters that are stacked into one product: each product reads and writes the weight once."""

OFFICIAL_ITERATIONS = 50
OFFICIAL_HISTORY = 25
"""L-BFGS settings of the published fusion code for the layers of the UNet."""


def merge(weight: Array, adapters: Iterable[tuple[Array, Array]], block: int = BLOCK) -> Array:
    """Merged weight W0 + sum_i B_i A_i. Holds `block` adapters and one weight, however many concepts there are.

    Args:
        weight: W0, shape (m, n); not changed.
        adapters: pairs (B_i, A_i) of shapes (m, r) and (r, n), e.g. read from disk one by one.
        block: adapters a product.

    Raises:
        BadInputError: an adapter does not fit the weight.
    """
    merged = np.array(weight, dtype=np.float64, order="C")
    m, n = merged.shape
    stream = iter(adapters)
    while chunk := list(itertools.islice(stream, block)):
        for B, A in chunk:
            if B.shape[0] != m or A.shape[1] != n or B.shape[1] != A.shape[0]:
                raise BadInputError(f"adapter of shapes {B.shape} and {A.shape} does not fit a weight of {(m, n)}")
        _add(merged, chunk)
        chunk.clear()  # free it before the next block is read
    return merged


def _add(merged: Array, chunk: list[tuple[Array, Array]]) -> None:
    """W += [B_1 … B_k] [A_1; …; A_k] in place."""
    B, A = np.hstack([B for B, _ in chunk]), np.vstack([A for _, A in chunk])
    # W^T += A^T B^T without a temporary: W in row order is W^T in the column order of BLAS.
    dgemm(1.0, A.T, B.T, beta=1.0, c=merged.T, overwrite_c=1)


def merge_rounding(weight: Array, adapters: Iterable[tuple[Array, Array]]) -> Array:
    """Bound of the rounding error of `merge` in each entry, for any order: gamma_{R+1} (|W0| + sum_i |B_i| |A_i|).

    R is the sum of the ranks: each entry is a sum of R products and one weight (Higham 2002, eq. 3.5), however it is
    split into blocks. Shape (m, n).
    """
    pairs = list(adapters)
    size = np.abs(weight) + sum(np.abs(B) @ np.abs(A) for B, A in pairs)
    return gamma(sum(len(A) for _, A in pairs) + 1) * size


def fusion_objective(delta: Array, updates: Array, moments: Array) -> float:
    """Objective sum_i ‖(ΔW_i - delta) X_i‖_F^2 / N_i of fusion, delta = W - W0.

    Args:
        delta: shape (m, n).
        updates: ΔW_i, shape (T, m, n).
        moments: G_i, shape (T, n, n).
    """
    missing = updates - delta
    return float(((missing @ moments) * missing).sum())


def fuse_exact(updates: Array, moments: Array, ridge: float = 0.0) -> Array:
    """Minimiser of the fusion objective + ridge ‖delta‖^2: (sum_i ΔW_i G_i)(sum_i G_i + ridge I)^-1, shape (m, n).

    Raises:
        BadInputError: the summed moment is singular and there is no ridge.
    """
    total = moments.sum(0) + ridge * np.eye(moments.shape[-1])
    try:
        return scipy.linalg.solve(total, (updates @ moments).sum(0).T, assume_a="pos").T
    except np.linalg.LinAlgError as error:
        raise BadInputError("the summed second moment is singular; fuse with ridge > 0") from error


def fuse_lbfgs(updates: Array, moments: Array, iterations: int = OFFICIAL_ITERATIONS) -> Array:
    """Fusion as published: L-BFGS from W0, history 25, stopped early, the best iterate kept. Shape (m, n).

    The objective is evaluated through Gram matrices, which is exact and faster than the published pass over
    activations: measured times are to fusion's advantage.
    """
    total, pull = moments.sum(0), (updates @ moments).sum(0)
    energy = float(((updates @ moments) * updates).sum())
    best: tuple[float, Array] = (np.inf, np.zeros_like(pull))

    def objective(flat: Array) -> tuple[float, Array]:
        nonlocal best
        delta = flat.reshape(pull.shape)
        product = delta @ total
        value = energy + float(((product - 2 * pull) * delta).sum())
        if value < best[0]:
            best = (value, delta.copy())
        return value, 2 * (product - pull).ravel()

    options = {"maxiter": iterations, "maxcor": OFFICIAL_HISTORY, "ftol": 0.0, "gtol": 1e-16}
    minimize(objective, np.zeros(pull.size), jac=True, method="L-BFGS-B", options=options)
    return best[1]
