"""Continual alternating: each concept by alternating exact steps on A and B of one objective, from a random start.

Single-level and without orthogonality, in sequence on what is still missing. With S = Σ_t + λ I each half-step is a
least-squares problem with a closed form, so a round is one step of subspace iteration towards the plain optimum:

    A <- (Bᵀ B)⁻¹ Bᵀ K S⁻¹,        B <- K Aᵀ (A S Aᵀ)⁻¹.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bench.api import Array
from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage, coefficients, orthonormal_rows, stack


@dataclass(frozen=True)
class Alternating(LinearMethod):
    """`rounds` alternations a concept."""

    name = "alternating"
    pretty_name = "continual alternating A and B"

    rounds: int = 5

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        shares: tuple[LowRank, ...] = ()
        for t in range(problem.concepts):
            start = orthonormal_rows(rng.standard_normal((problem.rank, problem.width)))
            missing = problem.missing(t, stack(shares) if shares else problem.nothing())
            alone = self.alternate(problem, t, problem.cross_moments[t], start)
            shares = (*shares, self.alternate(problem, t, missing, start) if shares else alone)
            yield Stage(shares, alone, shares[-1].A)

    def alternate(self, problem: LinearProblem, concept: int, K: Array, start: Array) -> LowRank:
        """Run the rounds for one concept; the basis comes back orthonormal, which changes no product B A."""
        S, ridge = problem.moments[concept], problem.ridge
        factor = cho_factor(S + ridge * np.eye(problem.width))
        target = cho_solve(factor, K.T).T  # K S⁻¹
        A, B = start, coefficients(start, S, K, ridge)
        for _ in range(self.rounds):
            # B has full column rank as long as K has rank r or more; lstsq covers the rest
            A = orthonormal_rows(np.linalg.lstsq(B, target, rcond=None)[0])
            B = coefficients(A, S, K, ridge)
        return LowRank(B, A)
