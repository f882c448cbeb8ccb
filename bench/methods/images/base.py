"""The model as it was, and with nothing but new words: how much of an identity needs no LoRA at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.methods.images.api import RATES, ImageMethod, Workshop
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update


@dataclass(frozen=True)
class TokenOnly(ImageMethod):
    """One embedding a concept, the network untouched: nothing to merge, nothing to forget (textual inversion)."""

    name = "token-only"
    pretty_name = "token only"
    role = "control"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        return workshop.tokens(RATES["extra_learning_rate"])

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """No update."""
        return {}


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
