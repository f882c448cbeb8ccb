"""Draw images from a pipeline in batches, and lay images out as a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.world.portraits import SIZE

STEPS = 25
GUIDANCE = 5.0


def sample(
    pipeline: Any,
    prompts: Sequence[str],
    rng: np.random.Generator,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    width: int = SIZE,
    batch: int = 32,
) -> np.ndarray:
    """Draw one image a prompt; initial noise comes from one generator an image, so batches do not matter.

    Args:
        pipeline: a Stable Diffusion pipeline.
        prompts: one an image.
        rng: seeds the noise of each image.
        steps: of the sampler.
        guidance: classifier-free guidance scale.
        width: pixels; 128 for two-person scenes.
        batch: images at a time.

    Returns:
        (n, 64, width, 3) uint8.
    """
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for first in range(0, len(prompts), batch):
        some = list(prompts[first : first + batch])
        noise = [torch.Generator().manual_seed(int(rng.integers(2**62))) for _ in some]
        drawn = pipeline(
            some,
            height=SIZE,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
        ).images
        images.append(np.rint(drawn * 255).astype(np.uint8))
    return np.concatenate(images)


def grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay (n, H, W, 3) uint8 images out in rows, on white."""
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
