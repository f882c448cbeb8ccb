"""Least-squares fusion: the objective of Mix-of-Show's gradient fusion, solved exactly instead of by LBFGS.

    W* = argmin_W Σ_i ‖(W - ΔW_i) X_i‖²/N + λ ‖W‖² = (Σ_i ΔW_i Σ_i) (Σ_i Σ_i + λ I)⁻¹

It needs the second moments of all concepts at once and a solve for each new set of concepts; a sum needs neither.
(Also known as RegMean, Jin et al. 2023.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage
from bench.methods.linear.frozen import FrozenOrthonormal
from bench.methods.linear.plain import PlainSum


@dataclass(frozen=True)
class Fusion(LinearMethod):
    """Fuse plain updates."""

    name = "fusion"
    pretty_name = "least-squares fusion of plain LoRA (Mix-of-Show's objective, exact)"
    starts_from_optima = True

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        for t, stage in enumerate(self.source().learn(problem, rng)):
            moments = problem.moments[: t + 1]
            factor = cho_factor(moments.sum(axis=0) + problem.ridge * np.eye(problem.width))
            # ΔW_i Σ_i (Σ_k Σ_k + λ I)⁻¹ keeps B_i and changes the basis only
            shares = tuple(
                LowRank(B, cho_solve(factor, (A @ S).T).T) for (B, A), S in zip(stage.shares, moments, strict=True)
            )
            yield Stage(shares, stage.alone, stage.basis)

    def source(self) -> LinearMethod:
        """Where the updates come from."""
        return PlainSum()


@dataclass(frozen=True)
class FusionFrozen(Fusion):
    """Fuse updates in frozen orthonormal bases."""

    name = "fusion-frozen"
    pretty_name = "least-squares fusion of frozen orthonormal bases"
    role = "control"
    starts_from_optima = False

    def source(self) -> LinearMethod:
        """See `Fusion.source`."""
        return FrozenOrthonormal()
