"""Plain LoRA: every concept trained alone on the base model, A and B free; then summed, averaged or rescaled.

The average and the norm-matched sum are controls: a method that merely makes the merged update smaller gains as much
as they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.methods.images.api import ImageMethod, Workshop, config, weighted_sum
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update


@dataclass(frozen=True)
class PlainSum(ImageMethod):
    """`W0 + Σ_i ΔW_i`."""

    name = "plain-sum"
    pretty_name = "plain LoRA, sum"

    def train(self, workshop: Workshop) -> list[Learnt]:
        """See `ImageMethod.train`."""
        free = config(workshop, basis="free", orthogonal=False, start="random", inner_steps=0, train_on="base")
        return workshop.trained(free)


@dataclass(frozen=True)
class PlainAverage(PlainSum):
    """`W0 + Σ_i ΔW_i / t`."""

    name = "plain-average"
    pretty_name = "plain LoRA, 1/T average"
    role = "control"

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """See `ImageMethod.merge`."""
        return weighted_sum(learnt, [1 / len(learnt)] * len(learnt))


@dataclass(frozen=True)
class PlainNormMatched(PlainSum):
    """The sum rescaled, layer by layer, to the mean Frobenius norm of the concepts' own updates."""

    name = "plain-norm-matched"
    pretty_name = "plain LoRA, norm-matched sum"
    role = "control"

    def merge(self, learnt: Sequence[Learnt], workshop: Workshop) -> Update:
        """See `ImageMethod.merge`."""
        total = weighted_sum(learnt, [1.0] * len(learnt))
        own = [weighted_sum([concept], [1.0]) for concept in learnt]
        scaled = {}
        for layer, update in total.items():
            common = sum(float(single[layer].norm()) for single in own) / len(own)
            scaled[layer] = update * (common / max(float(update.norm()), 1e-30))
        return scaled
