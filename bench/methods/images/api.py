"""What a method of the image family is: how concepts are trained, and how the trained ones become one model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Unpack

from torch import Tensor

from bench.api import Role, Scalar
from bench.personalise.shared import Learnt, TrainingOptions
from bench.personalise.studio import Studio, Update
from bench.personalise.tokens import PLAIN_WORD, WordStyle
from bench.registry import Registry
from seqlora import SeqLoRAConfig


class Workshop(Protocol):
    """What the task offers to methods."""

    @property
    def rank(self) -> int:
        """Directions of each concept in each layer."""

    @property
    def layers(self) -> str:
        """Regular expression of the UNet's layers that are adapted, the same for all methods."""

    @property
    def seed(self) -> int:
        """Seed of random bases, the same for all methods."""

    @property
    def rates(self) -> Mapping[str, Any]:
        """What the task sets in place of some of `RATES`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts of the cell, in order."""

    @property
    def studio(self) -> Studio:
        """The plain pipeline."""

    def trained(self, config: SeqLoRAConfig, **options: Unpack[TrainingOptions]) -> list[Learnt]:
        """All concepts of the cell as `config` learns them, see `Training.run`; methods share trainings."""

    def words(self, rate: float, style: WordStyle = PLAIN_WORD) -> list[Learnt]:
        """All concepts as embeddings alone."""

    def know(self, learnt: Learnt) -> str:
        """Teach the studio's text encoder the concept's token; returns token and class word."""


@dataclass(frozen=True)
class ImageMethod(ABC):
    """A method of the family "images". Its dataclass fields are its settings.

    Attributes:
        in_sequence: whether a concept is trained on top of the earlier ones; there is then no single-concept model.
    """

    name: ClassVar[str]
    pretty_name: ClassVar[str]
    role: ClassVar[Role] = "method"
    in_sequence: ClassVar[bool] = False

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """Name and value of everything that could be set otherwise."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @abstractmethod
    def train(self, workshop: Workshop) -> list[Learnt]:
        """The trained concepts, in order."""

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """The update of the whole model for these concepts: by default the plain sum `Σ_i B_i A_i`."""
        return weighted_sum(learnt, [1.0] * len(learnt))

    def stages(self, learnt: Sequence[Learnt], workshop: Workshop) -> Iterator[Update]:
        """The update after one concept, after two, ..."""
        for t in range(len(learnt)):
            yield self.merge(learnt[: t + 1], workshop)


METHODS: Registry[ImageMethod] = Registry("image method")

# The same for every method, chosen where plain LoRA of a single concept is best: six tuning identities, 150 steps, one
# seed. Rates of B and of the words, identity with a plain word (with ED-LoRA's words): 2e-3 and 2e-2 .57 (.67),
# 2e-3 and 5e-2 .58 (.69), 2e-3 and 1e-1 .61, 4e-3 and 5e-2 .64 (.72), 6e-3 and 5e-2 .63.
# That of learned bases is by how many radians a step turns them; a step of plain LoRA turns A by about
# 4e-3 sqrt(n) / (1 / sqrt(3)) = .08. SeqLoRA of a single concept with ED-LoRA's words, without a past, on four tuning
# identities, transformer layers, 240 (60) steps of 4 images, one seed: 5e-2 .67 (.44), 1e-1 .73 (.48), 2e-1 .70, and
# ED-LoRA itself .71 (.45). Before, with one plain word: K = 0 and 1e-2 .60, K = 0 and 5e-2 .70, K = 1 and 1e-2 .66.
RATES: Mapping[str, Any] = {
    "coefficient_learning_rate": 4e-3,
    "basis_learning_rate": 1e-1,
    "extra_learning_rate": 5e-2,
    "schedule": "cosine",
    "start_batches": 8,
}


def config(workshop: Workshop, **changes: Any) -> SeqLoRAConfig:
    """A configuration with the budget and the rates that all methods of the task share, and what the method changes."""
    given = {"rank": workshop.rank, "seed": workshop.seed, "target_modules": workshop.layers}
    return SeqLoRAConfig(**{**RATES, **workshop.rates, **given, **changes})


def weighted_sum(learnt: Sequence[Learnt], weights: Sequence[float]) -> dict[str, Tensor]:
    """`Σ_i w_i B_i A_i` of every layer."""
    total: dict[str, Tensor] = {}
    for concept, weight in zip(learnt, weights, strict=True):
        for layer, (A, B) in concept.factors.items():
            share = weight * (B.flatten(1) @ A.flatten(1))
            total[layer] = total[layer] + share if layer in total else share
    return total
