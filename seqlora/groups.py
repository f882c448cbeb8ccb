"""Layers of equal shape stacked into one tensor, so that every step is a few batched products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqlora.adapters import AdaptedLayer
from seqlora.capacity import LayerPlan
from seqlora.subspace import project_out, retract_qr


@dataclass
class LayerGroup:
    """L layers of one shape: their factors and gradients are slices of the stacks below, never copies.

    Attributes:
        layers: the layers, in the order of the stacks.
        mode: how their bases are chosen (see `LayerPlan`).
        A: bases, shape (L, r, n); the parameters of the layers are views into it. Likewise B, shape (L, m, r).
        projector: projector onto the complement of the earlier bases, shape (L, n, n), or None.
        past_factor: F with F^T F = sum of past second moments, shape (L, l, n), or None.
        penalty_weight: weight w of tr(H B A S_past A^T B^T) / 2 in each layer, shape (L,).
        output_metric: H, shape (L, m, m), or None for the identity.
        room: square root of beta^2 I - sum B_i B_i^T and its pseudo-inverse, each (L, m, m), or None without a cap.
    """

    layers: Sequence[AdaptedLayer]
    mode: str
    A: nn.Parameter
    B: nn.Parameter
    projector: Tensor | None = None
    past_factor: Tensor | None = None
    penalty_weight: Tensor | None = None
    output_metric: Tensor | None = None
    room: tuple[Tensor, Tensor] | None = None

    @classmethod
    def stack(cls, layers: Sequence[AdaptedLayer], mode: str) -> LayerGroup:
        """Move the factors of `layers` into common storage and point their parameters and gradients at it."""
        stacks = []
        for pick in (lambda layer: layer.A, lambda layer: layer.B):
            parameters = [pick(layer) for layer in layers]
            rows = [parameter.detach().flatten(1) for parameter in parameters]
            stack = nn.Parameter(torch.stack(rows))
            stack.grad = torch.zeros_like(stack)
            for index, parameter in enumerate(parameters):
                parameter.data = stack.data[index].view(parameter.shape)
                parameter.grad = stack.grad[index].view(parameter.shape)
            stacks.append(stack)
        A, B = stacks
        return cls(layers, mode, A, B)

    @property
    def names(self) -> list[str]:
        """Names of the layers, in stack order."""
        return [layer.name for layer in self.layers]

    def zero_grad(self) -> None:
        """Clear the gradients in place: the layers' gradients are views and must stay so."""
        for stack in (self.A, self.B):
            assert stack.grad is not None
            stack.grad.zero_()

    def require_basis_gradient(self, required: bool) -> None:
        """Let the backward pass compute gradients of A, or spare it the work."""
        for layer in self.layers:
            layer.A.requires_grad_(required)

    @torch.no_grad()
    def set_bases(self, A: Tensor) -> None:
        """Put the bases A, shape (L, r, n), in place and reset B to zero."""
        self.A.copy_(A.to(self.A))
        self.B.zero_()

    @torch.no_grad()
    def polish(self, past: Mapping[str, Tensor]) -> None:
        """Make bases orthonormal and orthogonal to `past` (name -> (p, n)) to rounding of a float64 computation.

        B changes with it, B <- B (A A_new^T), so that the update B A stays what it was, up to what is removed.
        """
        for index, layer in enumerate(self.layers):
            A = self.A[index].double()
            free = A if self.mode != "orthogonal" else project_out(A, past[layer.name].to(A))
            polished = retract_qr(free)
            self.B[index].copy_((self.B[index].double() @ (A @ polished.mT)).to(self.B))
            self.A[index].copy_(polished.to(self.A))

    @torch.no_grad()
    def add_regularisation(self, ridge: float, with_basis: bool) -> None:
        """Add the gradients of ridge/2 ‖B‖^2 + w/2 tr(H B A S_past A^T B^T) to those of the loss.

        dB = ridge B + w H B A S_past A^T, and dA = w B^T H B A S_past. Cost O(L r (l n + m^2)), constant in T.
        """
        assert self.A.grad is not None
        assert self.B.grad is not None
        self.B.grad.add_(self.B, alpha=ridge)
        if self.past_factor is None or self.penalty_weight is None:
            return
        weight = self.penalty_weight[:, None, None]
        seen = self.A @ self.past_factor.mT  # A F^T, so that A S_past A^T = (A F^T)(A F^T)^T
        weighed = self.B if self.output_metric is None else self.output_metric @ self.B  # H B
        self.B.grad.add_(weight * (weighed @ (seen @ seen.mT)))
        if with_basis:
            self.A.grad.add_(weight * ((self.B.mT @ weighed) @ (seen @ self.past_factor)))

    @torch.no_grad()
    def clip_to_cap(self) -> None:
        """Largest B B^T <= beta^2 I - sum of earlier ones: clip the singular values of root^-1 B at 1 (claim C4)."""
        if self.room is None:
            return
        root, inverse_root = self.room
        Z = inverse_root @ self.B
        values, V = torch.linalg.eigh(Z.mT @ Z)
        shrink = values.clamp_min(1.0).rsqrt()  # min(s, 1) / s, s the singular values of Z
        self.B.copy_(root @ (Z @ (V * shrink.unsqueeze(-2)) @ V.mT))


