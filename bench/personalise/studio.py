"""A plain pipeline that shows what a merge gives: set weights to W0 + Δ, install tokens, draw the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.personalise.denoiser import Denoiser
from bench.personalise.tokens import add_token, install, require_token

Update = Mapping[str, Tensor]  # layer name ("unet. ..." or "text_encoder. ...") -> Δ, (m, n)


class Studio:
    """Draws images with the base weights plus an update.

    Args:
        pipeline: untrained and without adapters; its weights are set in place.
        size: height and width of the images in pixels.
        steps: of the sampler.
        guidance: classifier-free guidance scale.
    """

    def __init__(self, pipeline: Any, size: int, steps: int, guidance: float) -> None:
        self.pipeline, self.size, self.steps, self.guidance = pipeline, size, steps, guidance
        self.denoiser = Denoiser(pipeline).requires_grad_(False)
        self._base: dict[str, Tensor] = {}
        pipeline.set_progress_bar_config(disable=True)

    def base(self, layer: str) -> Tensor:
        """W0 of a layer, (m, n)."""
        weight = self.denoiser.get_submodule(layer).get_parameter("weight").data
        kept: Tensor = self._base.setdefault(layer, weight.clone())
        return kept.reshape(kept.shape[0], -1)

    @torch.no_grad()
    def show(self, update: Update) -> None:
        """Set the weights to W0 + Δ; layers that the update does not name go back to W0."""
        for layer in {*self._base, *update}:
            W = self.base(layer)
            weight = self.denoiser.get_submodule(layer).get_parameter("weight")
            changed = W + update[layer].to(W) if layer in update else W
            weight.data.copy_(changed.view_as(weight))

    def know(self, token: str, class_word: str, vector: Tensor) -> None:
        """Give the text encoder a word."""
        number = add_token(self.pipeline.tokenizer, self.pipeline.text_encoder, token, class_word)
        install(self.pipeline.text_encoder, {number: vector})

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[str], noise: np.random.SeedSequence, token: str = "", batch: int = 32
    ) -> NDArray[np.uint8]:
        """One image a prompt, (n, size, size, 3) uint8; image i starts from noise i of `noise`, whatever the batch.

        Args:
            prompts: the captions.
            noise: seeds of the initial noise.
            token: every prompt must hold it.
            batch: images at a time.

        Raises:
            BadInputError: a prompt lacks the token.
        """
        for prompt in prompts:
            require_token(prompt, token)
        states = np.random.SeedSequence(noise.entropy, spawn_key=noise.spawn_key).generate_state(
            len(prompts), np.uint64
        )
        images = []
        for first in range(0, len(prompts), batch):
            some = slice(first, first + batch)
            drawn = self.pipeline(
                list(prompts[some]),
                height=self.size,
                width=self.size,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=[torch.Generator().manual_seed(int(state) >> 1) for state in states[some]],
                output_type="np",
            ).images
            images.append(np.rint(np.clip(drawn, 0, 1) * 255).astype(np.uint8))
        return np.concatenate(images)
