"""Learn concepts on a pipeline: each is one or two new words and a LoRA, trained by one `ConceptSequence`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.personalise.batches import ConceptBatches
from bench.personalise.denoiser import Batch, Denoiser, diffusion_loss
from bench.personalise.images import ConceptImages
from bench.personalise.layerwise import cross_attention_layers, layerwise
from bench.personalise.pool import BASES, Bases
from bench.personalise.replay import ReplayedBatches, note, speaking_of_all
from bench.personalise.tokens import (
    PLAIN_WORD,
    WordStyle,
    add_words,
    first_embeddings,
    install,
    replaced,
    subject_of,
)
from bench.seeds import part
from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.errors import NonFiniteError
from seqlora.sequence import Step

UNET_ATTENTION = r"unet\..*attn[12]\.(to_q|to_k|to_v|to_out\.0)"
UNET_FEED_FORWARD = r"unet\..*ff\.net\.(0\.proj|2)"
TEXT_ENCODER = r"text_encoder\..*self_attn\.(q_proj|k_proj|v_proj|out_proj)"
LAYERS = ("attention", "transformer", "convolution")
"""Which layers of a UNet may be adapted, each more than the one before it, see `layers_of`."""
TOKEN = "token"  # name of the embeddings among a concept's extra parameters


@dataclass(frozen=True)
class Budget:
    """What every method gets, and may not exceed.

    Attributes:
        steps: optimiser steps a concept.
        batch: images a step.
        bfloat16: compute in mixed precision.
        checkpointing: trade time for memory in the UNet's backward pass.
    """

    steps: int = 250
    batch: int = 8
    bfloat16: bool = False
    checkpointing: bool = False


def layers_of(which: str, unet: Any) -> str:
    """Regular expression of the layers of a UNet that one of `LAYERS` adapts.

    "attention" is what the papers adapt; "transformer" all linear layers of the transformers; "convolution" the last
    convolution of each residual block of the two finest levels as well, the finest of which may have no transformer.
    The innermost level is left out: its inputs are the widest (nine times its channels) and what it draws the coarsest.

    Args:
        which: one of `LAYERS`.
        unet: a `UNet2DConditionModel`.
    """
    levels = len(unet.config.block_out_channels)
    outer = range(min(2, levels - 1))  # counted from the finest: down block i, and up block levels - 1 - i
    blocks = "|".join(rf"down_blocks\.{i}|up_blocks\.{levels - 1 - i}" for i in outer)
    parts = [UNET_ATTENTION, UNET_FEED_FORWARD, rf"unet\.({blocks})\.resnets\.\d+\.conv2"]
    return "|".join(parts[: 1 + LAYERS.index(which)])


class Learner:
    """A pipeline that learns concepts in sequence.

    Args:
        pipeline: on its device; LoRA layers are put into its modules and tokens are added.
        config: the method; its layer names start with "unet." or "text_encoder.".
        budget: steps and batch size.
        folder: where finished concepts and checkpoints are kept; a second run takes them up.
        style: how concepts are written.
        bases: where frozen bases come from, see `PooledSequence`; "own": as `config` says.
        replay: λ of `bench.personalise.replay`; 0: nothing is replayed.
    """

    def __init__(
        self,
        pipeline: Any,
        config: SeqLoRAConfig,
        budget: Budget,
        folder: str | Path | None = None,
        style: WordStyle = PLAIN_WORD,
        bases: Bases = "own",
        replay: float = 0.0,
    ) -> None:
        self.pipeline, self.budget, self.style, self.replay = pipeline, budget, style, replay
        self.denoiser = Denoiser(pipeline, budget.bfloat16)
        kind = ConceptSequence if bases == "own" else BASES[bases]
        self.sequence = kind(self.denoiser, config, folder)
        self.words: dict[str, tuple[tuple[int, ...], Tensor]] = {}  # concept -> ids and embeddings of its words
        if budget.checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
            pipeline.unet.train()

    def batches(self, concept: ConceptImages, seed: np.random.SeedSequence) -> ConceptBatches:
        """The training batches of a concept; adds its words first."""
        add_words(self.pipeline.tokenizer, self.pipeline.text_encoder, concept.token, concept.class_word, self.style)
        subject = subject_of(concept.token, concept.class_word, self.style)
        return ConceptBatches(self.pipeline, concept, self.budget.steps, self.budget.batch, seed, subject)

    def learn(self, concept: ConceptImages, seed: np.random.SeedSequence) -> Iterator[Step]:
        """Learn one concept; iterate to run it. Afterwards its plain word stands in the text encoder."""
        own = self.batches(concept, seed)
        replayed = self.replay and concept.name not in self.sequence.concepts
        batches = self._with_replay(own, concept, seed) if replayed else own
        numbers, vectors = word_parameter(self.pipeline, concept, self.style, seed)
        with spoken(self.pipeline, numbers, vectors):
            yield from self.sequence.learn(concept.name, batches, diffusion_loss, extra={TOKEN: vectors})
        self.words[concept.name] = (numbers, vectors.detach())
        if vectors.ndim == 1:
            install(self.pipeline.text_encoder, {numbers[0]: vectors.detach()})

    def _with_replay(
        self, batches: ConceptBatches, concept: ConceptImages, seed: np.random.SeedSequence
    ) -> ReplayedBatches:
        """The concept's batches, with what the network says now of all earlier concepts and of the class word."""
        drawing, choice = part(seed, 2), part(seed, 3)
        earlier = [subject_of(f"<{name}>", concept.class_word, self.style) for name in self.words]
        noted = note(
            self.denoiser,
            self.pipeline,
            speaking_of_all(self.pipeline, list(self.words.values()), self.style),
            [f"a {concept.class_word}", *earlier],
            sorted({text for texts in concept.templates for text in texts}),
            self.budget.batch,
            self.replay,
            drawing,
        )
        return ReplayedBatches(batches, noted, self.sequence.config.start_batches, choice)

    def speaking_of(self, concept: ConceptImages) -> AbstractContextManager[None]:
        """While open, the pipeline knows the words of a concept that was learnt."""
        return spoken(self.pipeline, *self.words[concept.name])


