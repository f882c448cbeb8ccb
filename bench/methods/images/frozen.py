"""Bases drawn once and never trained, every concept trained alone on the base model.

Mutually orthogonal bases are Orthogonal Adaptation (Po et al. 2024) in its exact form; independent Haar bases, which
overlap, are the control for whether orthogonality does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench.methods.images.api import ImageMethod, Workshop, config, weighted_sum
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update


@dataclass(frozen=True)
class FrozenOrthonormal(ImageMethod):
    """`A_i A_jᵀ = 0` for all pairs; plain sum."""

    name = "frozen-orthonormal"
    pretty_name = "frozen orthonormal bases, sum (Orthogonal Adaptation)"
    orthogonal: ClassVar[bool] = True

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return workshop.trained(
            config(workshop, basis="frozen", orthogonal=self.orthogonal, start="random", train_on="base")
        )


@dataclass(frozen=True)
class FrozenRandom(FrozenOrthonormal):
    """Each basis Haar by itself; two of them overlap by about r/sqrt(n)."""

    name = "frozen-random"
    pretty_name = "frozen random bases, sum"
    role = "control"
    orthogonal = False


@dataclass(frozen=True)
class OrthogonalAdaptationWeight(FrozenOrthonormal):
    """The same trainings merged with the paper's weight λ = 0.6 in place of 1 (its rank, 20, is not taken over)."""

    name = "orthogonal-adaptation-weight"
    pretty_name = "frozen orthonormal bases, 0.6 x sum"

    weight: float = 0.6

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """See `ImageMethod.merge`."""
        return weighted_sum(learnt, [self.weight] * len(learnt))
