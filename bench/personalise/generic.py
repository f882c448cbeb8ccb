"""What the base model draws by itself: batches whose moments, remembered first, protect prompts without a concept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bench.personalise.batches import token_ids
from bench.personalise.denoiser import Batch
from bench.personalise.images import ConceptImages

DRAWING_STEPS = 10
GUIDANCE = 3.0
BARE = "a photo of {}"


def generic_prompts(concept: ConceptImages) -> list[str]:
    """The captions of a concept's images with its class word in place of its token, and the class word alone."""
    texts = {BARE, *(text for texts in concept.templates for text in texts)}
    return sorted(text.format(f"a {concept.class_word}") for text in texts)


@torch.no_grad()
def generic_batches(
    pipeline: Any, prompts: Sequence[str], count: int, size: int, seed: np.random.SeedSequence
) -> Iterator[Batch]:
    """Batches of images that the pipeline draws now, as noisy as training batches are.

    Args:
        pipeline: in the state that is to be protected.
        prompts: to draw from, in turns.
        count: batches.
        size: images a batch; each batch draws its own.
        seed: of the drawings, noise and noise levels.

    Yields:
        `count` batches.
    """
    rng = np.random.default_rng(seed)
    device, texts = pipeline.unet.device, [prompts[k % len(prompts)] for k in range(count * size)]
    for first in range(0, len(texts), size):
        some = texts[first : first + size]
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            some,
            num_inference_steps=DRAWING_STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
            output_type="latent",
        ).images.float()
        noise = torch.from_numpy(rng.standard_normal(tuple(drawn.shape), dtype=np.float32)).to(device)
        t = torch.from_numpy(rng.integers(int(pipeline.scheduler.config.num_train_timesteps), size=size)).to(device)
        yield Batch(drawn.to(device), noise, t, token_ids(pipeline, some))
