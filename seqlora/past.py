"""What the forgetting penalty knows of the past: second moments of every layer's inputs, and what they weigh.

    penalty = gamma T times         output scale:    mean over layers of tr(M S M^T) / tr(W0 S W0^T)
                                    gradient scale:  sum over layers of s tr(M S M^T) / sum of s tr(W0 S W0^T)

with M = B A the new update, S the mean of the T remembered moments and s how much the remembered losses react to a
layer's output. No image and no activation of the past is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqlora.config import SeqLoRAConfig
from seqlora.moments import Moment, merge_factors


@dataclass
class Past:
    """Accumulated second moments; memory O(n^2) a layer (O(l n) sketched), whatever the number of concepts.

    Attributes:
        factors: layer name -> F with F^T F = sum of the remembered moments (times s on the gradient scale), (l, n).
        count: number of remembered moments.
        names: of those that were given one.
    """

    factors: dict[str, Tensor]
    count: int = 0
    names: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, widths: Mapping[str, int]) -> Past:
        """Nothing to protect yet, for layers with these input widths."""
        return cls({name: torch.zeros(0, width, dtype=torch.float64) for name, width in widths.items()})

    def add(
        self, moments: Mapping[str, Moment], sensitivities: Mapping[str, float], config: SeqLoRAConfig, name: str = ""
    ) -> None:
        """Remember one more set of moments, layer by layer scaled by its sensitivity s."""
        for layer, known in self.factors.items():
            width = known.shape[1]
            size = width if config.moments == "exact" else min(config.sketch_size, width)
            self.factors[layer] = merge_factors(known, sensitivities[layer] ** 0.5 * moments[layer].factor(), size)
        self.count += 1
        if name:
            self.names.append(name)

    def penalty_weights(self, base: Mapping[str, Tensor], config: SeqLoRAConfig) -> dict[str, float]:
        """Weight w of tr(B A S_past A^T B^T) / 2 in each layer, S_past = F^T F.

        Args:
            base: layer name -> W0, (m, n).
            config: gamma and the scale.
        """
        gamma, tiny = config.forgetting_weight, torch.finfo(torch.float64).tiny
        if config.forgetting_scale == "none":
            return dict.fromkeys(base, gamma)
        energies = {
            name: float((W0.to(self.factors[name]) @ self.factors[name].mT).square().sum()) for name, W0 in base.items()
        }
        if config.forgetting_scale == "gradient":
            return dict.fromkeys(base, 2 * gamma * self.count / max(sum(energies.values()), tiny))
        layers = len(energies)
        return {name: 2 * gamma * self.count / (layers * max(energy, tiny)) for name, energy in energies.items()}
