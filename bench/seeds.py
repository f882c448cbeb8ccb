"""Where randomness comes from: addressable streams keyed by everything but the method.

All methods see the same concepts, noise and prompts, so every comparison is paired; a cell can be run alone, on any
shard, in any order, and draws the same numbers; evaluation never sees the noise of training.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Stream = Literal["data", "initialisation", "training", "evaluation"]
STREAMS: tuple[str, ...] = get_args(Stream)


@dataclass(frozen=True)
class Seeds:
    """The random streams of a cell. Asking twice for a stream gives two generators in the same state."""

    key: tuple[int, ...]

    @classmethod
    def of(cls, task: str, n_concepts: int, order: int, seed: int) -> Seeds:
        """Streams of the cells with these axes, whatever their method."""
        return cls(_words(task, n_concepts, order, seed))

    def sequence(self, stream: Stream, *index: int) -> np.random.SeedSequence:
        """Seed sequence of a stream, or of its part `index` (a concept, a layer, a prompt)."""
        return np.random.SeedSequence(entropy=self.key, spawn_key=(STREAMS.index(stream), *index))

    def rng(self, stream: Stream, *index: int) -> np.random.Generator:
        """A fresh NumPy generator of the stream."""
        return np.random.default_rng(self.sequence(stream, *index))

    def torch(self, stream: Stream, *index: int) -> torch.Generator:
        """A fresh torch generator on the CPU (draw there and move: the noise is then the same on every device)."""
        import torch

        state = self.sequence(stream, *index).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(state) >> 1)


def part(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """Part `number` of a stream; unlike `seed.spawn` it is the same each time."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))


def concept_order(task: str, available: int, n_concepts: int, order: int) -> NDArray[np.int64]:
    """Which of `available` concepts are learnt, and in which order: the first of the task's own, or of a random order.

    The order does not depend on the seed, so that both can be varied apart.
    """
    if order == 0:
        return np.arange(n_concepts)
    rng = np.random.default_rng(np.random.SeedSequence(entropy=_words("order", task, order)))
    return rng.permutation(available)[:n_concepts]


def _words(*axes: str | int) -> tuple[int, ...]:
    """Eight 32-bit words of the SHA-256 of the axes (never `hash`: it differs between sessions)."""
    digest = hashlib.sha256(json.dumps(axes, separators=(",", ":")).encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4))
