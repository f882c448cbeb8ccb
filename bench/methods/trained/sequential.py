"""A linear layer trained by `seqlora.ConceptSequence`, concept after concept, from the layer's moments.

The loss depends on the activations through `Σ_j` and `K_j` only, so n inputs with these moments stand for all of them:

    Σ = U Λ Uᵀ,    X~ = U Λ^{1/2},    Y~ = K U Λ^{-1/2},    so that  X~ X~ᵀ = Σ  and  Y~ X~ᵀ = K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.api import Array
from bench.methods.linear.api import LinearMethod, LinearProblem, LowRank, Stage, orthonormal_rows
from seqlora import ConceptSequence, SeqLoRAConfig

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trained(LinearMethod):
    """A fixed number of cycles: K steps on B, then one that moves A as well. Halving K halves the work.

    Attributes:
        cycles: steps on A of each concept.
        inner_steps: K, steps on B between two steps on A.
        rate: learning rate of B.
    """

    basis: ClassVar[Literal["learned", "free"]] = "learned"
    orthogonal: ClassVar[bool] = True
    start: ClassVar[Literal["moments", "random"]] = "moments"
    starts_from_optima = True

    cycles: int = 16
    inner_steps: int = 4
    rate: float = 6e-3

    def learn(self, problem: LinearProblem, rng: np.random.Generator) -> Iterator[Stage]:
        """See `LinearMethod.learn`; what a concept gives alone is its closed-form optimum."""
        scale = float(np.mean(problem.energies))  # the loss is then of order one, whatever the layer
        config = SeqLoRAConfig(
            rank=problem.rank,
            target_modules=("0",),
            ridge=problem.ridge / scale,
            inner_steps=self.inner_steps,
            basis=self.basis,
            orthogonal=self.orthogonal,
            start=self.start,
            start_batches=1,
            coefficient_learning_rate=self.rate,
            schedule="cosine",
            seed=int(rng.integers(2**31)),
        )
        # without a draw for the weights: they are zero, and torch's global generator stays where it was
        layer = nn.utils.skip_init(nn.Linear, problem.width, problem.outputs, bias=False, dtype=torch.float64)
        nn.init.zeros_(layer.weight)
        model = nn.Sequential(layer).requires_grad_(False)
        sequence = ConceptSequence(model, config)
        shares: tuple[LowRank, ...] = ()
        for t in range(problem.concepts):
            batch = equivalent_batch(problem.moments[t], problem.cross_moments[t], scale)
            steps = self.cycles * (self.inner_steps + 1)
            for _ in sequence.learn(f"concept{t}", [batch] * steps, half_squared_error):
                pass
            A, B = next(iter(sequence.concepts[f"concept{t}"].factors.values()))
            shares = (*shares, LowRank(B.double().numpy(), A.double().numpy()))
            yield Stage(shares, problem.optima[t], orthonormal_rows(shares[-1].A))


@dataclass(frozen=True)
class SeqLoRA(Trained):
    """Bases orthogonal to all earlier ones, by Riemannian steps."""

    name = "seqlora"
    pretty_name = "SeqLoRA, trained"


@dataclass(frozen=True)
class PlainSequence(Trained):
    """A and B free, in turns, on what is still missing."""

    name = "plain-sequence"
    pretty_name = "plain LoRA in sequence, trained"
    role = "control"
    basis = "free"
    orthogonal = False
    start = "random"


def equivalent_batch(moment: Array, cross_moment: Array, scale: float) -> Batch:
    """Inputs and targets with the given moments, n of each, divided by the square root of `scale`.

    Args:
        moment: Σ, shape (n, n).
        cross_moment: K, shape (m, n), its rows in the range of Σ.
        scale: see `half_squared_error`.

    Returns:
        Inputs (n, n) and targets (n, m), one example a row; the means of products over rows are Σ and K over `scale`.
    """
    values, U = np.linalg.eigh(moment)
    floor = len(values) * np.finfo(np.float64).eps * values[-1]
    root = np.sqrt(np.maximum(values, floor))
    X = U * np.where(values > floor, root, 0.0)
    Y = cross_moment @ (U * np.where(values > floor, 1 / root, 0.0))
    factor = np.sqrt(len(values) / scale)  # a mean over n rows, of squares relative to `scale`
    return torch.from_numpy(factor * X.T), torch.from_numpy(factor * Y.T)


def half_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """`‖(M - D) X‖² / (2 N scale)`."""
    inputs, targets = batch
    loss: Tensor = 0.5 * (model(inputs) - targets).square().sum(dim=1).mean()
    return loss
