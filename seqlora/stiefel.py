"""Riemannian descent on stacks of bases, inside the complement of all earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqlora.subspace import retract_cholesky, tangent


@dataclass
class RiemannianAdam:
    """Adam with one second moment a basis (Becigneul & Ganea 2019): invariant to rotations within the subspace.

    With Z the gradient projected onto the complement and the tangent space, per basis

        m <- beta_1 m + (1 - beta_1) Z,    v <- beta_2 v + (1 - beta_2) ‖Z‖^2 / r,
        A <- retract(A - step m^ / sqrt(v^)),    m <- projection of m onto the new tangent space,

    so that `step` is about the angle, in radians, by which each direction turns.

    Attributes:
        mean: first moments, shape (L, r, n).
        scale: second moments, shape (L,).
        count: steps taken.
    """

    mean: Tensor
    scale: Tensor
    count: int = 0
    betas: tuple[float, float] = field(default=(0.9, 0.99))

    @classmethod
    def for_bases(cls, A: Tensor) -> RiemannianAdam:
        """Zero moments for a stack of bases, shape (L, r, n)."""
        return cls(torch.zeros_like(A), A.new_zeros(A.shape[0]))

    @torch.no_grad()
    def step(self, A: Tensor, gradient: Tensor, projector: Tensor | None, step: float) -> None:
        """Move the stack `A` in place. Cost O(L r n^2), whatever the number of earlier concepts.

        Args:
            A: bases, shape (L, r, n), orthonormal rows, inside the complement.
            gradient: Euclidean gradient, same shape.
            projector: projector onto the complement, shape (L, n, n); None for no constraint.
            step: step length in radians per direction.
        """
        confined = gradient if projector is None else gradient @ projector
        Z = tangent(A, confined)
        self.count += 1
        beta_1, beta_2 = self.betas
        self.mean.lerp_(Z, 1 - beta_1)
        self.scale.lerp_(Z.square().sum((-2, -1)) / A.shape[-2], 1 - beta_2)
        unbiased_mean = self.mean / (1 - beta_1**self.count)
        unbiased_scale = (self.scale / (1 - beta_2**self.count)).sqrt()
        tiny = torch.finfo(A.dtype).tiny ** 0.5
        moved = A - step * unbiased_mean / (unbiased_scale + tiny)[:, None, None]
        # Rounding would let A drift out of the complement a little at every step: project again before retracting.
        moved = retract_cholesky(moved if projector is None else moved @ projector)
        A.copy_(moved)
        self.mean.copy_(tangent(A, self.mean))
