"""A continual task on one linear layer, in moments: concept i wants the output shift Y_i = D_i X_i, D_i random.

The claims about optimisation, merging and the frontier need nothing else of the data than Σ_i and D_i. Targets have
i.i.d. normal entries of variance 1/n, so that they prefer no direction and every preference comes from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError
from seqlora.linear import solve_moments
from theory.layers.base import Layer

Array = NDArray[np.float64]

OUTPUTS = 64
"""Outputs of a random target: they enter through D^T D only, and more of them only make it rounder and slower."""


@dataclass(frozen=True)
class LinearTask:
    """T concepts on a layer of width n with m outputs.

    Attributes:
        layer: the layer's name.
        moments: Σ_i, shape (T, n, n).
        targets: D_i, shape (T, m, n).
    """

    layer: str
    moments: Array
    targets: Array

    @classmethod
    def on(cls, layer: Layer, concepts: int, rng: np.random.Generator, outputs: int = OUTPUTS) -> LinearTask:
        """Random targets for the first `concepts` concepts of a layer, at most as many outputs as it has.

        Raises:
            BadInputError: the layer has fewer concepts.
        """
        if not 1 <= concepts <= len(layer.concepts):
            raise BadInputError(f"layer {layer.name} has {len(layer.concepts)} concepts, {concepts} are asked for")
        moments = np.stack([layer.second_moment(concept) for concept in layer.concepts[:concepts]])
        m = min(outputs, layer.weight.shape[0])
        targets = rng.standard_normal((concepts, m, layer.width)) / np.sqrt(layer.width)
        return cls(layer.name, moments, targets)

    @property
    def concepts(self) -> int:
        """Number of concepts T."""
        return len(self.moments)

    @property
    def width(self) -> int:
        """Input width n."""
        return int(self.moments.shape[-1])

    def ridge(self, share: float, concept: int = -1) -> float:
        """A ridge equal to `share` of the mean eigenvalue of Σ_i."""
        return share * float(np.trace(self.moments[concept])) / self.width

    def cross(self, concept: int, merged: Array | float = 0.0) -> Array:
        """Y_i X_i^T / N = (D_i - merged) Σ_i: what is still missing with `merged` in place, shape (m, n)."""
        return (self.targets[concept] - merged) @ self.moments[concept]

    def energy(self, concept: int, update: Array | None = None) -> float:
        """‖U X_i‖^2 / N = tr(U Σ_i U^T) of an update U, of the concept's own target D_i if none is given."""
        U = self.targets[concept] if update is None else update
        return float(((U @ self.moments[concept]) * U).sum())

    def relative_error(self, merged: Array) -> float:
        """Merged relative error sum_i ‖(D_i - merged) X_i‖^2 / sum_i ‖D_i X_i‖^2 (0 is perfect, 1 is no update)."""
        missing = sum(self.energy(i, self.targets[i] - merged) for i in range(self.concepts))
        return missing / sum(self.energy(i) for i in range(self.concepts))


@dataclass(frozen=True)
class Adapters:
    """Adapters of consecutive concepts: bases A_i, shape (T, r, n), and coefficients B_i, shape (T, m, r)."""

    bases: Array
    coefficients: Array

    @property
    def updates(self) -> Array:
        """ΔW_i = B_i A_i, shape (T, m, n)."""
        return self.coefficients @ self.bases

    @property
    def merged(self) -> Array:
        """sum_i ΔW_i, shape (m, n)."""
        return self.updates.sum(0)

    @property
    def stacked_bases(self) -> Array:
        """All directions used, shape (T r, n)."""
        return self.bases.reshape(-1, self.bases.shape[-1])


def learn(
    task: LinearTask,
    rank: int,
    *,
    concepts: int | None = None,
    ridge_share: float = 1e-3,
    sequential: bool = True,
    orthogonal: bool = True,
    forgetting_weight: float = 0.0,
) -> Adapters:
    """One exact adapter a concept, with the solver of `seqlora.linear`.

    Args:
        task: the concepts.
        rank: directions r a concept.
        concepts: learn only the first ones; None for all.
        ridge_share: ridge on B as a share of the mean eigenvalue of Σ_i.
        sequential: learn what the earlier adapters leave missing (else each concept as if it were alone).
        orthogonal: bases in the complement of all earlier ones (SeqLoRA).
        forgetting_weight: gamma, the weight of the sum of earlier second moments.
    """
    past = np.zeros((0, task.width))
    merged: Array = np.zeros_like(task.targets[0])
    bases, coefficients = [], []
    for i in range(task.concepts if concepts is None else concepts):
        solution = solve_moments(
            task.moments[i],
            task.cross(i, merged if sequential else 0.0),
            rank,
            task.ridge(ridge_share, i),
            forgetting_weight if i else 0.0,
            past_bases=past if orthogonal else None,
            past_moment=task.moments[:i].sum(0) if i else None,
        )
        A, B = np.asarray(solution.A), np.asarray(solution.B)
        past, merged = np.vstack([past, A]), merged + B @ A
        bases.append(A)
        coefficients.append(B)
    return Adapters(np.stack(bases), np.stack(coefficients))


def within(layers: Sequence[Layer], entries: int) -> list[Layer]:
    """Layers, in order, as long as the sum of n^2 stays within `entries`; at least the narrowest one."""
    chosen: list[Layer] = []
    for layer in layers:
        if layer.width**2 <= entries:
            entries -= layer.width**2
            chosen.append(layer)
    return chosen or [min(layers, key=lambda layer: layer.width)]
