"""Bases drawn once and never trained, every concept trained alone on the base model.

Mutually orthogonal bases are Orthogonal Adaptation (Po et al. 2024) in its exact form; independent Haar bases, which
overlap, and one basis for all concepts are the controls for whether orthogonality does anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench.methods.images.api import ImageMethod, Workshop, config, weighted_sum
from bench.personalise.pool import Bases
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from bench.personalise.tokens import ED_LORA


@dataclass(frozen=True)
class FrozenOrthonormal(ImageMethod):
    """`A_i A_jᵀ = 0` for all pairs; plain sum."""

    name = "frozen-orthonormal"
    pretty_name = "frozen orthonormal bases, sum (Orthogonal Adaptation)"
    orthogonal: ClassVar[bool] = True
    bases: ClassVar[Bases] = "own"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        frozen = config(workshop, basis="frozen", orthogonal=self.orthogonal, start="random", train_on="base")
        return workshop.trained(frozen, bases=self.bases)


@dataclass(frozen=True)
class FrozenRandom(FrozenOrthonormal):
    """Each basis Haar by itself; two of them overlap by about r/sqrt(n)."""

    name = "frozen-random"
    pretty_name = "frozen random bases, sum"
    role = "control"
    orthogonal = False


@dataclass(frozen=True)
class FrozenSame(FrozenOrthonormal):
    """`A_i = A_j` for all pairs, ‖A_i A_jᵀ‖ = sqrt(r): Orthogonal Adaptation run with one seed, as its script does."""

    name = "frozen-same"
    pretty_name = "one frozen basis for all concepts, sum (Orthogonal Adaptation, same seed)"
    role = "control"
    orthogonal = False
    bases = "same"


@dataclass(frozen=True)
class OrthogonalAdaptationWeight(FrozenOrthonormal):
    """The exact trainings merged with the paper's weight λ = 0.6 in place of 1."""

    name = "orthogonal-adaptation-weight"
    pretty_name = "frozen orthonormal bases, 0.6 x sum"

    weight: float = 0.6

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """See `ImageMethod.merge`."""
        return weighted_sum(learnt, [self.weight] * len(learnt))


@dataclass(frozen=True)
class OrthogonalAdaptation(OrthogonalAdaptationWeight):
    """The paper's own mode: rank 20, λ = 0.6, ED-LoRA's words, rows of one orthogonal matrix a width.

    The rows of all concepts are distinct where they fit, T r <= n. Past that they are drawn at random, and two concepts
    share r²/n directions on average (the recorded overlap is the square root of what they do share).
    """

    name = "orthogonal-adaptation"
    pretty_name = "Orthogonal Adaptation, paper mode (rank 20, 0.6 x sum, ED-LoRA's words)"

    rank: int = 20

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        frozen = config(
            workshop,
            rank=self.rank,
            basis="frozen",
            orthogonal=False,
            start="random",
            train_on="base",
            planned_concepts=len(workshop.names),
        )
        return workshop.trained(frozen, style=ED_LORA, bases="pool")
