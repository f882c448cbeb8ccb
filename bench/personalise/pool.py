"""Frozen bases from one shared orthonormal pool, as Orthogonal Adaptation assigns them (Po et al. 2024).

For every input width n there is one orthogonal matrix O (n, n) that all concepts know. A concept's basis is r rows of
O, chosen anew in every layer. Where the rows for all concepts fit, T r <= n, they are dealt out without repetition,
and bases are exactly orthogonal; past that every concept draws its own r rows at random, so that two concepts share

    E ‖A_i A_jᵀ‖_F² = r² / n    directions.

If each concept draws with the same seed, as the published training script does unless told otherwise, all of them get
the same rows, and ‖A_i A_jᵀ‖_F² = r: the worst case.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from seqlora import ConceptSequence
from seqlora.subspace import retract_qr

Bases = Literal["own", "pool", "same"]


@lru_cache(maxsize=16)
def pool(n: int, seed: int) -> NDArray[np.float64]:
    """The orthogonal matrix that all concepts share, (n, n), Haar-distributed."""
    return retract_qr(np.random.default_rng([seed, n]).standard_normal((n, n)))


def chosen_rows(n: int, rank: int, concept: int, concepts: int, seed: int, layer: str) -> NDArray[np.int64]:
    """Which rows of the pool are the basis of concept number `concept` in a layer, (rank,)."""
    if concepts * rank <= n:
        order = np.random.default_rng([seed, *layer.encode()]).permutation(n)
        return order[concept * rank : (concept + 1) * rank]
    return np.random.default_rng([seed, concept, *layer.encode()]).choice(n, rank, replace=False)


class PooledSequence(ConceptSequence):
    """A sequence of frozen bases out of the pool; `config.planned_concepts` says how many concepts share it."""

    def _begin(self, name: str, *args: Any) -> Any:
        optimizer = super()._begin(name, *args)
        concept, planned = self._turn(), self.config.planned_concepts or 1
        for group in self.groups:
            rank, n = group.A.shape[-2:]
            O = pool(n, self.config.seed)
            rows = [O[chosen_rows(n, rank, concept, planned, self.config.seed, layer)] for layer in group.names]
            with torch.no_grad():
                group.A.copy_(torch.from_numpy(np.stack(rows)))
        return optimizer

    def _turn(self) -> int:
        """Number of the concept that draws."""
        return len(self.concepts)


class SameSeedSequence(PooledSequence):
    """Every concept draws as if it were the first: all have one basis."""

    def _turn(self) -> int:
        return 0


BASES: dict[str, type[ConceptSequence]] = {"pool": PooledSequence, "same": SameSeedSequence}
