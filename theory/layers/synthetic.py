"""Synthetic layers: power-law spectra, a chosen angle between concepts, five families of entries.

Concept i has second moment `Σ_i = U_i diag(λ) U_iᵀ` with `λ_k ∝ k^(-decay)`, `tr Σ_i = n` and activations
`X_i = U_i diag(√λ) Z`, Z independent entries of mean 0 and variance 1. The concepts' frames are
`U_i = U_0 exp(θ (E_i - E_iᵀ))`: at θ = 0 they share one second moment, at θ = π/2 each leading direction is turned
fully into directions of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import ortho_group

from seqlora.errors import BadInputError
from theory.layers.base import Array, Layer

Draw = Callable[[tuple[int, ...], np.random.Generator], Array]

SPIKE_RATE = 0.01  # share of non-zero entries of the sparse family: excess kurtosis 1/rate - 3 = 97
STUDENT_DOF = 3.0  # the fewest integer degrees of freedom with a variance; the fourth moment is infinite


def _gaussian(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.standard_normal(shape)


def _rademacher(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.integers(0, 2, shape).astype(float) * 2 - 1


def _uniform(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.uniform(-np.sqrt(3), np.sqrt(3), shape)


def _student(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    # Var t(ν) = ν/(ν-2)
    return rng.standard_t(STUDENT_DOF, shape) / np.sqrt(STUDENT_DOF / (STUDENT_DOF - 2))


def _sparse(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return (rng.random(shape) < SPIKE_RATE) * rng.standard_normal(shape) / np.sqrt(SPIKE_RATE)


FAMILIES: dict[str, Draw] = {
    "gaussian": _gaussian,
    "rademacher": _rademacher,
    "uniform": _uniform,
    "student": _student,
    "sparse": _sparse,
}
"""Unit-variance entries; the first three are sub-Gaussian with proxy = covariance, the last two are not."""


def draw(family: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Independent entries of mean 0 and variance 1.

    Raises:
        BadInputError: the family is unknown.
    """
    if family not in FAMILIES:
        raise BadInputError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[family](shape, rng)


def spectrum(width: int, decay: float) -> Array:
    """Power law `λ_k ∝ k^(-decay)`, k = 1..n, scaled to `Σ λ_k = n`: entries have variance 1 on average."""
    powers = np.arange(1, width + 1, dtype=float) ** -decay
    return powers * (width / powers.sum())


def frames(width: int, concepts: int, angle: float, rng: np.random.Generator) -> Array:
    """Orthonormal eigenvectors of each concept's second moment, turned by `angle` from a shared frame.

    Every concept turns each of its leading n/2 axes by `angle` (radians, 0 to π/2) in a plane with one axis of the
    trailing half, mixed by a Haar rotation of the concept's own. So `cos²(angle)` of a leading axis stays shared.

    Returns:
        Frames, shape (concepts, n, n), eigenvectors in columns.
    """
    if not 0 <= angle <= np.pi / 2:
        raise BadInputError(f"the overlap angle is {angle}; choose radians between 0 (same) and π/2")
    shared = _haar(width, rng)
    half = width // 2
    leading, trailing = shared[:, :half], shared[:, half : 2 * half]
    turned = np.repeat(shared[None], concepts, axis=0)
    for frame in turned:
        H = _haar(half, rng)
        # [L T] -> [cos L + sin T H, cos T - sin L H^T]: orthogonal for every angle, the identity at 0
        frame[:, :half] = np.cos(angle) * leading + np.sin(angle) * trailing @ H
        frame[:, half : 2 * half] = np.cos(angle) * trailing - np.sin(angle) * leading @ H.T
    return turned


def layer(
    width: int,
    concepts: int,
    samples: int,
    decay: float,
    rng: np.random.Generator,
    angle: float = np.pi / 4,
    family: str = "gaussian",
    outputs: int | None = None,
) -> Layer:
    """One synthetic layer: `X_i = U_i diag(√λ) Z_i`, independent columns (window 1).

    Args:
        width: input width n.
        concepts: number of concepts T.
        samples: columns N of each concept.
        decay: exponent a of the spectrum; 0 is isotropic.
        rng: draws frames, entries and weight.
        angle: overlap angle between the concepts' second moments, radians.
        family: a key of `FAMILIES`.
        outputs: output width m; n if not given.
    """
    scale = np.sqrt(spectrum(width, decay))[:, None]
    activations = {
        f"concept{index}": frame @ (scale * draw(family, (width, samples), rng))
        for index, frame in enumerate(frames(width, concepts, angle, rng))
    }
    weight = rng.standard_normal((outputs or width, width)) / np.sqrt(width)
    name = f"{family} n={width} a={decay:g} angle={np.degrees(angle):.0f}°"
    return Layer(name, weight, activations)


def record(suite: str, rng: np.random.Generator) -> list[Layer]:
    """The synthetic layers of a suite: flat to steep spectra, and one of each family."""
    samples = {"smoke": 2048, "ci": 4096, "full": 16384}[suite]
    gaussian = [layer(64, 4, samples, decay, rng) for decay in (1.0, 1.5, 2.0)]
    return gaussian + [layer(64, 4, samples, 1.5, rng, family=name) for name in FAMILIES if name != "gaussian"]


def _haar(size: int, rng: np.random.Generator) -> Array:
    return np.atleast_2d(ortho_group.rvs(size, random_state=rng)) if size > 1 else np.ones((1, 1))
