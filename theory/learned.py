"""Updates learned one concept after another on a linear layer: what the claims about real layers need as `M`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError
from seqlora.linear import solve_linear
from theory.layers.base import Layer
from theory.principal import principal_directions

Array = NDArray[np.float64]

MOST_DIRECTIONS = 192
"""Wider layers learn inside this many common principal directions: n = 1536 would spend its time on directions that
carry no data, and a basis in the complement of all earlier ones stays one."""

_COLUMNS_READ = 512  # of each concept, to find those directions: any good subspace will do


@dataclass(frozen=True)
class LearnedSequence:
    """Adapters of T concepts, in the order in which they were learned.

    Attributes:
        concepts: their names.
        bases: A_i, shape (T, r, n), rows orthonormal within and across concepts.
        coefficients: B_i, shape (T, m, r).
    """

    concepts: tuple[str, ...]
    bases: Array
    coefficients: Array

    def later(self, index: int) -> Array:
        """M = sum of B_i A_i over the concepts learned after `index`, shape (m, n)."""
        return np.einsum("imr,irn->mn", self.coefficients[index + 1 :], self.bases[index + 1 :])

    def later_reading(self, index: int) -> Array:
        """`later(index)` up to a rotation of the output: L with L^T L = M^T M and full row rank, shape (q, n)."""
        _, values, Vh = np.linalg.svd(self.later(index), full_matrices=False)
        keep = values > values.max(initial=0.0) * max(self.bases.shape) * np.finfo(np.float64).eps
        return values[keep, None] * Vh[keep]

    def later_stack(self, index: int) -> Array:
        """[B_{j+1} … B_T], shape (m, (T - 1 - index) r); its operator norm is what the budget caps."""
        return np.concatenate(list(self.coefficients[index + 1 :]), axis=1)


def learn_sequence(
    activations: Mapping[str, Array], outputs: int, rank: int, rng: np.random.Generator, ridge: float = 1e-3
) -> LearnedSequence:
    """Learn one adapter a concept with the exact solver, each in the complement of the earlier bases.

    Concept t wants a random shift D_t X_t (entries of D_t i.i.d. normal, variance 1/n) and learns what is still
    missing with the earlier adapters merged, Y_t = (D_t - sum_{i<t} B_i A_i) X_t.

    Args:
        activations: concept -> X_i, shape (n, N_i); the only data that the updates depend on.
        outputs: output width m.
        rank: directions r a concept.
        rng: source of the random targets.
        ridge: weight of ‖B‖^2 / 2, as a share of the mean eigenvalue of the second moment.

    Returns:
        The adapters.
    """
    if not activations:
        raise BadInputError("a sequence needs at least one concept")
    width = next(iter(activations.values())).shape[0]
    V = None
    if width > MOST_DIRECTIONS:
        X = np.concatenate([X[:, :: max(1, X.shape[1] // _COLUMNS_READ)] for X in activations.values()], axis=1)
        V = principal_directions(X, MOST_DIRECTIONS, rng)
        activations, width = {concept: V.T @ X for concept, X in activations.items()}, MOST_DIRECTIONS
    merged = np.zeros((outputs, width))
    bases: list[Array] = []
    coefficients: list[Array] = []
    for X in activations.values():
        D = rng.standard_normal((outputs, width)) / np.sqrt(width)
        mean_eigenvalue = float(np.mean(np.square(X)))
        past = np.concatenate(bases) if bases else None
        A_t, B_t, _ = solve_linear(X, (D - merged) @ X, rank, ridge=ridge * mean_eigenvalue, past_bases=past)
        bases.append(np.asarray(A_t))
        coefficients.append(np.asarray(B_t))
        merged += coefficients[-1] @ bases[-1]
    A = np.stack(bases)
    return LearnedSequence(tuple(activations), A if V is None else A @ V.T, np.stack(coefficients))


def split_windows(layer: Layer, rng: np.random.Generator) -> tuple[dict[str, Array], dict[str, Array]]:
    """Halve each concept's windows at random: one half to estimate and learn from, the other to test on.

    Returns:
        Two mappings concept -> windows, each of shape (K, n, N) with N = layer.window columns a window.

    Raises:
        BadInputError: a concept with fewer than four windows.
    """
    estimate: dict[str, Array] = {}
    held_out: dict[str, Array] = {}
    for concept, X in layer.activations.items():
        count = X.shape[1] // layer.window
        if count < 4:
            raise BadInputError(
                f"layer {layer.name}, concept {concept}: {count} windows of {layer.window} columns; record at least 4"
            )
        windows = X[:, : count * layer.window].reshape(layer.width, count, layer.window).transpose(1, 0, 2)
        order = rng.permutation(count)
        estimate[concept] = windows[order[: count // 2]]
        held_out[concept] = windows[order[count // 2 :]]
    return estimate, held_out


def as_columns(windows: Array) -> Array:
    """Windows (K, n, N) side by side, shape (n, K N)."""
    return windows.transpose(1, 0, 2).reshape(windows.shape[1], -1)
