"""Mix-of-Show (Gu et al. 2023): ED-LoRA, then gradient fusion of everything, in the order of the published code.

ED-LoRA writes a concept as two words with an embedding for every cross-attention layer and adapts all attention layers
by plain LoRA of scale 1. Fusion goes through the model in the direction of the data, each part fitted to what it sees
behind the parts that are already fused:

    text encoder (own text encoder)  ->  keys and values (fused text encoder)  ->  the rest (fused text and keys,
                                                                                   values; the concept's own rest)

Activations are summed into Gram matrices, concept by concept, so that memory does not grow with their number. Because
later parts depend on the fused earlier ones, every concept is recorded anew at each stage; that needs its LoRA and
words, not its images. The text encoder is adapted, and fused, with `text_encoder=True` only: methods are compared on
the same layers. Left out of the published training: its attention regulariser and masked loss, which need masks; noise
offset, which zero-terminal-SNR noise makes superfluous; the text encoder's own, lower rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.api import Role
from bench.methods.images.activations import KINDS, activations, kind_of
from bench.methods.images.api import ImageMethod, Workshop, config, weighted_sum
from bench.methods.images.fusion import (
    RIDGE,
    LayerSums,
    ModelSums,
    published_iterations,
    solve_by_lbfgs,
    solve_exactly,
)
from bench.personalise.learner import TEXT_ENCODER
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from bench.personalise.tokens import ED_LORA


@dataclass(frozen=True)
class EDLoRAAverage(ImageMethod):
    """ED-LoRA merged by `Σ_i ΔW_i / t`: the paper's "weight fusion", what its gradient fusion is compared with."""

    name = "ed-lora-average"
    pretty_name = "ED-LoRA, 1/T average (Mix-of-Show's weight fusion)"
    role: ClassVar[Role] = "control"

    text_encoder: bool = False

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        layers = f"{workshop.layers}|{TEXT_ENCODER}" if self.text_encoder else workshop.layers
        free = config(
            workshop,
            basis="free",
            orthogonal=False,
            start="random",
            inner_steps=0,
            train_on="base",
            target_modules=layers,
        )
        return workshop.trained(free, style=ED_LORA)

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """See `ImageMethod.merge`."""
        return weighted_sum(learnt, [1 / len(learnt)] * len(learnt))


@dataclass(frozen=True)
class MixOfShow(EDLoRAAverage):
    """ED-LoRA and gradient fusion by LBFGS."""

    name = "mix-of-show"
    pretty_name = "Mix-of-Show (ED-LoRA, gradient fusion by LBFGS)"
    role = "method"

    def stages(self, learnt: Sequence[Learnt], workshop: Workshop) -> Iterator[Update]:
        """See `ImageMethod.stages`."""
        for t in range(len(learnt)):
            yield self.fuse(learnt[: t + 1], workshop)

    def fuse(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """The fused update of all layers."""
        fused: dict[str, Tensor] = {}
        for kind in KINDS:
            sums = ModelSums()
            for concept in learnt:
                own = {k: update for k, update in weighted_sum([concept], [1.0]).items() if kind_of(k) == kind}
                subject = workshop.know(concept)
                workshop.studio.show({**fused, **own})
                widths = {layer: update.shape[1] for layer, update in own.items()}
                sums.add(own, activations(workshop.studio, subject, widths, workshop.seed))
            fused |= {layer: self.solve(layer, known).float() for layer, known in sums.layers.items()}
        return fused

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """The fused update of a layer, (m, n)."""
        return solve_by_lbfgs(sums, published_iterations(layer))


@dataclass(frozen=True)
class MixOfShowExact(MixOfShow):
    """The same objective, solved exactly with a ridge."""

    name = "mix-of-show-exact"
    pretty_name = "Mix-of-Show, fusion solved exactly"

    ridge: float = RIDGE

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        """See `MixOfShow.solve`."""
        return solve_exactly(sums, self.ridge)
