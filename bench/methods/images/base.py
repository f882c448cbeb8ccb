"""The model as it was, and with nothing but new words: how much of an identity needs no LoRA at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.methods.images.api import RATES, ImageMethod, Workshop
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from bench.personalise.tokens import ED_LORA, PLAIN_WORD, WordStyle


@dataclass(frozen=True)
class TokenOnly(ImageMethod):
    """One embedding a concept, the network untouched: nothing to merge, nothing to forget (textual inversion)."""

    name = "token-only"
    pretty_name = "token only"
    role = "control"
    style: ClassVar[WordStyle] = PLAIN_WORD

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return workshop.words({**RATES, **workshop.rates}["extra_learning_rate"], self.style)

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """No update."""
        return {}


@dataclass(frozen=True)
class TokenOnlyLayerwise(TokenOnly):
    """Two words a concept with an embedding for every cross-attention layer (P+): what ED-LoRA learns without LoRA.

    What a method with such words reaches beyond this control is what its LoRA is worth.
    """

    name = "token-only-layerwise"
    pretty_name = "layer-wise words only"
    style = ED_LORA


@dataclass(frozen=True)
class Base(ImageMethod):
    """No training; the concept's token means its class word."""

    name = "base"
    pretty_name = "untrained base"
    role = "control"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """Concepts without a word of their own: prompts name the class."""
        return [Learnt(name, {}, torch.empty(0), {}, 0.0) for name in workshop.names]

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """No update."""
        return {}
