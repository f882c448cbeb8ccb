"""Concepts learnt on top of one another: SeqLoRA, what is left of it without its parts, and naive alternation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.methods.images.api import ImageMethod, Workshop, config
from bench.personalise.shared import Learnt
from bench.personalise.tokens import ED_LORA, PLAIN_WORD, WordStyle


@dataclass(frozen=True)
class SeqLoRA(ImageMethod):
    """Learned bases, each orthogonal to all earlier ones; A by Riemannian steps, B by ordinary ones.

    With K `inner_steps`, A rests while B takes K steps; with 0, both move in every step (see `RATES` for the choice).
    `basis_rate` is by how many radians a step turns A, 0 for the task's rate.
    """

    name = "seqlora"
    pretty_name = "SeqLoRA"
    in_sequence = True
    orthogonal: ClassVar[bool] = True
    words: ClassVar[WordStyle] = PLAIN_WORD

    inner_steps: int = 0
    start: str = "moments"
    basis_rate: float = 0.0

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return workshop.trained(
            config(
                workshop,
                orthogonal=self.orthogonal,
                inner_steps=self.inner_steps,
                start=self.start,
                forgetting_weight=self.forgetting_weight,
                forgetting_scale=self.forgetting_scale,
                **({"basis_learning_rate": self.basis_rate} if self.basis_rate else {}),
            ),
            style=self.words,
            generic=self.protects_base,
            replay=self.replayed,
        )

    @property
    def forgetting_weight(self) -> float:
        """Weight γ of the forgetting penalty."""
        return 0.0

    @property
    def forgetting_scale(self) -> str:
        """What layers are weighed by, see `SeqLoRAConfig`."""
        return "output"

    @property
    def protects_base(self) -> bool:
        """Whether what the base model draws from generic prompts is the first thing remembered."""
        return False

    @property
    def replayed(self) -> float:
        """Factor λ of `bench.personalise.replay`."""
        return 0.0


@dataclass(frozen=True)
class SeqLoRAPenalty(SeqLoRA):
    """With the forgetting penalty from stored second moments, layers weighed by how much past losses react to them.

    The base model is remembered first, so that the first concept, too, is learnt under the penalty.
    γ comes from four tuning identities, 240 steps of 4 images, one seed: final identity and forgetting were, on
    attention layers with γ = 3, .65 and .02; on transformer layers with γ = 10, .71 and .04, and .73 and .00 where a
    concept is remembered by 24 batches in place of 8 (with slower bases and γ = 3 they had been .55 and .09).
    """

    name = "seqlora-penalty"
    pretty_name = "SeqLoRA with forgetting penalty"

    gamma: float = 10.0
    scale: str = "gradient"
    base: bool = True

    @property
    def forgetting_weight(self) -> float:
        """See `SeqLoRA.forgetting_weight`."""
        return self.gamma

    @property
    def forgetting_scale(self) -> str:
        """See `SeqLoRA.forgetting_scale`."""
        return self.scale

    @property
    def protects_base(self) -> bool:
        """See `SeqLoRA.protects_base`."""
        return self.base


@dataclass(frozen=True)
class SeqLoRAPenaltyLayerwise(SeqLoRAPenalty):
    """The same with ED-LoRA's words: two a concept, with an embedding for every cross-attention layer.

    Embeddings belong to one concept alone, so that what they learn is never forgotten. On four tuning identities (240
    steps of 4 images, transformer layers, one seed, remembered by 24 batches) final identity was .74 and nothing was
    forgotten; with bases at half the rate .70.
    """

    name = "seqlora-penalty-layerwise"
    pretty_name = "SeqLoRA with forgetting penalty, layer-wise words"
    words = ED_LORA


@dataclass(frozen=True)
class SeqLoRAPenaltyKronecker(SeqLoRAPenaltyLayerwise):
    """The same with every direction of a layer's outputs weighed by how much past losses react to it (K-FAC).

    On eight tuning identities (240 steps of 4 images, convolutions included, guidance 2, one seed, 8 images each) final
    identity and forgetting were .74 and .01 with γ = 11, .73 and .04 with γ = 3; layers weighed as wholes gave .74 and
    .03 with γ = 10, .74 and .02 with γ = 30. On eight others .74 and .03, as wholes .70 and .04, both with γ = 10.
    """

    name = "seqlora-penalty-kronecker"
    pretty_name = "SeqLoRA with forgetting penalty on directions of outputs, layer-wise words"

    scale: str = "kronecker"


@dataclass(frozen=True)
class SeqLoRAReplay(SeqLoRAPenaltyKronecker):
    """The same, and what the network says of earlier concepts, drawn by itself, is held while it learns another.

    Two images more a step than any other method sees. On eight tuning identities (240 steps of 4 images, convolutions
    included, guidance 2, one seed, 8 images each) final identity and forgetting were .72 and .02 with λ = 1, .71 and
    -.01 with λ = 5, and without replay, with γ = 10, .73 and .01; with the same people and noise levels in quarters
    .72 and .01 with λ = 5, and .62 and .15 without.
    """

    name = "seqlora-replay"
    pretty_name = "SeqLoRA with forgetting penalty and generative replay, layer-wise words"

    gamma: float = 3.0
    replay: float = 1.0

    @property
    def replayed(self) -> float:
        """See `SeqLoRA.replayed`."""
        return self.replay


@dataclass(frozen=True)
class PenaltyOnly(SeqLoRAPenalty):
    """The penalty without orthogonality: an ablation."""

    name = "penalty-only"
    pretty_name = "forgetting penalty, no orthogonality"
    orthogonal = False


@dataclass(frozen=True)
class Alternating(ImageMethod):
    """Plain LoRA in sequence, A and B in turns, no constraint and no penalty."""

    name = "alternating"
    pretty_name = "continual alternating A and B"
    in_sequence = True

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return workshop.trained(config(workshop, basis="free", orthogonal=False, start="random", inner_steps=1))
