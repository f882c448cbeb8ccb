"""Gradient fusion of Mix-of-Show (Gu et al. 2023), by LBFGS as published and solved exactly, from streamed moments.

For every layer, with X_i what it sees while concept i is drawn by its own model,

    min_Δ Σ_i ‖(Δ - ΔW_i) X_i‖² = <Δ G, Δ> - 2 <Δ, N> + const,      G = Σ_i X_i X_iᵀ,   N = Σ_i ΔW_i X_i X_iᵀ,

so sums of n x n and m x n matrices are all that is kept, whatever the number of concepts; the exact minimiser of least
norm is Δ = N G⁺. Directions that no concept uses keep the base weight, as they do for descent from the base weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.methods.images.api import ImageMethod, Workshop, weighted_sum
from bench.methods.images.frozen import FrozenOrthonormal
from bench.methods.images.plain import PlainSum
from bench.personalise.batches import token_ids
from bench.personalise.shared import Learnt
from bench.personalise.studio import Studio, Update
from seqlora.moments import ExactMoment

TEXT_LAYERS = re.compile(r"attn2\.to_[kv]$")  # their inputs are text features
DRAWING_STEPS = 20
TEXTS = ("photo of a {}", "{}")


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

    def add(self, update: Tensor, moment: ExactMoment) -> None:
        """Count one more concept in."""
        total, update = moment.total, update.double()
        self.G += total
        self.N += update @ total
        self.energy += float(((update @ total) * update).sum())
        self.rows += moment.count

    def objective(self, update: Tensor) -> Tensor:
        """`Σ_i ‖(Δ - ΔW_i) X_i‖²` per activation and output."""
        squares = ((update @ self.G) * update).sum() - 2 * (update * self.N).sum() + self.energy
        return squares / (max(self.rows, 1) * len(self.N))


def solve_exactly(layer: str, sums: LayerSums) -> Tensor:
    """Minimiser of least norm, `N G⁺`: eigenvalues below n u of the largest count as zero. O(n³)."""
    values, U = torch.linalg.eigh(sums.G)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    inverse = torch.where(values > floor, 1 / values.clamp_min(floor), 0.0)
    return ((sums.N @ U) * inverse) @ U.mT


def solve_by_lbfgs(layer: str, sums: LayerSums) -> Tensor:
    """As in the official code: from the base weight, 500 iterations for text layers and 50 for others; the best."""
    update = torch.zeros_like(sums.N, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [update],
        lr=1,
        max_iter=500 if TEXT_LAYERS.search(layer) else 50,
        history_size=25,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-16,
        tolerance_change=1e-16,
    )
    best: tuple[float, Tensor] = (float("inf"), update.detach().clone())

    def closure() -> Tensor:
        nonlocal best
        optimizer.zero_grad()
        value = sums.objective(update)
        value.backward()
        if float(value.detach()) < best[0]:
            best = (float(value.detach()), update.detach().clone())
        return value

    optimizer.step(closure)
    return best[1]


@dataclass(frozen=True)
class Fusion(ImageMethod):
    """Fuse plain LoRA, exactly."""

    name = "fusion"
    pretty_name = "gradient fusion of plain LoRA, solved exactly (Mix-of-Show's objective)"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return PlainSum().train(workshop)

    def stages(self, learnt: Sequence[Learnt], workshop: Workshop) -> Iterator[Update]:
        """See `ImageMethod.stages`."""
        sums: dict[str, LayerSums] = {}
        for concept in learnt:
            own = weighted_sum([concept], [1.0])
            moments = drawing_moments(workshop.studio, own, workshop.know(concept), workshop.seed)
            for layer, update in own.items():
                n, m = update.shape[1], update.shape[0]
                empty = LayerSums(torch.zeros(n, n, dtype=torch.float64), torch.zeros(m, n, dtype=torch.float64))
                sums.setdefault(layer, empty).add(update, moments[layer])
            yield {layer: self.solve(layer, known).float() for layer, known in sums.items()}

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """The fused update of a layer, (m, n)."""
        return solve_exactly(layer, sums)


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
class FusionLBFGS(Fusion):
    """Fuse plain LoRA as the official code does."""

    name = "fusion-lbfgs"
    pretty_name = "gradient fusion of plain LoRA by LBFGS (Mix-of-Show)"

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """See `Fusion.solve`."""
        return solve_by_lbfgs(layer, sums)


@torch.no_grad()
def drawing_moments(studio: Studio, update: Update, subject: str, seed: int) -> dict[str, ExactMoment]:
    """What every layer sees of a concept, with the concept's own model.

    Text layers: features of the concept's tokens and of the end (and padding) tokens. Others: one image, 20 steps, no
    guidance, every step.
    """
    studio.show(update)
    pipeline, denoiser = studio.pipeline, studio.denoiser
    moments = {layer: ExactMoment(W.shape[1]) for layer, W in update.items()}
    ids = token_ids(pipeline, [text.format(subject) for text in TEXTS])
    states = pipeline.text_encoder(ids).last_hidden_state
    counted = ids >= pipeline.tokenizer.eos_token_id  # added tokens come after the end token
    handles = []
    for layer, moment in moments.items():
        if TEXT_LAYERS.search(layer):
            moment.update(states[counted])
            continue
        handles.append(denoiser.get_submodule(layer).register_forward_pre_hook(_watch(moment)))
    try:
        pipeline(
            TEXTS[0].format(subject),
            height=studio.size,
            width=studio.size,
            num_inference_steps=DRAWING_STEPS,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        )
    finally:
        for handle in handles:
            handle.remove()
    return moments


def _watch(moment: ExactMoment) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moment.update(inputs[0].reshape(-1, inputs[0].shape[-1]))

    return hook
