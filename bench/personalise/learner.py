"""Learn concepts on a pipeline: each is a token and a LoRA, trained by one `ConceptSequence`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.personalise.batches import ConceptBatches
from bench.personalise.denoiser import Batch, Denoiser, diffusion_loss
from bench.personalise.images import ConceptImages
from bench.personalise.tokens import add_token, install, replaced
from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.errors import NonFiniteError
from seqlora.sequence import Step

UNET_ATTENTION = r"unet\..*attn[12]\.(to_q|to_k|to_v|to_out\.0)"
WITH_TEXT_ENCODER = UNET_ATTENTION + r"|text_encoder\..*self_attn\.(q_proj|k_proj|v_proj|out_proj)"
TOKEN = "token"  # name of the embedding among a concept's extra parameters


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


class Learner:
    """A pipeline that learns concepts in sequence.

    Args:
        pipeline: on its device; LoRA layers are put into its modules and tokens are added.
        config: the method; its layer names start with "unet." or "text_encoder.".
        budget: steps and batch size.
        folder: where finished concepts and checkpoints are kept; a second run takes them up.
    """

    def __init__(self, pipeline: Any, config: SeqLoRAConfig, budget: Budget, folder: str | Path | None = None) -> None:
        self.pipeline, self.budget = pipeline, budget
        self.denoiser = Denoiser(pipeline, budget.bfloat16)
        self.sequence = ConceptSequence(self.denoiser, config, folder)
        if budget.checkpointing:
            pipeline.unet.enable_gradient_checkpointing()
            pipeline.unet.train()

    def batches(self, concept: ConceptImages, seed: np.random.SeedSequence) -> ConceptBatches:
        """The training batches of a concept; adds its token first."""
        add_token(self.pipeline.tokenizer, self.pipeline.text_encoder, concept.token, concept.class_word)
        return ConceptBatches(self.pipeline, concept, self.budget.steps, self.budget.batch, seed)

    def learn(self, concept: ConceptImages, seed: np.random.SeedSequence) -> Iterator[Step]:
        """Learn one concept; iterate to run it. Afterwards its embedding stands in the text encoder."""
        batches = self.batches(concept, seed)
        number, vector = token_parameter(self.pipeline, concept)
        with replaced(self.pipeline.text_encoder, {number: vector}):
            yield from self.sequence.learn(concept.name, batches, diffusion_loss, extra={TOKEN: vector})
        install(self.pipeline.text_encoder, {number: vector.detach()})


def token_parameter(pipeline: Any, concept: ConceptImages) -> tuple[int, nn.Parameter]:
    """Id of the concept's token, and its embedding as a parameter to train."""
    number = add_token(pipeline.tokenizer, pipeline.text_encoder, concept.token, concept.class_word)
    weight = pipeline.text_encoder.get_input_embeddings().weight
    return number, nn.Parameter(weight[number].detach().float().clone())


def learn_token(
    pipeline: Any, concept: ConceptImages, budget: Budget, rate: float, seed: np.random.SeedSequence
) -> torch.Tensor:
    """Train the embedding alone, the network as it is (textual inversion); returns the vector and installs it.

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    denoiser = Denoiser(pipeline, budget.bfloat16).requires_grad_(False)
    number, vector = token_parameter(pipeline, concept)
    optimizer = torch.optim.AdamW([vector], lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    with replaced(pipeline.text_encoder, {number: vector}):
        for step, batch in enumerate(ConceptBatches(pipeline, concept, budget.steps, budget.batch, seed)):
            loss = diffusion_loss(denoiser, batch)
            if not bool(torch.isfinite(loss)):
                raise NonFiniteError(f"concept {concept.name!r}: the loss is not finite at step {step}; lower the rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    install(pipeline.text_encoder, {number: vector.detach()})
    return vector.detach()


__all__ = ["Batch", "Budget", "Learner", "learn_token", "token_parameter"]
