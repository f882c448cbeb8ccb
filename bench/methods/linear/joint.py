"""What training on all concepts at once could reach: the floor under every continual method, and the untrained base.

min_M Σ_j ‖(M - D_j) X_j‖²/N + λ ‖M‖²,  with rank(M) <= r t, or without a constraint
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage, best_update


@dataclass(frozen=True)
class Base(LinearMethod):
    """No update at all: relative error 1, by definition."""

    name = "base"
    pretty_name = "untrained base"
    role = "control"

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        for _ in range(problem.concepts):
            yield Stage((problem.nothing(),), problem.nothing())


@dataclass(frozen=True)
class JointRank(LinearMethod):
    """Joint optimum of the rank that a sum of t updates has."""

    name = "joint-rank"
    pretty_name = "joint optimum of rank rT"
    role = "reference"

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        for t in range(1, problem.concepts + 1):
            S, K = problem.moments[:t].sum(axis=0), problem.cross_moments[:t].sum(axis=0)
            rank = min(t * problem.rank, problem.width)
            yield Stage((best_update(S, K, rank, problem.ridge),), problem.optima[t - 1])


@dataclass(frozen=True)
class Joint(LinearMethod):
    """Joint optimum over all updates: full fine-tuning of the layer on all concepts."""

    name = "joint"
    pretty_name = "joint optimum, any rank"
    role = "reference"

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        for t in range(problem.concepts):
            every = range(t + 1)
            yield Stage((self.optimum(problem, every),), self.optimum(problem, [t]))

    @staticmethod
    def optimum(problem: LinearProblem, concepts: range | list[int]) -> LowRank:
        """`(Σ_j K_j) (Σ_j Σ_j + λ I)⁻¹` as a pair with the identity as basis."""
        S, K = problem.moments[concepts].sum(axis=0), problem.cross_moments[concepts].sum(axis=0)
        factor = cho_factor(S + problem.ridge * np.eye(problem.width))
        return LowRank(cho_solve(factor, K.T).T, np.eye(problem.width))
