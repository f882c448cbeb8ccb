"""Sample grids of the released pipeline, for the README and for a look after a change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from bench.world import assets
from bench.world.captions import caption
from bench.world.check import held_out_portraits
from bench.world.portraits import SIZE
from bench.world.recipes import save_image
from bench.world.sampling import grid, sample
from bench.world.scenes import WIDTH

COLUMNS = 12
SCENES = (
    "a photo of left person with pink bob hair and right person with black afro hair on a plain blue background",
    "a photo of left person with blonde long hair and right person with ginger spiky hair beard on a green background",
    "a photo of left person with silver bun hair and right person with blue curly hair on a striped yellow background",
    "a photo of left person with brown short hair moustache and right person with black bob hair on a gray background",
    "a photo of left person with pink mohawk hair and right person with blonde wavy hair on a purple background",
    "a photo of left person and right person on a plain orange background",
)


def draw_grid(out: Path, prompt: str = "", seed: int = 0) -> None:
    """Write a PNG: one prompt many times, or rows of real portraits above their re-drawings, and two-person scenes."""
    folder = assets.pipeline_folder()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    rng = np.random.default_rng(seed)
    if prompt:
        save_image(out, grid(sample(pipeline, [prompt] * 2 * COLUMNS, rng), COLUMNS))
        return
    real, shown = held_out_portraits(2 * COLUMNS, rng)
    drawn = sample(pipeline, [caption(attributes) for attributes in shown], rng)
    wide = sample(pipeline, SCENES, rng, width=WIDTH)
    # a scene takes the place of two portraits in the last row
    halves = np.stack([wide[:, :, :SIZE], wide[:, :, SIZE:]], axis=1).reshape(-1, SIZE, SIZE, 3)
    rows = (real[:COLUMNS], drawn[:COLUMNS], real[COLUMNS:], drawn[COLUMNS:], halves)
    save_image(out, grid(np.concatenate(rows), COLUMNS))
