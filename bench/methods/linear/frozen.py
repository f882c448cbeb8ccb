"""Bases drawn once and never trained; only the coefficients are fitted, at their exact optimum.

Mutually orthogonal bases are Orthogonal Adaptation (Po et al. 2024) in its exact form. Independent Haar bases, which
overlap, are the control for whether orthogonality does anything. Each comes trained independently, as published, and
in sequence, where a concept is fitted to what is still missing: without that row a method that trains in sequence
would be credited with what the sequence does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.api import Array
from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage, coefficients, orthonormal_rows, stack
from seqlora.errors import CapacityError
from seqlora.subspace import capacity, spread


@dataclass(frozen=True)
class Frozen(LinearMethod):
    """Fit B in given bases."""

    in_sequence: ClassVar[bool] = False

    @abstractmethod
    def bases(self, problem: LinearProblem, rng: np.random.Generator) -> Array:
        """Bases of all concepts, shape (T, r, n), rows of each orthonormal."""

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        shares: tuple[LowRank, ...] = ()
        for t, A in enumerate(self.bases(problem, rng)):
            S, K = problem.moments[t], problem.cross_moments[t]
            alone = LowRank(coefficients(A, S, K, problem.ridge), A)
            update = alone
            if self.in_sequence and shares:
                update = LowRank(coefficients(A, S, problem.missing(t, stack(shares)), problem.ridge), A)
            shares = (*shares, update)
            yield Stage(shares, alone, A)


@dataclass(frozen=True)
class FrozenRandom(Frozen):
    """Each basis Haar by itself; two of them overlap by about r/sqrt(n)."""

    name = "frozen-random"
    pretty_name = "frozen random bases, sum"
    role = "control"

    def bases(self, problem: LinearProblem, rng: np.random.Generator) -> Array:
        """See `Frozen.bases`."""
        return orthonormal_rows(rng.standard_normal((problem.concepts, problem.rank, problem.width)))


@dataclass(frozen=True)
class FrozenRandomSequence(FrozenRandom):
    """The same, each concept fitted to what is still missing."""

    name = "frozen-random-sequence"
    pretty_name = "frozen random bases, in sequence"
    in_sequence = True


@dataclass(frozen=True)
class FrozenOrthonormal(Frozen):
    """All bases cut from one Haar orthonormal system."""

    name = "frozen-orthonormal"
    pretty_name = "frozen orthonormal bases, sum (Orthogonal Adaptation)"

    def bases(self, problem: LinearProblem, rng: np.random.Generator) -> Array:
        """See `Frozen.bases`.

        Raises:
            CapacityError: they do not fit into the layer.
        """
        if problem.concepts > capacity(problem.width, problem.rank):
            raise CapacityError(
                f"layer {problem.layer}: {problem.concepts} orthogonal bases of rank {problem.rank} "
                f"do not fit into width {problem.width}; lower the rank"
            )
        return spread(problem.width, problem.rank, problem.concepts, rng)


@dataclass(frozen=True)
class FrozenOrthonormalSequence(FrozenOrthonormal):
    """The same, each concept fitted to what is still missing."""

    name = "frozen-orthonormal-sequence"
    pretty_name = "frozen orthonormal bases, in sequence"
    role = "control"
    in_sequence = True