def group_layers(layers: Sequence[AdaptedLayer], plan: Mapping[str, LayerPlan]) -> list[LayerGroup]:
    """Stack layers whose factors have the same shape and whose bases follow the same rule."""
    buckets: dict[tuple[int, int, LayerPlan, torch.dtype, torch.device], list[AdaptedLayer]] = defaultdict(list)
    for layer in layers:
        m, n = layer.weight.shape
        buckets[m, n, plan[layer.name], layer.A.dtype, layer.A.device].append(layer)
    return [LayerGroup.stack(members, key[2].mode) for key, members in buckets.items()]


def complement_projectors(group: LayerGroup, past: Mapping[str, Tensor]) -> Tensor | None:
    """I - P^T P of each layer, shape (L, n, n); None where nothing is used yet or nothing must be avoided."""
    if group.mode != "orthogonal" or all(past[name].shape[0] == 0 for name in group.names):
        return None
    P = torch.stack([past[name] for name in group.names]).double()
    return (torch.eye(P.shape[-1], dtype=P.dtype) - P.mT @ P).to(group.A)


def remaining_room(group: LayerGroup, used: Callable[[str], Tensor], cap: float) -> tuple[Tensor, Tensor]:
    """Square root of beta^2 I - sum_i B_i B_i^T in each layer and its pseudo-inverse, shape (L, m, m) each."""
    S = torch.stack([used(name) for name in group.names]).double()
    values, U = torch.linalg.eigh(cap**2 * torch.eye(S.shape[-1], dtype=S.dtype) - S)
    # Directions with no room left stay closed: the pseudo-inverse maps them to zero.
    open_ = values > cap**2 * S.shape[-1] * torch.finfo(torch.float32).eps
    root = torch.where(open_, values.clamp_min(0).sqrt(), 0.0)
    inverse = torch.where(open_, 1 / root.clamp_min(1e-300), 0.0)
    return (
        ((U * root.unsqueeze(-2)) @ U.mT).to(group.B),
        ((U * inverse.unsqueeze(-2)) @ U.mT).to(group.B),
    )


def set_penalty(
    group: LayerGroup,
    past_factors: Mapping[str, Tensor],
    weights: Mapping[str, float],
    metrics: Mapping[str, Tensor],
) -> None:
    """Charge the group for forgetting: F with F^T F = S_past, each layer's weight, and H where there is one."""
    group.past_factor = torch.stack([past_factors[name] for name in group.names]).to(group.A)
    group.penalty_weight = torch.tensor([weights[k] for k in group.names], dtype=torch.float64).to(group.A)
    group.output_metric = torch.stack([metrics[name] for name in group.names]).to(group.A) if metrics else None
