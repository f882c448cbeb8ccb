"""High-probability forgetting bounds: after the fact from the updates (C3), and before it from a budget (C4).

If the centred residual activations R (n x N) satisfy E exp<U, R> <= exp(kappa2/2 tr(U^T S U Psi)) for every U, then
vec(R) has the sub-Gaussian proxy kappa2 Psi (x) S, and N F = ‖M R‖^2 is a quadratic form whose Gram matrix
kappa2 Psi (x) G, G = M S M^T, has the trace, Frobenius norm and operator norm of the factors multiplied. The tail
bound of Hsu, Kakade and Zhang (2012, Theorem 2.1) then reads, with probability at least 1 - delta and x = log(1/delta),

    N F <= kappa2 (tr G tr Psi + 2 ‖G‖_F ‖Psi‖_F sqrt(x) + 2 ‖G‖_op ‖Psi‖_op x)

for any M that does not depend on R. All statements are our reconstruction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqlora.errors import BadInputError
from theory.chisquare import gaussian_quantile, gaussian_tail

__all__ = [
    "certificate",
    "forgetting_bound",
    "forgetting_weights",
    "gaussian_quantile",
    "gaussian_tail",
    "quadratic_form_bound",
    "union_delta",
]

Array = NDArray[np.float64]


def quadratic_form_bound(spectrum: Array, delta: float, kappa2: float = 1.0, mean_energy: float = 0.0) -> float:
    """Upper bound of ‖H z + h‖^2 that fails with probability at most delta, z sub-Gaussian with proxy kappa2 I.

    Centred part (Hsu, Kakade, Zhang 2012, Theorem 2.1), with w the eigenvalues of H H^T:
        c = kappa2 (sum w + 2 sqrt(x sum w^2) + 2 x max w).
    A mean of energy e = ‖h‖^2 adds e (1 + 2 sqrt(x) max w / sqrt(sum w^2)) by the same theorem, or gives
    (sqrt e + sqrt c)^2 by the triangle inequality. Both hold with probability 1 - delta, so their minimum does.

    Args:
        spectrum: eigenvalues w >= 0 of H H^T, any shape.
        delta: failure probability in (0, 1).
        kappa2: proxy factor; it multiplies the whole centred part.
        mean_energy: e = ‖h‖^2.

    Returns:
        The bound, in the units of the spectrum.

    Raises:
        BadInputError: an argument outside its range.
    """
    w = np.asarray(spectrum, dtype=np.float64).ravel()
    if not 0 < delta < 1:
        raise BadInputError(f"delta={delta} must lie in (0, 1)")
    if not (np.isfinite(w).all() and (w >= 0).all() and 0 < kappa2 < np.inf and 0 <= mean_energy < np.inf):
        raise BadInputError("the bound needs a finite spectrum >= 0, kappa2 > 0 and a mean energy >= 0")
    frobenius, largest = float(np.linalg.norm(w)), float(w.max(initial=0.0))
    if frobenius == 0:
        return float(mean_energy)
    x = -np.log(delta)
    centred = kappa2 * (w.sum() + 2 * np.sqrt(x) * frobenius + 2 * x * largest)
    with_mean = centred + mean_energy * (1 + 2 * np.sqrt(x) * largest / frobenius)
    return float(min(with_mean, (np.sqrt(mean_energy) + np.sqrt(centred)) ** 2))


def forgetting_weights(spectrum: ArrayLike, n_samples: int, column_proxy: ArrayLike | None = None) -> Array:
    """Eigenvalues of Psi (x) G / N: the weights of F as a quadratic form in n_samples columns.

    Args:
        spectrum: eigenvalues of G, shape (k,); rounding below zero is clipped.
        n_samples: columns N, >= 1.
        column_proxy: Psi, shape (N, N), symmetric and positive semi-definite; the identity if not given.

    Returns:
        Weights, shape (k, N).
    """
    g = np.clip(np.asarray(spectrum, dtype=np.float64), 0, None)
    if n_samples < 1:
        raise BadInputError(f"n_samples={n_samples}: a bound needs at least one column")
    if column_proxy is None:
        return np.repeat(g[:, None], n_samples, axis=1) / n_samples
    Psi = np.asarray(column_proxy, dtype=np.float64)
    if Psi.shape != (n_samples, n_samples) or not np.isfinite(Psi).all():
        raise BadInputError(f"column_proxy has shape {Psi.shape}, expected a finite ({n_samples}, {n_samples}) matrix")
    psi = np.clip(np.linalg.eigvalsh((Psi + Psi.T) / 2), 0, None)
    return np.multiply.outer(g, psi) / n_samples


def forgetting_bound(
    G: ArrayLike,
    n_samples: int,
    delta: float,
    column_proxy: ArrayLike | None = None,
    kappa2: float = 1.0,
    mean_energy: float = 0.0,
) -> float:
    """Claim C3: per-sample forgetting that is exceeded with probability at most delta.

    Args:
        G: M S M^T for the updates M = sum_i B_i A_i learned later, shape (m, m); S is the proxy of one column.
        n_samples: columns N of the fresh sample.
        delta: failure probability in (0, 1).
        column_proxy: Psi, shape (N, N); the identity (independent columns) if not given.
        kappa2: proxy factor of the layer; 1 if S is itself a proxy, as for Gaussian, Rademacher and uniform entries.
        mean_energy: ‖M mu‖^2 of the activations' mean mu.

    Returns:
        Bound of F = ‖M X‖^2 / N, in squared output units. Complexity O(m^3 + N^3).
    """
    G = np.asarray(G, dtype=np.float64)
    if G.ndim != 2 or G.shape[0] != G.shape[1] or not np.isfinite(G).all():
        raise BadInputError(f"G has shape {G.shape}, expected a finite square matrix")
    weights = forgetting_weights(np.linalg.eigvalsh((G + G.T) / 2), n_samples, column_proxy)
    return quadratic_form_bound(weights, delta, kappa2, mean_energy)


def certificate(
    spectrum: ArrayLike,
    directions: int,
    budget: float,
    n_samples: int,
    delta: float,
    column_proxy: ArrayLike | None = None,
    kappa2: float = 1.0,
    mean_energy: float = 0.0,
) -> float:
    """Claim C4: bound of the forgetting that *any* later updates within a budget can cause.

    Later bases span at most q directions of the complement and ‖[B_{j+1} … B_t]‖_op <= beta, so the eigenvalues of
    G = B (A S A^T) B^T are at most beta^2 lambda_k((I-P)S(I-P)), k <= q (Poincare separation). Every term of C3 grows
    with the ordered spectrum: the bound with G = beta^2 diag(lambda_1 .. lambda_q) covers them all.

    Args:
        spectrum: eigenvalues of the residual second-order matrix (I-P) S (I-P), any order, shape (n,).
        directions: q, the directions that later concepts may use in total.
        budget: beta >= 0.
        n_samples: columns N of the fresh sample.
        delta: failure probability in (0, 1).
        column_proxy: Psi, shape (N, N); the identity if not given.
        kappa2: proxy factor of the layer.
        mean_energy: ‖(I-P) mu‖^2; the budget multiplies it too.

    Returns:
        Bound of F = ‖M X‖^2 / N for every admissible M that is independent of the fresh sample.
    """
    if directions < 0 or not 0 <= budget < np.inf:
        raise BadInputError(f"directions={directions} and budget={budget} must be >= 0")
    largest = np.sort(np.asarray(spectrum, dtype=np.float64).ravel())[::-1][:directions]
    weights = forgetting_weights(budget**2 * largest, n_samples, column_proxy)
    return quadratic_form_bound(weights, delta, kappa2, budget**2 * mean_energy if directions else 0.0)


def union_delta(delta: float, concepts: int) -> float:
    """Failure probability for each of the T - 1 concepts that can be forgotten, so that all hold with 1 - delta."""
    if concepts < 2:
        raise BadInputError(f"concepts={concepts}: nothing is forgotten before a second concept is learnt")
    return delta / (concepts - 1)