def word_parameter(
    pipeline: Any, concept: ConceptImages, style: WordStyle, seed: np.random.SeedSequence
) -> tuple[tuple[int, ...], nn.Parameter]:
    """Ids of the concept's words, and their embeddings as a parameter to train."""
    numbers = add_words(pipeline.tokenizer, pipeline.text_encoder, concept.token, concept.class_word, style)
    layers = len(cross_attention_layers(pipeline.unet))
    # a stream beside that of the batches, which is drawn from `seed` itself
    rng = np.random.default_rng(part(seed, 0))
    return numbers, nn.Parameter(first_embeddings(pipeline.text_encoder, numbers, style, layers, rng))


def spoken(pipeline: Any, numbers: tuple[int, ...], vectors: Tensor) -> AbstractContextManager[None]:
    """While open, the words with these ids have these embeddings: (d,) for one plain word, or (words, layers, d)."""
    if vectors.ndim == 1:
        return replaced(pipeline.text_encoder, {numbers[0]: vectors})
    return layerwise(pipeline, numbers, vectors)


def learn_words(
    pipeline: Any,
    concept: ConceptImages,
    budget: Budget,
    rate: float,
    seed: np.random.SeedSequence,
    style: WordStyle = PLAIN_WORD,
) -> Tensor:
    """Train a concept's embeddings alone, the network as it is (textual inversion); a plain word is installed.

    Returns:
        (d,) for a plain word, else (words, layers, d).

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    denoiser = Denoiser(pipeline, budget.bfloat16).requires_grad_(False)
    numbers, vectors = word_parameter(pipeline, concept, style, seed)
    optimizer = torch.optim.AdamW([vectors], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    subject = subject_of(concept.token, concept.class_word, style)
    with spoken(pipeline, numbers, vectors):
        for step, batch in enumerate(ConceptBatches(pipeline, concept, budget.steps, budget.batch, seed, subject)):
            loss = diffusion_loss(denoiser, batch)
            if not bool(torch.isfinite(loss)):
                raise NonFiniteError(f"concept {concept.name!r}: the loss is not finite at step {step}; lower the rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if style == PLAIN_WORD:
        install(pipeline.text_encoder, {numbers[0]: vectors.detach()})
    return vectors.detach()


__all__ = ["Batch", "Budget", "Learner", "learn_words", "spoken", "word_parameter"]
