"""Exact tail and quantile of a weighted sum of chi-squares, by contour integration with error control.

For Gaussian activations the forgetting N F = ‖M R‖^2 is Q = sum_i w_i chi^2(d_i), w the eigenvalues of Psi (x) G.
With the cumulant function K(s) = -sum_i d_i/2 log(1 - 2 s w_i) and any c in (0, 1 / (2 max w)),

    P(Q > x) = 1/(2 pi i) integral over c - i inf .. c + i inf of exp(K(s) - s x) / s ds.

Imhof (1961) and Davies (1980) integrate along the imaginary axis, where a small tail is a difference of large terms.
Here the line passes through the saddle point of the integrand and bends into the half plane where exp(-s x) decays,
around the cut [1/(2 max w), inf): nothing cancels, the tail has a small *relative* error, and the trapezoidal rule
converges exponentially (Trefethen and Weideman 2014). For x below the mean it passes left of the pole at 0, where the
integral is P(Q > x) - 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from seqlora.errors import BadInputError

Array = NDArray[np.float64]

RELATIVE_ERROR = 1e-10
"""Agreement that two successive step sizes must reach; the finer value is then far closer than this."""

_NEGLIGIBLE = -45.0  # log of the ratio below which the integrand is cut off: exp(-45) = 3e-20, under the roundoff
_MOST_NODES = 1 << 17


def _positive_weights(weights: ArrayLike, degrees: ArrayLike | None) -> tuple[Array, Array]:
    """Distinct positive weights and their total degrees of freedom."""
    w = np.asarray(weights, dtype=np.float64).ravel()
    d = np.ones_like(w) if degrees is None else np.broadcast_to(np.asarray(degrees, np.float64), w.shape)
    if not (np.isfinite(w).all() and np.isfinite(d).all() and (d > 0).all() and (w >= 0).all()):
        raise BadInputError("weights must be finite and >= 0, degrees of freedom > 0; clip rounding errors first")
    distinct, index = np.unique(w, return_inverse=True)
    total = np.asarray(np.bincount(index.ravel(), weights=d, minlength=len(distinct)), dtype=np.float64)
    keep = distinct > 0
    return distinct[keep], total[keep]


def _saddle_point(w: Array, d: Array, x: float) -> float:
    """Minimum of K(s) - s x - log|s|, right of the pole at 0 for x above the mean and left of it below.

    The derivative K'(s) - 1/s - x rises on both sides, from -inf to +inf on (0, 1/(2 max w)), from -x to +inf below 0.
    """
    limit = 0.5 / float(w.max())

    def slope(s: float) -> float:
        return float(np.sum(d * w / (1 - 2 * s * w)) - 1 / s - x)

    if x >= float(d @ w):
        low, high = 0.5, 0.5  # as a share of the way to the cut; widen until the root is inside
        while slope(low * limit) > 0:
            low /= 4
        while slope(high * limit) < 0:
            high = 1 - (1 - high) / 4
    else:
        low, high = -1.0, -1.0
        while slope(low * limit) > 0:
            low *= 4
        while slope(high * limit) < 0:
            high /= 4
    return limit * float(brentq(lambda share: slope(share * limit), low, high, xtol=1e-300, rtol=1e-13))


def gaussian_tail(weights: ArrayLike, threshold: float, degrees: ArrayLike | None = None) -> float:
    """P(sum_i w_i chi^2(d_i) > threshold), to a relative error far below `RELATIVE_ERROR`.

    Args:
        weights: w >= 0, shape (k,); zeros are dropped.
        threshold: x, in the units of the weights.
        degrees: degrees of freedom of each term; 1 if not given.

    Returns:
        The exact tail probability, also where it is as small as 1e-200.

    Raises:
        BadInputError: negative or non-finite weights, or a spread of weights that the rule does not resolve.
    """
    w, d = _positive_weights(weights, degrees)
    if threshold <= 0:
        return 1.0 if len(w) or threshold < 0 else 0.0
    if not len(w):
        return 0.0
    w, x = w / w.max(), threshold / float(w.max())
    c = _saddle_point(w, d, x)
    # Steepest descent through c: s(y) = c + i y + a y^2 with a = K'''/(6 K''), > 0, so that exp(-s x) decays.
    second = np.sum(2 * d * w**2 / (1 - 2 * c * w) ** 2)
    third = np.sum(8 * d * w**3 / (1 - 2 * c * w) ** 3)
    bend = third / (6 * second)
    peak = float(-0.5 * np.sum(d * np.log1p(-2 * c * w)) - c * x - np.log(abs(c)))

    def integrand(y: Array) -> Array:
        """Im of exp(K(s) - s x)/s ds/dy relative to its peak; an even function of y."""
        s = c + 1j * y + bend * y**2
        cumulant = -0.5 * np.log(1 - 2 * np.multiply.outer(s, w)) @ d
        return np.imag(np.exp(cumulant - s * x - np.log(s) - peak) * (1j + 2 * bend * y))

    contour = float(np.exp(peak) / np.pi * _integrate(integrand, float(1 / np.sqrt(second + 1 / c**2))))
    # Left of the pole the residue at s = 0 is missing: the contour gives P(Q > x) - 1.
    return min(1.0, contour) if c > 0 else 1.0 + contour


def _integrate(integrand: Callable[[Array], Array], width: float) -> float:
    """Integral over (0, inf) of a smooth, even, decaying function, by halving the trapezoidal step."""
    end = 4 * width
    while np.log(np.abs(integrand(np.array([end, 0.77 * end]))).max() + 1e-300) > _NEGLIGIBLE:
        end *= 1.5
    nodes = 32
    value = np.nan
    while nodes <= _MOST_NODES:
        y = np.linspace(0, end, nodes + 1)
        terms = integrand(y)
        finer = (end / nodes) * float(terms.sum() - 0.5 * terms[0])
        if abs(finer - value) <= RELATIVE_ERROR * abs(finer):
            return finer
        value, nodes = finer, 2 * nodes
    raise BadInputError("weights spread over too many orders of magnitude for the chi-square tail; drop the least ones")


def gaussian_quantile(weights: ArrayLike, delta: float, degrees: ArrayLike | None = None) -> float:
    """The x with P(sum_i w_i chi^2(d_i) > x) = delta.

    Args:
        weights: w >= 0, shape (k,).
        delta: tail probability in (0, 1).
        degrees: degrees of freedom of each term; 1 if not given.

    Returns:
        The upper quantile, to a relative error of about 1e-10.
    """
    if not 0 < delta < 1:
        raise BadInputError(f"delta={delta} must lie in (0, 1)")
    w, d = _positive_weights(weights, degrees)
    if not len(w):
        return 0.0
    # The sub-Gaussian bound of claim C3 is an upper end, and zero a lower one.
    x = -np.log(delta)
    high = float(d @ w + 2 * np.sqrt(d @ w**2 * x) + 2 * w.max() * x)

    def excess(threshold: float) -> float:
        return float(np.log(gaussian_tail(w, threshold, d)) - np.log(delta))

    low = high / 2
    while excess(low) < 0:
        low /= 2
    return float(brentq(excess, low, high, rtol=1e-12))
