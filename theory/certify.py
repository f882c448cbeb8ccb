"""Forgetting certificates: what any later concept within a budget can do to this one, saved beside the adapter.

Two guarantees of the same statement, "a fresh window X of this concept loses F = ‖M X‖^2 / N <= bound with probability
>= 1 - delta, for every update M = B A with ‖B‖_op <= beta and A spanning at most q directions, orthogonal to this
concept's basis":

* sub-Gaussian (claim C4): from the estimated proxy of the residual activations; M must not depend on X.
* distribution-free: F <= beta^2 w(X) with w(X) = (sum of the q largest eigenvalues of (I-P) X X^T (I-P)) / N, so an
  order statistic of w over K calibration windows bounds a fresh one (exchangeability; Vovk et al. 2005). M may even
  depend on X. If K is too small for delta, the bound b^2 on ‖(I-P)x‖^2 of the declared norm takes its place.

For bounded inputs a betting confidence sequence (Waudby-Smith and Ramdas 2024) also bounds the *mean* forgetting:
E F <= beta^2 E w(X), with w in [0, b^2].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError
from theory.betting import betting_upper_limit
from theory.bounds import certificate as certificate_bound
from theory.certificate import Certificate, as_rows
from theory.principal import principal_directions
from theory.subgaussian import estimate_proxy

Array = NDArray[np.float64]


def residual(windows: Array, basis: Array) -> Array:
    """(I - A^T A) X_w, shape (K, n, N)."""
    return windows - basis.T @ (basis @ windows)


def worst_case(windows: Array, basis: Array, directions: int) -> Array:
    """w(X): sum of the q largest eigenvalues of the residual Gram matrix / N, shape (K,).

    It is the largest ‖A X‖^2 / N over orthonormal A with q rows, A A_j^T = 0 (Ky Fan).
    """
    R = residual(windows, basis)
    energies = np.linalg.eigvalsh(np.swapaxes(R, 1, 2) @ R)  # N x N: never more than N eigenvalues are non-zero
    return np.clip(energies, 0, None)[:, ::-1][:, :directions].sum(1) / windows.shape[2]


def certify_sub_gaussian(
    windows: Array,
    basis: Array,
    directions: int,
    budget: float,
    delta: float,
    rng: np.random.Generator,
    layer: str = "",
    concept: str = "",
) -> Certificate:
    """Certificate C4 from calibration windows, with the proxy estimated in the leading residual directions.

    Args:
        windows: calibration windows of the concept, shape (K, n, N).
        basis: A_j, shape (r, n), rows orthonormal.
        directions: q.
        budget: beta.
        delta: failure probability of one fresh window.
        rng: draws the mixed directions of the proxy estimate.
        layer: name to store.
        concept: name to store.
    """
    _check_terms(windows, basis, directions, budget, delta)
    K, n, N = windows.shape
    R = residual(windows, basis)
    mean = R.mean((0, 2))
    centred = (R - mean[:, None]).transpose(1, 0, 2).reshape(n, K * N)
    # Only q directions count: take the proxy in the 2 q leading ones, and their worst factor for what comes after.
    U = principal_directions(centred, min(3 * directions, n, K * N), rng)
    spectrum = np.square(U.T @ centred).mean(1)
    leading = max(1, int(min(2 * directions, K * N // 8, np.sum(spectrum > 1e-10 * spectrum[0]))))
    proxy = estimate_proxy(U[:, :leading].T @ R, rng)
    worst = float(proxy.directional.max())
    whole = np.concatenate([np.linalg.eigvalsh(proxy.row), worst * spectrum[leading:]])
    # The mean that q directions can read is all of it, in the worst case.
    bound = certificate_bound(
        whole, directions, budget, N, delta, proxy.column, proxy.kappa2, mean_energy=float(mean @ mean)
    )
    return Certificate(
        kind="sub-gaussian",
        layer=layer,
        concept=concept,
        bound=bound,
        mean_bound=None,
        delta=delta,
        directions=directions,
        budget=budget,
        window=N,
        width=n,
        calibration=K,
        rank_statistic=0,
        norm_bound=None,
        kappa2=worst * proxy.kappa2,
        psi_norm=float(np.linalg.eigvalsh(proxy.column)[-1]),
        basis=as_rows(basis),
    )


def certify_distribution_free(
    windows: Array,
    basis: Array,
    directions: int,
    budget: float,
    delta: float,
    norm_bound: float | None = None,
    layer: str = "",
    concept: str = "",
) -> Certificate:
    """Certificate that assumes only exchangeable windows (and, for the mean, a bound on their columns' norm).

    Args:
        windows: calibration windows, shape (K, n, N).
        basis: A_j, shape (r, n).
        directions: q.
        budget: beta.
        delta: failure probability.
        norm_bound: declared b with ‖x‖ <= b for every input column, e.g. of a normalised layer.
        layer: name to store.
        concept: name to store.

    Raises:
        BadInputError: too few windows for delta and no norm bound, or a calibration column above the norm bound.
    """
    _check_terms(windows, basis, directions, budget, delta)
    K, n, N = windows.shape
    w = worst_case(windows, basis, directions)
    # A fresh w exceeds the k-th smallest of K with probability (K + 1 - k) / (K + 1) at most.
    k = int(np.ceil((K + 1) * (1 - delta) * (1 - 1e-12)))
    if norm_bound is None and k > K:
        raise BadInputError(
            f"{K} windows cannot certify delta={delta}: record {int(np.ceil(1 / delta)) - 1} or declare a norm bound"
        )
    mean_bound = None
    if norm_bound is not None:
        largest = float(np.sqrt(np.square(windows).sum(1).max()))
        if largest > norm_bound:
            raise BadInputError(f"norm_bound={norm_bound:.4g} is below a calibration column of norm {largest:.4g}")
        mean_bound = budget**2 * norm_bound**2 * betting_upper_limit(w / norm_bound**2, delta)
    top = float(np.sort(w)[k - 1]) if k <= K else float(norm_bound or 0.0) ** 2
    return Certificate(
        kind="distribution-free",
        layer=layer,
        concept=concept,
        bound=budget**2 * top,
        mean_bound=mean_bound,
        delta=delta,
        directions=directions,
        budget=budget,
        window=N,
        width=n,
        calibration=K,
        rank_statistic=k if k <= K else 0,
        norm_bound=norm_bound,
        kappa2=None,
        psi_norm=None,
        basis=as_rows(basis),
    )


def _check_terms(windows: Array, basis: Array, directions: int, budget: float, delta: float) -> None:
    if windows.ndim != 3 or len(windows) < 2 or basis.ndim != 2 or basis.shape[1] != windows.shape[1]:
        raise BadInputError(f"windows {windows.shape} and basis {basis.shape} must be (K >= 2, n, N) and (r, n)")
    if not np.isfinite(windows).all():
        raise BadInputError("calibration windows hold NaN or infinite values; check the recorded activations")
    if directions < 1 or not 0 <= budget < np.inf or not 0 < delta < 1:
        raise BadInputError(f"directions={directions}, budget={budget}, delta={delta}: use >= 1, >= 0 and (0, 1)")
    if np.linalg.norm(basis @ basis.T - np.eye(len(basis)), 2) > 1e-6 * max(1, len(basis)):
        raise BadInputError("the concept's basis is not orthonormal; orthonormalise its rows first")
