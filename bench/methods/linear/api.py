"""What a method sees of a linear layer, and what it gives back after each concept.

The layer is known by moments alone: concept j wants the output shift `Y_j = D_j X_j`, so its error under an update M is

    ‖(M - D_j) X_j‖² / N = tr(M Σ_j Mᵀ) - 2 <M, K_j> + ‖Y_j‖² / N,    Σ_j = X_j X_jᵀ / N,  K_j = Y_j X_jᵀ / N.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from bench.api import Array, Role, Scalar
from bench.registry import Registry
from seqlora.linear import solve_moments
from seqlora.subspace import retract_qr


class LowRank(NamedTuple):
    """An update `B A`: coefficients (m, k) and basis (k, n). k = 0 is no update."""

    B: Array
    A: Array

    def dense(self) -> Array:
        """The m x n matrix."""
        return self.B @ self.A


@dataclass(frozen=True)
class LinearProblem:
    """One layer and T concepts, with the budget that every method gets.

    Attributes:
        layer: name of the layer.
        moments: Σ_j, shape (T, n, n).
        cross_moments: K_j, shape (T, m, n).
        energies: ‖Y_j‖²/N, shape (T,).
        rank: directions r a concept.
        ridge: λ, weight of ‖B A‖²_F / 2.
    """

    layer: str
    moments: Array
    cross_moments: Array
    energies: Array
    rank: int
    ridge: float

    @property
    def concepts(self) -> int:
        """T."""
        return len(self.moments)

    @property
    def width(self) -> int:
        """Input width n."""
        return int(self.moments.shape[-1])

    @property
    def outputs(self) -> int:
        """Output width m."""
        return int(self.cross_moments.shape[-2])

    @property
    def optima(self) -> tuple[LowRank, ...]:
        """The best rank-r update of each concept alone: what any method with learned bases gives for one concept.

        Computed once for all methods that start from it, as concept trainings are shared in practice.
        """
        return self._timed_optima[0]

    @property
    def optima_seconds(self) -> float:
        """How long `optima` took."""
        return self._timed_optima[1]

    @cached_property
    def _timed_optima(self) -> tuple[tuple[LowRank, ...], float]:
        started = time.perf_counter()
        pairs = zip(self.moments, self.cross_moments, strict=True)
        optima = tuple(best_update(S, K, self.rank, self.ridge) for S, K in pairs)
        return optima, time.perf_counter() - started

    def missing(self, concept: int, merged: LowRank) -> Array:
        """Cross moment of what is still missing with `merged` in place: `(D_t - M) Σ_t`, shape (m, n)."""
        return self.cross_moments[concept] - merged.B @ (merged.A @ self.moments[concept])

    def nothing(self) -> LowRank:
        """The empty update."""
        return LowRank(np.zeros((self.outputs, 0)), np.zeros((0, self.width)))


@dataclass(frozen=True)
class Stage:
    """The model after one more concept.

    Attributes:
        shares: what each concept learnt so far contributes to the merged model, in order; a method that cannot tell
            (joint training) gives one share for all.
        alone: the update for the new concept if it were the only one.
        basis: orthonormal basis that the new concept was trained in, (r, n); None if it has none of its own.
    """

    shares: tuple[LowRank, ...]
    alone: LowRank
    basis: Array | None = None

    @property
    def merged(self) -> LowRank:
        """The whole update, all shares stacked."""
        return stack(self.shares)


@dataclass(frozen=True)
class LinearMethod(ABC):
    """A method of the family "linear". Its dataclass fields are its settings."""

    name: ClassVar[str]
    pretty_name: ClassVar[str]
    role: ClassVar[Role] = "method"
    starts_from_optima: ClassVar[bool] = False  # its cost includes that of `LinearProblem.optima`

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """Name and value of everything that could be set otherwise."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @abstractmethod
    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """Learn the concepts one after another and yield the model after each.

        Args:
            problem: the layer; concept t may use the moments of earlier concepts only as the method says.
            rng: draws frozen bases and starting points; in the same state for every method.
        """


METHODS: Registry[LinearMethod] = Registry("linear method")


def stack(shares: tuple[LowRank, ...]) -> LowRank:
    """`Σ_i B_i A_i` as one pair: `[B_1 B_2 …] [A_1; A_2; …]`."""
    return LowRank(np.hstack([share.B for share in shares]), np.vstack([share.A for share in shares]))


def best_update(
    moment: Array,
    cross_moment: Array,
    rank: int,
    ridge: float,
    forgetting_weight: float = 0.0,
    past_bases: Array | None = None,
    past_moment: Array | None = None,
) -> LowRank:
    """The optimum of `seqlora.linear.solve_moments` as a low-rank update."""
    weights = (rank, ridge, forgetting_weight)
    A, B, _ = solve_moments(moment, cross_moment, *weights, past_bases, past_moment)  # type: ignore[arg-type]
    return LowRank(np.asarray(B), np.asarray(A))


def orthonormal_rows(A: Array) -> Array:
    """Bases with the same row spaces and orthonormal rows, shape (..., r, n)."""
    return np.asarray(retract_qr(A))  # type: ignore[arg-type]


def coefficients(A: Array, moment: Array, cross_moment: Array, ridge: float) -> Array:
    """Best coefficients in a given basis: `B* = K Aᵀ (A (Σ + λ I) Aᵀ)⁻¹`, shape (m, r).

    Args:
        A: basis, shape (r, n), rows independent.
        moment: Σ, shape (n, n).
        cross_moment: K, shape (m, n).
        ridge: λ > 0, or Σ positive definite on the basis.
    """
    gram = A @ moment @ A.T + ridge * A @ A.T
    return np.asarray(np.linalg.solve(gram, A @ cross_moment.T).T)
