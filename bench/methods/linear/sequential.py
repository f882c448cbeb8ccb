"""Learned bases in sequence: SeqLoRA, and what is left of it without orthogonality or with the forgetting penalty.

All four solve the same problem for what is still missing (`seqlora.linear`, a generalised eigenproblem); they differ in
two switches, whether the new basis is kept orthogonal to the earlier ones and whether γ tr(B A Σ_past Aᵀ Bᵀ) is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage, best_update, stack


@dataclass(frozen=True)
class Sequential(LinearMethod):
    """Concept t at the exact optimum for `(D_t - Σ_{i<t} ΔW_i) X_t`."""

    orthogonal: ClassVar[bool]

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`."""
        shares: tuple[LowRank, ...] = ()
        past_moment = np.zeros((problem.width, problem.width))
        for t, S in enumerate(problem.moments):
            past = stack(shares) if shares else problem.nothing()
            update = best_update(
                S,
                problem.missing(t, past),
                problem.rank,
                problem.ridge,
                self.forgetting_weight,
                past_bases=past.A if self.orthogonal and shares else None,
                past_moment=past_moment,
            )
            shares = (*shares, update)
            past_moment = past_moment + S  # every earlier concept counts as much as the new one
            yield Stage(shares, problem.optima[t], shares[-1].A)

    @property
    def forgetting_weight(self) -> float:
        """Weight γ of the forgetting penalty."""
        return 0.0


@dataclass(frozen=True)
class PlainSequence(Sequential):
    """No orthogonality, no penalty: each concept is fitted as well as rank r allows, whatever that breaks."""

    name = "plain-sequence"
    pretty_name = "plain LoRA, in sequence"
    role = "control"
    orthogonal = False


@dataclass(frozen=True)
class SeqLoRA(Sequential):
    """Bases orthogonal to all earlier ones."""

    name = "seqlora"
    pretty_name = "SeqLoRA"
    orthogonal = True


@dataclass(frozen=True)
class Penalised(Sequential):
    """With the forgetting penalty from stored second moments."""

    gamma: float = 1.0

    @property
    def forgetting_weight(self) -> float:
        """Weight γ of the forgetting penalty."""
        return self.gamma


@dataclass(frozen=True)
class SeqLoRAPenalty(Penalised):
    """Orthogonal bases and the penalty."""

    name = "seqlora-penalty"
    pretty_name = "SeqLoRA with forgetting penalty"
    orthogonal = True


@dataclass(frozen=True)
class PenaltyOnly(Penalised):
    """The penalty without orthogonality."""

    name = "penalty-only"
    pretty_name = "forgetting penalty, no orthogonality"
    orthogonal = False
