"""Generative replay: what the network says of earlier concepts is held while it learns another.

    loss + λ · mean of w (f - f_before)²     on x_t = a_t x_0 + s_t ε, x_0 drawn by the network itself

Before a concept is learnt, the network draws every earlier one, and what it draws of the class word alone, and notes
what it predicts of those images under noise (Shin et al. 2017, Deep Generative Replay; the prediction in place of a
target is Li & Hoiem's Learning without Forgetting, 2016). No image of the past is kept: its words are enough.

The penalty from second moments knows, to second order and layer by layer, what small changes do. This knows what the
network does, at the price of a forward and a backward pass for `IMAGES` more images a step, whatever the number of
concepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.personalise.batches import ConceptBatches
from bench.personalise.denoiser import Batch, Denoiser, Replayed
from bench.personalise.generic import generic_batches
from bench.personalise.layerwise import cross_attention_layers, layerwise
from bench.personalise.tokens import PLAIN_WORD, WordStyle

IMAGES = 2  # a step
DRAWN = 8  # batches that are drawn before a concept
LEVELS = 8  # noise levels that each of them is seen at


@dataclass(frozen=True)
class ReplayedBatches:
    """Batches of a concept, each with a few of the noted images; iterating twice gives the same ones.

    Attributes:
        own: the concept's batches.
        noted: all that may be replayed.
        first: batches at the beginning that go without: what is gathered from them is to be the concept's alone.
        seed: of the choice.
    """

    own: ConceptBatches
    noted: Replayed
    first: int
    seed: np.random.SeedSequence

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng(self.seed)
        for index, batch in enumerate(self.own):
            rows = torch.from_numpy(rng.choice(len(self.noted.t), IMAGES, replace=False)).to(self.noted.t.device)
            yield batch if index < self.first else replace(batch, replayed=_some(self.noted, rows))


@torch.no_grad()
def note(
    denoiser: Denoiser,
    pipeline: Any,
    words: AbstractContextManager[None],
    subjects: Sequence[str],
    templates: Sequence[str],
    size: int,
    factor: float,
    seed: np.random.SeedSequence,
) -> Replayed:
    """Draw the subjects, as evenly as it goes, and note what the network predicts of the drawings.

    Args:
        denoiser: of the pipeline.
        pipeline: as it is before the next concept.
        words: while open, it understands the subjects.
        subjects: what stands for the earlier concepts in captions.
        templates: captions with `{}` for the subject.
        size: images a batch.
        factor: λ.
        seed: of all draws.

    Returns:
        `DRAWN * size * LEVELS` noisy images.
    """
    rng = np.random.default_rng(seed)
    count = DRAWN * size
    order = np.concatenate([rng.permutation(len(subjects)) for _ in range(-(-count // len(subjects)))])[:count]
    prompts = [templates[int(rng.integers(len(templates)))].format(subjects[k]) for k in order]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with words:
        drawn = generic_batches(pipeline, prompts, DRAWN, size, np.random.SeedSequence(int(rng.integers(2**62))))
        for batch in drawn:
            with denoiser.precision():
                states = pipeline.text_encoder(batch.ids).last_hidden_state
            for _ in range(LEVELS):
                noise = torch.from_numpy(rng.standard_normal(tuple(batch.noise.shape), dtype=np.float32))
                t = torch.from_numpy(rng.integers(len(denoiser.signal), size=size))
                seen = replace(batch, noise=noise.to(batch.noise), t=t.to(batch.t))
                noisy = denoiser.noisy(seen)
                parts.append((noisy, seen.t, states, denoiser.predict(noisy, seen.t, states)))
    noisy, t, states, prediction = (torch.cat(column) for column in zip(*parts, strict=True))
    return Replayed(noisy, t, states, prediction, factor)


def speaking_of_all(
    pipeline: Any, words: Sequence[tuple[tuple[int, ...], Tensor]], style: WordStyle
) -> AbstractContextManager[None]:
    """While open, the words of all concepts (ids and embeddings) are understood; plain words always are."""
    if style == PLAIN_WORD:
        return nullcontext()
    layers = len(cross_attention_layers(pipeline.unet)) if style.layerwise else 1
    none = torch.zeros(0, layers, pipeline.text_encoder.config.hidden_size)
    numbers = tuple(number for some, _ in words for number in some)
    return layerwise(pipeline, numbers, torch.cat([none.to(pipeline.unet.device), *(vectors for _, vectors in words)]))


def _some(noted: Replayed, rows: Tensor) -> Replayed:
    return Replayed(noted.noisy[rows], noted.t[rows], noted.states[rows], noted.prediction[rows], noted.factor)
