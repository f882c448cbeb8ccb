"""Gradient fusion (Mix-of-Show, Gu et al. 2023) of one update a concept into one, exactly or by descent.

For every layer, with X_i what it sees of concept i,

    min_Δ Σ_i ‖(Δ - ΔW_i) X_i‖² = <Δ G, Δ> - 2 <Δ, N> + const,      G = Σ_i X_i X_iᵀ,   N = Σ_i ΔW_i X_i X_iᵀ,

so sums of n x n and m x n matrices are all that is kept, whatever the number of concepts. The minimiser of least norm
is Δ = N G⁺. Layers fed by text see a handful of states, so that G is all but singular: the least-squares solution then
answers rounding and chance in the small directions with huge weights, which other prompts meet. A ridge, relative to
the mean eigenvalue of G, pulls such directions back to the base weight,

    Δ = N (G + λ tr(G)/n I)⁻¹,      λ → 0: least squares,   λ → ∞: the base weight,

as the published descent from the base weight does by stopping early.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.methods.images.activations import activations, kind_of
from bench.methods.images.api import ImageMethod, Workshop, weighted_sum
from bench.methods.images.frozen import FrozenOrthonormal
from bench.methods.images.plain import PlainSum
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from seqlora.moments import ExactMoment

# Chosen on plain LoRAs of four tuning identities (portraits:split=tuning), one seed, three prompts: without a ridge
# identity was gone; from 1e-4 to 1e-1 it was low and told no values apart; from 1e-2 on the context followed prompts.
# That is weak evidence, from earlier weights of the world, and none for ED-LoRA: `fusion:ridge=...` repeats it.
RIDGE = 1e-2


@dataclass
class LayerSums:
    """What fusion needs to know of a layer.

    Attributes:
        G: sum of X_i X_iᵀ, (n, n).
        N: sum of ΔW_i X_i X_iᵀ, (m, n).
        energy: sum of ‖ΔW_i X_i‖².
        rows: number of activations, all concepts together.
    """

    G: Tensor
    N: Tensor
    energy: float = 0.0
    rows: int = 0

    @classmethod
    def empty(cls, m: int, n: int) -> LayerSums:
        """Before the first concept."""
        return cls(torch.zeros(n, n, dtype=torch.float64), torch.zeros(m, n, dtype=torch.float64))

    def add(self, update: Tensor, moment: ExactMoment) -> None:
        """Count one more concept in."""
        total, update = moment.total, update.double()
        seen = update @ total
        self.G += total
        self.N += seen
        self.energy += float((seen * update).sum())
        self.rows += moment.count

    def objective(self, update: Tensor) -> Tensor:
        """`Σ_i ‖(Δ - ΔW_i) X_i‖²` per activation and output."""
        return self.value_and_gradient(update)[0]

    def value_and_gradient(self, update: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and its derivative `2 (Δ G - N)`, both per activation and output."""
        seen, outputs = update @ self.G, max(self.rows, 1) * len(self.N)
        value = (seen * update).sum() - 2 * (update * self.N).sum() + self.energy
        return value / outputs, 2 * (seen - self.N) / outputs


@dataclass
class ModelSums:
    """`LayerSums` of many layers.

    Attributes:
        layers: by name; a layer is there from its first concept on.
    """

    layers: dict[str, LayerSums] = field(default_factory=dict)

    def add(self, updates: Update, moments: dict[str, ExactMoment]) -> None:
        """Count one more concept in: its own updates, and what the layers see of it."""
        for layer, moment in moments.items():
            self.layers.setdefault(layer, LayerSums.empty(*updates[layer].shape)).add(updates[layer], moment)


def solve_exactly(sums: LayerSums, ridge: float = 0.0) -> Tensor:
    """`N (G + λ tr(G)/n I)⁻¹`; for λ = 0 `N G⁺`, eigenvalues below n u of the largest counting as zero. O(n³)."""
    values, U = torch.linalg.eigh(sums.G)
    tiny = torch.finfo(values.dtype).tiny
    if ridge > 0:
        inverse = 1 / (values.clamp_min(0) + ridge * values.mean()).clamp_min(tiny)
    else:
        floor = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp_min(tiny)
        inverse = torch.where(values > floor, 1 / values.clamp_min(floor), 0.0)
    return ((sums.N @ U) * inverse) @ U.mT


def solve_by_lbfgs(sums: LayerSums, iterations: int) -> Tensor:
    """As the published code does: from the base weight, strong Wolfe, history 25; the best point that was seen."""
    update = torch.zeros_like(sums.N, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [update],
        lr=1,
        max_iter=iterations,
        history_size=25,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-16,
        tolerance_change=1e-16,
    )
    best, lowest = update.detach().clone(), float("inf")

    @torch.no_grad()
    def closure() -> float:
        nonlocal best, lowest
        value, update.grad = sums.value_and_gradient(update)
        if float(value) < lowest:
            best, lowest = update.detach().clone(), float(value)
        return float(value)

    optimizer.step(closure)
    return best


def published_iterations(layer: str) -> int:
    """500 for layers that text goes through, 50 for the others."""
    return 50 if kind_of(layer) == "spatial" else 500


@dataclass(frozen=True)
class StreamedFusion(ImageMethod):
    """Each concept's activations are recorded once, with its own model, and only sums are kept."""

    def stages(self, learnt: Sequence[Learnt], workshop: Workshop) -> Iterator[Update]:
        """See `ImageMethod.stages`."""
        sums = ModelSums()
        for concept in learnt:
            own = weighted_sum([concept], [1.0])
            subject = workshop.know(concept)
            workshop.studio.show(own)
            widths = {layer: update.shape[1] for layer, update in own.items()}
            sums.add(own, activations(workshop.studio, subject, widths, workshop.seed))
            yield {layer: self.solve(layer, known).float() for layer, known in sums.layers.items()}

    @abstractmethod
    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """The fused update of a layer, (m, n)."""


@dataclass(frozen=True)
class Fusion(StreamedFusion):
    """Fuse plain LoRA, exactly, with a ridge."""

    name = "fusion"
    pretty_name = "gradient fusion of plain LoRA, solved exactly (Mix-of-Show's objective)"

    ridge: float = RIDGE

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return PlainSum().train(workshop)

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """See `StreamedFusion.solve`."""
        return solve_exactly(sums, self.ridge)


@dataclass(frozen=True)
class FusionFrozen(Fusion):
    """Fuse updates in frozen orthonormal bases."""

    name = "fusion-frozen"
    pretty_name = "gradient fusion of frozen orthonormal bases, solved exactly"
    role = "control"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return FrozenOrthonormal().train(workshop)


@dataclass(frozen=True)
class FusionLBFGS(StreamedFusion):
    """Fuse plain LoRA by descent, with the published settings."""

    name = "fusion-lbfgs"
    pretty_name = "gradient fusion of plain LoRA by LBFGS"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return PlainSum().train(workshop)

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """See `StreamedFusion.solve`."""
        return solve_by_lbfgs(sums, published_iterations(layer))
