"""Plain LoRA: every concept trained alone, A and B free, at the exact optimum; then summed, averaged or rescaled.

The average and the norm-matched sum are controls: a method that merely makes the merged update smaller gains as much
as they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage, stack


@dataclass(frozen=True)
class PlainSum(LinearMethod):
    """`W0 + Σ_i ΔW_i` of independently trained concepts."""

    name = "plain-sum"
    pretty_name = "plain LoRA, sum"
    starts_from_optima = True

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        updates: list[LowRank] = []
        for alone in problem.optima:
            updates.append(alone)
            weight = self.weight(updates)
            yield Stage(tuple(LowRank(weight * B, A) for B, A in updates), alone, alone.A)

    def weight(self, updates: list[LowRank]) -> float:
        """Merge weight of every update."""
        return 1.0


@dataclass(frozen=True)
class PlainAverage(PlainSum):
    """`W0 + Σ_i ΔW_i / t`."""

    name = "plain-average"
    pretty_name = "plain LoRA, 1/T average"
    role = "control"

    def weight(self, updates: list[LowRank]) -> float:
        """1/t."""
        return 1 / len(updates)


@dataclass(frozen=True)
class PlainNormMatched(PlainSum):
    """The sum rescaled so that the merged update is as large as one concept's, whatever their number."""

    name = "plain-norm-matched"
    pretty_name = "plain LoRA, norm-matched sum"
    role = "control"

    def weight(self, updates: list[LowRank]) -> float:
        """Mean of ‖ΔW_i‖_F over ‖Σ_i ΔW_i‖_F."""
        norms = [float(np.linalg.norm(update.B)) for update in updates]  # ‖B A‖ = ‖B‖: the rows of A are orthonormal
        return float(np.mean(norms) / np.linalg.norm(stack(tuple(updates)).dense()))
