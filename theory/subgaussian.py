"""How far real activations are from the sub-Gaussian assumption of claim C3, and a proxy estimated from data.

Windows R_w (n x N) are modelled as matrix-normal with covariance Psi (x) S, by flip-flop (Dutilleul 1999). In the
eigenbases S = U diag(g) U^T, Psi = V diag(psi) V^T a coordinate is z_ik = u_i^T R v_k / sqrt(g_i psi_k), and row
direction i has the directional proxy

    kappa2_i = max over |s| <= s_max of 2 log (sum_k psi_k/N E exp(s z_ik)) / s^2,

with an upper confidence limit of the mean in place of E. Columns count by their energy psi_k, as they do in the bound.
The proxy matrix is U diag(kappa2_i g_i) U^T; what mixtures of its directions still need is a common factor kappa2.
The proof of the bound meets mixtures only through the average E_g exp(s g^T z) over a Gaussian g, so that factor comes
from the average over random directions, weighted by their energy, and not from the worst.

It is an *estimate*: no finite sample bounds E exp(s z) for all s, so whoever uses it (claim C3r) tests the resulting
bound on windows that the estimate never saw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from seqlora.errors import BadInputError
from theory.layers.base import Layer
from theory.principal import principal_directions

Array = NDArray[np.float64]

CONFIDENCE = 0.99
"""One-sided confidence of each directional proxy."""

LEADING = 32
"""Principal directions that `diagnose` looks at."""

DECAY_RANGE = 64
"""Leading eigenvalues to which the decay exponent is fitted."""

_RANDOM_DIRECTIONS = 64
_STEPS = np.array([-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0])  # s / s_max


@dataclass(frozen=True)
class MatrixNormal:
    """Maximum-likelihood Kronecker covariance Psi (x) S of centred windows.

    Attributes:
        row: S, shape (q, q).
        column: Psi, shape (N, N), trace N (the scale belongs to S).
        iterations: flip-flop steps taken.
        change: largest relative change of Psi in the last step.
        converged: whether `change` fell below the tolerance.
    """

    row: Array
    column: Array
    iterations: int
    change: float
    converged: bool


def flip_flop(windows: Array, tolerance: float = 1e-8, most: int = 200) -> MatrixNormal:
    """Alternate the two likelihood equations of the matrix-normal law until Psi stands still.

        S <- mean_w R_w Psi^-1 R_w^T / N,        Psi <- mean_w R_w^T S^-1 R_w / q,   trace Psi = N.

    Each step raises the likelihood; the solution is unique up to scale if K N > q and K q > N (almost surely).

    Args:
        windows: centred R_w, shape (K, q, N).
        tolerance: relative change of Psi (operator norm) below which the iteration has converged.
        most: steps after which it stops without convergence.

    Returns:
        The estimate and whether it converged.

    Raises:
        BadInputError: too few windows for the two factors to exist.
    """
    K, q, N = windows.shape
    if q >= K * N or K * q <= N:
        raise BadInputError(f"{K} windows of {q} x {N} are too few for a Kronecker covariance; record more windows")
    Psi, change, step = np.eye(N), np.inf, 0
    while step < most and change > tolerance:
        step += 1
        S = np.tensordot(windows @ np.linalg.inv(Psi), windows, axes=([0, 2], [0, 2])) / (K * N)
        whitened = np.linalg.inv(np.linalg.cholesky(_regular(S))) @ windows
        new = _regular(np.tensordot(whitened, whitened, axes=([0, 1], [0, 1])) / (K * q))
        new *= N / np.trace(new)
        change = float(np.linalg.norm(new - Psi, 2) / np.linalg.norm(new, 2))
        Psi = new
    S = np.tensordot(windows @ np.linalg.inv(Psi), windows, axes=([0, 2], [0, 2])) / (K * N)
    return MatrixNormal(S, Psi, step, change, change <= tolerance)


def _regular(S: Array) -> Array:
    """Lift the least eigenvalues to 1e-12 of the mean one, so that constant rows or columns do not stop the solver."""
    return (S + S.T) / 2 + np.eye(len(S)) * (1e-12 * np.trace(S) / len(S) + 1e-300)


def directional_kappa2(
    projections: Array, weights: Array | None = None, confidence: float = CONFIDENCE, pooled: bool = False
) -> Array:
    """Upper confidence limit of kappa2 for each direction, or for their average moment generating function.

    E exp(s z) = E [exp(s z) - s z] because z is centred; the right side has no linear noise. Columns of one window
    depend on each other, so the standard error comes from window averages. s_max = sqrt(log(1 + c / 100)) is where
    c = K / sum_k weights_k^2 Gaussian samples would know E exp(s z) to 10 %.

    Args:
        projections: z of whitened windows, shape (K, N, directions).
        weights: share of each column, shape (N,), sum 1; equal if not given.
        confidence: one-sided confidence.
        pooled: average E exp(s z) over the directions before taking the logarithm.

    Returns:
        kappa2, shape (directions,), or (1,) if pooled; 1 for a standard Gaussian, up to the confidence margin.
    """
    K, N, _ = projections.shape
    if K < 2:
        raise BadInputError("a directional proxy needs at least two windows")
    share = np.full(N, 1 / N) if weights is None else weights
    z = projections - projections.mean(0)
    largest = np.sqrt(np.log1p(K / float(share @ share) / 100))
    quantile = stats.t.ppf(confidence, K - 1)

    def limit(values: Array) -> Array:
        """Upper confidence limit of the mean of `values` over columns and windows, for each direction."""
        per_window = np.einsum("n,knd->kd", share, values)
        if pooled:
            per_window = per_window.mean(1, keepdims=True)
        return per_window.mean(0) + quantile * per_window.std(0, ddof=1) / np.sqrt(K)

    kappa2 = limit(z**2)  # s -> 0: no proxy is below the variance
    for s in _STEPS * largest:
        # capped at exp(300): a direction that far out has no useful proxy, and says so by a huge kappa2
        kappa2 = np.maximum(kappa2, 2 * np.log(limit(np.exp(np.minimum(s * z, 300.0)) - s * z)) / s**2)
    return kappa2


@dataclass(frozen=True)
class Proxy:
    """Estimated sub-Gaussian proxy kappa2 Psi (x) S of windows, and their mean.

    Attributes:
        row: S, shape (q, q); eigen-direction i of the flip-flop estimate is scaled by its own kappa2_i.
        column: Psi, shape (N, N), trace N.
        kappa2: what random mixtures of the eigen-directions need on top of `row`, on average; at least 1.
        covariance: the flip-flop estimate itself, shape (q, q).
        directional: kappa2_i by eigen-direction, smallest eigenvalue first, shape (q,).
        mean: average column, shape (q,).
        converged: whether flip-flop converged.
    """

    row: Array
    column: Array
    kappa2: float
    covariance: Array
    directional: Array
    mean: Array
    converged: bool

    @property
    def mean_energy(self) -> float:
        """‖mean‖^2."""
        return float(self.mean @ self.mean)


def estimate_proxy(windows: Array, rng: np.random.Generator, confidence: float = CONFIDENCE) -> Proxy:
    """Estimate the proxy of windows as an adapter reads them, e.g. M X_w with M reduced to full row rank.

    Args:
        windows: shape (K, q, N), not centred.
        rng: draws the mixed directions.
        confidence: one-sided confidence of each directional proxy.

    Returns:
        The proxy. Complexity O(K N q (q + N)) a flip-flop step.
    """
    mean = windows.mean((0, 2))
    centred = windows - mean[:, None]
    fit = flip_flop(centred)
    g, U = np.linalg.eigh(fit.row)
    psi, V = np.linalg.eigh(fit.column)
    g, psi = np.maximum(g, 1e-12 * g[-1]), np.maximum(psi, 1e-12 * psi[-1])
    # z = diag(g)^-1/2 U^T R V diag(psi)^-1/2, as (K, N, q)
    z = np.swapaxes((U.T / np.sqrt(g)[:, None]) @ centred @ (V / np.sqrt(psi)), 1, 2)
    directional = directional_kappa2(z, psi / psi.sum(), confidence)
    # Random directions of the proxy's own energy: u ~ N(0, diag(kappa2_i g_i)), normalised; z is divided by kappa_i.
    mixed = rng.standard_normal((len(g), _RANDOM_DIRECTIONS)) * np.sqrt(directional * g)[:, None]
    mixed /= np.linalg.norm(mixed, axis=0)
    rest = directional_kappa2((z / np.sqrt(directional)) @ mixed, psi / psi.sum(), confidence, pooled=True)
    row = (U * (directional * g)) @ U.T
    return Proxy(row, fit.column, float(max(1.0, rest.max())), fit.row, directional, mean, fit.converged)


@dataclass(frozen=True)
class Diagnosis:
    """What stands between one concept's activations and the assumptions of claim C3.

    Attributes:
        kappa2: largest directional proxy over the leading directions (upper confidence limit).
        kurtosis: largest excess kurtosis over the leading directions.
        mean_share: ‖mu‖^2 / tr of the second moment.
        effective_rank: (tr C)^2 / ‖C‖_F^2 of the covariance.
        decay: exponent a of the fit lambda_k ~ k^-a over the `DECAY_RANGE` leading eigenvalues.
        psi_norm: ‖Psi‖_op, 1 if columns are independent.
        psi_converged: whether flip-flop converged.
        proxy: the estimate behind these numbers, in the leading directions.
    """

    kappa2: float
    kurtosis: float
    mean_share: float
    effective_rank: float
    decay: float
    psi_norm: float
    psi_converged: bool
    proxy: Proxy


def diagnose(layer: Layer, concept: str, rng: np.random.Generator, window: int | None = None) -> Diagnosis:
    """Measure every departure of a layer's inputs from the assumptions, in its `LEADING` principal directions.

    Args:
        layer: the layer.
        concept: one of its concepts.
        rng: draws mixed directions.
        window: columns a window; `layer.window` if not given.
    """
    X = layer.activations[concept]
    N = window or layer.window
    count = X.shape[1] // N
    mean = X.mean(1)
    centred = X - mean[:, None]
    U = principal_directions(centred, min(DECAY_RANGE, *X.shape), rng)
    spectrum = np.square(U.T @ centred).mean(1)
    energy = float(np.square(centred).sum() / X.shape[1])
    # tr C^2 = ‖X^T X‖_F^2 / N^2, from the smaller of the two Gram matrices
    gram = centred.T @ centred if X.shape[1] < X.shape[0] else centred @ centred.T
    leading = min(LEADING, count * N // 4, int(np.sum(spectrum > 1e-10 * spectrum[0])))
    read = U[:, :leading].T @ X[:, : count * N]
    proxy = estimate_proxy(read.reshape(leading, count, N).transpose(1, 0, 2), rng)
    return Diagnosis(
        kappa2=float(proxy.directional.max() * proxy.kappa2),
        kurtosis=float(stats.kurtosis(read, axis=1).max()),
        mean_share=float(mean @ mean / (mean @ mean + energy)),
        effective_rank=float((energy * X.shape[1] / np.linalg.norm(gram)) ** 2),
        decay=spectral_decay(spectrum),
        psi_norm=float(np.linalg.eigvalsh(proxy.column)[-1]),
        psi_converged=proxy.converged,
        proxy=proxy,
    )


def spectral_decay(spectrum: Array) -> float:
    """Least-squares exponent a of lambda_k ~ k^-a over the given leading eigenvalues (positive ones)."""
    values = np.sort(spectrum)[::-1]
    values = values[values > 1e-12 * values[0]]
    if len(values) < 2:
        return 0.0
    return float(-np.polyfit(np.log(np.arange(1, len(values) + 1)), np.log(values), 1)[0])
