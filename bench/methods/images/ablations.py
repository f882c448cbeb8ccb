"""What each part of the forgetting penalty is worth (claim C10): one part changed, all else as in `seqlora-penalty`.

The weight γ is an option of all of them (`seqlora-penalty:gamma=0.2`), the variant without orthogonality is
`penalty-only`, and without penalty `seqlora`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Unpack

from bench.methods.images.api import Workshop
from bench.methods.images.sequential import SeqLoRAPenalty
from bench.personalise.shared import Learnt, TrainingOptions
from seqlora import SeqLoRAConfig


class Altered:
    """A workshop that trains with some choices replaced; everything else is the workshop's own.

    Args:
        workshop: the one that is asked.
        changes: fields of `SeqLoRAConfig`.
    """

    def __init__(self, workshop: Workshop, changes: Mapping[str, Any]) -> None:
        self._workshop, self._changes = workshop, changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workshop, name)

    def trained(self, config: SeqLoRAConfig, **options: Unpack[TrainingOptions]) -> list[Learnt]:
        """See `Workshop.trained`."""
        return self._workshop.trained(replace(config, **self._changes), **options)


@dataclass(frozen=True)
class _Variant(SeqLoRAPenalty):
    role = "control"

    def changes(self) -> Mapping[str, Any]:
        """Fields of the configuration that this variant replaces."""
        return {}

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        altered: Any = Altered(workshop, self.changes())
        return super().train(altered)


@dataclass(frozen=True)
class PenaltyUniform(_Variant):
    """One weight for all layers and no relation to their energies or to the losses.

    γ then multiplies raw energies: its default is the geometric mean of the weights that γ = 1 on the output scale
    gives the layers of the embedded world, rounded to a power of ten.
    """

    name = "penalty-uniform"
    pretty_name = "forgetting penalty, one weight for all layers"

    gamma: float = 1e-4

    def changes(self) -> Mapping[str, Any]:
        """See `_Variant.changes`."""
        return {"forgetting_scale": "none"}


@dataclass(frozen=True)
class PenaltySketch(_Variant):
    """Frequent-directions sketches of the past moments: memory l n in place of n² a layer."""

    name = "penalty-sketch"
    pretty_name = "forgetting penalty, sketched moments"

    sketch_size: int = 32

    def changes(self) -> Mapping[str, Any]:
        """See `_Variant.changes`."""
        return {"moments": "sketch", "sketch_size": self.sketch_size}


@dataclass(frozen=True)
class PenaltyWithoutBase(SeqLoRAPenalty):
    """Only concepts are remembered: nothing protects the base model, and the first concept meets no penalty."""

    name = "penalty-without-base"
    pretty_name = "forgetting penalty, base model not protected"
    role = "control"

    base: bool = False


@dataclass(frozen=True)
class PenaltyOutputScale(SeqLoRAPenalty):
    """Layers count by their own output energy, and only concepts are remembered: the penalty of the prototype."""

    name = "penalty-output-scale"
    pretty_name = "forgetting penalty, relative to each layer's output energy"
    role = "control"

    gamma: float = 1.0
    scale: str = "output"
    base: bool = False


ABLATIONS = (PenaltyUniform(), PenaltySketch(), PenaltyWithoutBase(), PenaltyOutputScale())
GAMMAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of the adaptation-forgetting curve."""
CURVE = tuple(f"{SeqLoRAPenalty.name}:gamma={gamma}" for gamma in GAMMAS if gamma != SeqLoRAPenalty().gamma)
