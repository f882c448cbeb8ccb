"""Random training batches of a concept: images, captions, noise and timesteps, from a generator of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.personalise.denoiser import Batch
from bench.personalise.images import ConceptImages


class ConceptBatches:
    """A finite, repeatable stream of batches: iterating twice gives the same ones.

    Args:
        pipeline: encodes images and captions; the concept's token must have been added.
        concept: the images.
        steps: number of batches.
        size: images a batch.
        seed: where all draws come from.
        subject: what stands for the concept in captions; default: its token and class word.
    """

    def __init__(
        self,
        pipeline: Any,
        concept: ConceptImages,
        steps: int,
        size: int,
        seed: np.random.SeedSequence,
        subject: str | None = None,
    ) -> None:
        self.steps, self.size, self.seed = steps, size, seed
        self.latents = encode_images(pipeline, concept.training)
        subject = subject or concept.subject
        self.ids = [token_ids(pipeline, [text.format(subject) for text in texts]) for texts in concept.templates]
        self.mask = None
        if concept.masks is not None:
            masks = torch.from_numpy(concept.masks)[:, None].to(self.latents.device)
            self.mask = F.interpolate(masks, self.latents.shape[-2:], mode="area")
        self.timesteps = int(pipeline.scheduler.config.num_train_timesteps)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng(self.seed)
        order: NDArray[np.int64] = np.empty(0, np.int64)
        for _ in range(self.steps):
            while len(order) < self.size:  # every image once before any comes again
                order = np.concatenate([order, rng.permutation(len(self.latents))])
            rows, order = order[: self.size], order[self.size :]
            yield self._batch(rows, rng)

    def _batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        device = self.latents.device
        latents = self.latents[torch.from_numpy(rows).to(device)]
        ids = torch.stack([self.ids[row][rng.integers(len(self.ids[row]))] for row in rows])
        noise = torch.from_numpy(rng.standard_normal(tuple(latents.shape), dtype=np.float32)).to(device)
        t = torch.from_numpy(rng.integers(self.timesteps, size=len(rows))).to(device)
        mask = None if self.mask is None else self.mask[torch.from_numpy(rows).to(device)]
        return Batch(latents, noise, t, ids, mask)


@torch.no_grad()
def encode_images(pipeline: Any, images: NDArray[np.uint8]) -> Tensor:
    """(n, c, h, w) float32 latents of (n, H, W, 3) uint8 images: the mean of the encoder's distribution."""
    vae = pipeline.vae
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    encoded = vae.encode(pixels.to(vae.device, vae.dtype))
    latents = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
    return latents.float() * vae.config.scaling_factor


def token_ids(pipeline: Any, texts: list[str]) -> Tensor:
    """(n, length) ids, padded to the text encoder's length."""
    tokenizer = pipeline.tokenizer
    length = tokenizer.model_max_length
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return encoded.input_ids.to(pipeline.text_encoder.device)
