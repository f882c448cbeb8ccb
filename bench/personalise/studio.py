"""A plain pipeline that shows what a merge gives: set weights to W0 + Δ, install tokens, draw the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.personalise.batches import token_ids
from bench.personalise.denoiser import Denoiser
from bench.personalise.layerwise import layerwise
from bench.personalise.tokens import PLAIN_WORD, add_words, install, require_token, style_of, subject_of
from bench.regional import Region, regional

Update = Mapping[str, Tensor]  # layer name ("unet. ..." or "text_encoder. ...") -> Δ, (m, n)


class Studio:
    """Draws images with the base weights plus an update.

    Args:
        pipeline: untrained and without adapters; its weights are set in place.
        size: height and width of the images in pixels.
        steps: of the sampler.
        guidance: classifier-free guidance scale.
        batch: images at a time.
        bfloat16: compute in mixed precision.
    """

    def __init__(
        self, pipeline: Any, size: int, steps: int, guidance: float, batch: int = 32, bfloat16: bool = False
    ) -> None:
        self.pipeline, self.size, self.steps, self.guidance, self.batch = pipeline, size, steps, guidance, batch
        self.denoiser = Denoiser(pipeline, bfloat16).requires_grad_(False)
        self._base: dict[str, Tensor] = {}
        self._layerwise: dict[int, Tensor] = {}  # id of a word -> its embedding in every layer, (L, d)
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

    def know(self, token: str, class_word: str, vectors: Tensor) -> str:
        """Teach a concept's words, (d,) or (words, layers, d); returns what stands for the concept in a prompt."""
        style, encoder = style_of(vectors), self.pipeline.text_encoder
        numbers = add_words(self.pipeline.tokenizer, encoder, token, class_word, style)
        if style == PLAIN_WORD:
            self._layerwise.pop(numbers[0], None)
            install(encoder, {numbers[0]: vectors})
        else:
            self._layerwise.update(zip(numbers, vectors, strict=True))
        return subject_of(token, class_word, style)

    def speaking(self, prompts: Sequence[str]) -> AbstractContextManager[None]:
        """While open, layer-wise words that these prompts hold are understood; the others are as usual."""
        said = set(token_ids(self.pipeline, list(prompts)).flatten().tolist())
        known = {number: vectors for number, vectors in self._layerwise.items() if number in said}
        if not known:
            return nullcontext()
        return layerwise(self.pipeline, tuple(known), torch.stack(list(known.values())))

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        noise: np.random.SeedSequence,
        token: str = "",
        batch: int | None = None,
        width: int | None = None,
        regions: Sequence[Region] = (),
    ) -> NDArray[np.uint8]:
        """One image a prompt, (n, size, width, 3) uint8; image i starts from noise i of `noise`, whatever the batch.

        Args:
            prompts: the captions.
            noise: seeds of the initial noise.
            token: every prompt must hold it.
            batch: images at a time, if not as many as usual.
            width: of the images, if they are no squares.
            regions: boxes with prompts of their own; `prompts` are then those of the whole image.

        Raises:
            BadInputError: a prompt lacks the token.
        """
        for prompt in prompts:
            require_token(prompt, token)
        states = np.random.SeedSequence(noise.entropy, spawn_key=noise.spawn_key).generate_state(
            len(prompts), np.uint64
        )
        images, wide, batch = [], width or self.size, batch or self.batch
        for first in range(0, len(prompts), batch):
            some = slice(first, first + batch)
            texts = [*prompts[some], *(region.prompt for region in regions)]
            regions_open = regional(self.pipeline, regions, self.size, wide, self.guidance > 1)
            with self.denoiser.precision(), self.speaking(texts), regions_open:
                drawn = self.pipeline(
                    list(prompts[some]),
                    height=self.size,
                    width=wide,
                    num_inference_steps=self.steps,
                    guidance_scale=self.guidance,
                    generator=[torch.Generator().manual_seed(int(state) >> 1) for state in states[some]],
                    output_type="np",
                ).images
            images.append(np.rint(np.clip(drawn, 0, 1) * 255).astype(np.uint8))
        return np.concatenate(images)
