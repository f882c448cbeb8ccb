"""What the forgetting penalty knows of the past: second moments of every layer's inputs, and what they weigh.

    penalty = gamma T times      output scale:     mean over layers of tr(M S M^T) / tr(W0 S W0^T)
                                 gradient scale:   sum over layers of s tr(M S M^T) / sum of s tr(W0 S W0^T)
                                 Kronecker scale:  sum over layers of tr(G M S M^T) / sum of tr(G W0 S W0^T)

with M = B A the new update, S the mean of the T remembered moments, G that of the outer products of the remembered
losses' gradients at a layer's outputs, and s = tr G / m how much they react to it. No image and no activation of the
past is kept.

The last is K-FAC (Martens & Grosse 2015), as Ritter, Botev & Barber (2018) use it against forgetting. A sum of
Kronecker products is none itself; (sum of s_j S_j) x (sum of G_j / sum of s_j) stands for it, which has its trace, and
is exact for one concept and wherever all S_j, or all G_j / s_j, are the same.
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

    On the Kronecker scale O(m^2) more.

    Attributes:
        factors: layer name -> F with F^T F = sum of the remembered moments, (l, n); times s on the gradient and the
            Kronecker scale.
        output_moments: layer name -> sum of the remembered G, (m, m), on the Kronecker scale; else empty.
        count: number of remembered moments.
        names: of those that were given one.
    """

    factors: dict[str, Tensor]
    count: int = 0
    names: list[str] = field(default_factory=list)
    output_moments: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, widths: Mapping[str, int]) -> Past:
        """Nothing to protect yet, for layers with these input widths."""
        return cls({name: torch.zeros(0, width, dtype=torch.float64) for name, width in widths.items()})

    def add(
        self,
        moments: Mapping[str, Moment],
        sensitivities: Mapping[str, float],
        config: SeqLoRAConfig,
        name: str = "",
        output_moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Remember one more set of moments, layer by layer scaled by its sensitivity s."""
        for layer, known in self.factors.items():
            width = known.shape[1]
            size = width if config.moments == "exact" else min(config.sketch_size, width)
            self.factors[layer] = merge_factors(known, sensitivities[layer] ** 0.5 * moments[layer].factor(), size)
        for layer, G in (output_moments or {}).items():
            self.output_moments[layer] = self.output_moments[layer] + G if layer in self.output_moments else G
        self.count += 1
        if name:
            self.names.append(name)

    def output_metrics(self) -> dict[str, Tensor]:
        """H = m G / tr G of each layer, (m, m), what its outputs are weighed by on the Kronecker scale; else empty."""
        metrics = {}
        for name, G in self.output_moments.items():
            mean = G.diagonal().mean()
            # no loss reacts to this layer: F is zero, and H does not matter
            metrics[name] = G / mean if mean > 0 else torch.eye(len(G)).to(G)
        return metrics

    def penalty_weights(self, base: Mapping[str, Tensor], config: SeqLoRAConfig) -> dict[str, float]:
        """Weight w of tr(H B A S_past A^T B^T) / 2 in each layer, S_past = F^T F.

        Args:
            base: layer name -> W0, (m, n).
            config: gamma and the scale.
        """
        gamma, tiny = config.forgetting_weight, torch.finfo(torch.float64).tiny
        if config.forgetting_scale == "none":
            return dict.fromkeys(base, gamma)
        energies, metrics = {}, self.output_metrics()
        for name, W0 in base.items():
            outputs = W0.to(self.factors[name]) @ self.factors[name].mT
            weighed = metrics[name] @ outputs if metrics else outputs
            energies[name] = float((weighed * outputs).sum())
        if config.forgetting_scale in ("gradient", "kronecker"):
            return dict.fromkeys(base, 2 * gamma * self.count / max(sum(energies.values()), tiny))
        layers = len(energies)
        return {name: 2 * gamma * self.count / (layers * max(energy, tiny)) for name, energy in energies.items()}
