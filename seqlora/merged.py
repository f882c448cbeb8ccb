"""A model whose weights are the base plus a plain sum over finished concepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seqlora.adapters import AdaptedLayer, diffusers_prefix, export_lora
from seqlora.errors import BadInputError
from seqlora.storage import Concept


class MergedModel:
    """W0 + sum_i B_i A_i in every adapted layer, rebuilt exactly from the factors whenever asked.

    The sum over all concepts is kept as a running delta, so that memory and time do not grow with their number.

    Attributes:
        model: the model, its weights as `activate` last left them.
        layers: its adapted layers.
        concepts: finished concepts in the order of learning; their factors lie in main memory.
        base: layer name -> W0, shape (m, n).
    """

    def __init__(self, model: nn.Module, layers: list[AdaptedLayer]) -> None:
        self.model = model
        self.layers = layers
        self.concepts: dict[str, Concept] = {}
        self.base = {layer.name: layer.weight.clone() for layer in layers}
        # summed in float32 at least: 60 additions in half precision would lose the small updates
        self._delta = {name: torch.zeros_like(W0, dtype=_wide(W0)) for name, W0 in self.base.items()}

    def past_bases(self) -> dict[str, Tensor]:
        """Bases of all finished concepts, stacked: layer name -> (p, n)."""
        stacked = {}
        for name, W in self.base.items():
            bases = [concept.factors[name][0] for concept in self.concepts.values()]
            stacked[name] = torch.cat(bases) if bases else torch.zeros(0, W.shape[1], dtype=_wide(W))
        return stacked

    @torch.no_grad()
    def activate(self, concepts: Iterable[str] | Mapping[str, float] | None = None) -> None:
        """Set the weights to the base plus a sum over concepts: all (default), some, or a weighted sum of some.

        All of them cost one addition a layer, whatever their number; others are summed from their factors.
        """
        weights = (
            dict.fromkeys(concepts, 1.0) if concepts is not None and not isinstance(concepts, Mapping) else concepts
        )
        for name in weights or ():
            if name not in self.concepts:
                raise BadInputError(f"unknown concept {name!r}; learnt so far: {', '.join(self.concepts) or 'none'}")
        for layer in self.layers:
            W0 = self.base[layer.name]
            if weights is None:
                torch.add(W0, self._delta[layer.name], out=layer.weight)
                continue
            total = torch.zeros_like(self._delta[layer.name])
            for name, weight in weights.items():
                A, B = self.concepts[name].factors[layer.name]
                total.addmm_(B.to(total), A.to(total), alpha=weight)
            layer.weight.copy_(W0 + total)

    @torch.no_grad()
    def adopt(self, concept: Concept) -> None:
        """Take up a finished concept whose factors come from elsewhere (a file, another run)."""
        self.concepts[concept.name] = concept
        for name, (A, B) in concept.factors.items():
            delta = self._delta[name]
            delta.addmm_(B.to(delta), A.to(delta))  # running sum of B_i A_i, in the order of learning
        self.activate()

    def _used_output(self, name: str) -> Tensor:
        """Sum of B_i B_i^T over finished concepts, shape (m, m)."""
        B = [concept.factors[name][1].double() for concept in self.concepts.values()]
        m = self.base[name].shape[0]
        return torch.cat(B, 1) @ torch.cat(B, 1).mT if B else torch.zeros(m, m, dtype=torch.float64)

    def export(self, folder: str | Path, concept: str, prefix: str | None = None) -> None:
        """Write one concept as a LoRA that `PeftModel.from_pretrained` and diffusers' `load_lora_weights` read.

        Args:
            folder: created if missing.
            concept: its name.
            prefix: diffusers' component name; default "unet", or none if the model holds components by name.
        """
        if concept not in self.concepts:
            raise BadInputError(f"unknown concept {concept!r}; learnt so far: {', '.join(self.concepts) or 'none'}")
        prefix = diffusers_prefix(self.model) if prefix is None else prefix
        export_lora(folder, self.concepts[concept].factors, self.layers, prefix)


def _wide(weight: Tensor) -> torch.dtype:
    """Precision of factors and sums: that of the weight, float32 at least."""
    return torch.promote_types(weight.dtype, torch.float32)
