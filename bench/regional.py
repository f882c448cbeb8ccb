"""Regional sampling (Mix-of-Show): each box of the image attends to a prompt of its own.

In every cross-attention layer, for a pixel p and the boxes that hold it,

    h(p) = Σ_{i: p in box_i} softmax(q(p) K(P_i)ᵀ / √d) V(P_i) / #{i: p in box_i},

and pixels outside all boxes attend to the global prompt. Self-attention is left alone, so attributes can still leak.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.personalise.batches import token_ids
from seqlora.errors import BadInputError

Box = tuple[float, float, float, float]  # top, left, bottom, right, as fractions of the image


@dataclass(frozen=True)
class Region:
    """A box, what is in it, and what must not be."""

    box: Box
    prompt: str
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        top, left, bottom, right = self.box
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise BadInputError(f"box {self.box} is not (top, left, bottom, right) with fractions in rising order")


class RegionalAttention:
    """A diffusers attention processor that sends each region's pixels to its own text.

    Args:
        inner: the processor that is replaced; it computes every single attention.
        states: text states of all regions, (regions, 2, length, d): the negative prompt's, then the prompt's; without
            guidance (regions, 1, length, d).
        boxes: one a region.
        aspect: height over width of the image, from which a layer's grid is found.
    """

    def __init__(self, inner: Any, states: Tensor, boxes: Sequence[Box], aspect: float) -> None:
        self.inner, self.states, self.boxes, self.aspect = inner, states, boxes, aspect

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """See diffusers' attention processors: (b, pixels, c) in and out."""
        if encoder_hidden_states is None:
            alone: Tensor = self.inner(attn, hidden_states, None, *args, **kwargs)
            return alone
        height, width = grid(hidden_states.shape[1], self.aspect)
        inside = torch.stack([covered(box, height, width) for box in self.boxes]).to(hidden_states)
        count = inside.sum(0)[:, None]
        total = torch.zeros_like(hidden_states)
        for states, here in zip(self.states, inside, strict=True):
            # halves of the batch share their text: [negative, ..., negative, prompt, ..., prompt]
            text = states.repeat_interleave(len(hidden_states) // len(states), dim=0).to(hidden_states)
            total = total + self.inner(attn, hidden_states, text, *args, **kwargs) * here[:, None]
        if bool((count > 0).all()):
            return total / count
        everywhere: Tensor = self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return torch.where(count > 0, total / count.clamp_min(1), everywhere)


def grid(pixels: int, aspect: float) -> tuple[int, int]:
    """Height and width of a feature map with this many pixels.

    Raises:
        BadInputError: no such grid has the image's shape.
    """
    height = round(math.sqrt(pixels * aspect))
    width = pixels // max(height, 1)
    if height * width != pixels:
        raise BadInputError(f"{pixels} positions form no grid of height/width {aspect:g}; use multiples of 64 pixels")
    return height, width


def covered(box: Box, height: int, width: int) -> Tensor:
    """Which positions of a grid lie in the box, (height * width,) bool: start rounded up, end rounded down.

    A box thinner than one position keeps the position that it starts in.
    """
    top, left, bottom, right = box
    inside = torch.zeros(height, width, dtype=torch.bool)
    rows, columns = _span(top, bottom, height), _span(left, right, width)
    inside[rows, columns] = True
    return inside.flatten()


def _span(start: float, end: float, size: int) -> slice:
    first, last = math.ceil(start * size - 1e-6), math.floor(end * size + 1e-6)
    if last > first:
        return slice(first, last)
    only = min(int(start * size), size - 1)
    return slice(only, only + 1)


@contextmanager
def regional(pipeline: Any, regions: Sequence[Region], height: int, width: int, guided: bool = True) -> Iterator[None]:
    """While open, the pipeline's UNet draws regionally; call the pipeline with the global prompt as usual.

    Args:
        pipeline: a Stable Diffusion pipeline.
        regions: boxes and prompts; none at all is ordinary sampling.
        height: of the image, in pixels.
        width: of the image, in pixels.
        guided: whether the pipeline is called with guidance (a scale above 1).
    """
    unet = pipeline.unet
    before = dict(unet.attn_processors)
    if regions:
        states = torch.stack([_states(pipeline, region, guided) for region in regions])
        boxes = [region.box for region in regions]
        unet.set_attn_processor(
            {
                name: RegionalAttention(inner, states, boxes, height / width) if "attn2" in name else inner
                for name, inner in before.items()
            }
        )
    try:
        yield
    finally:
        unet.set_attn_processor(before)


@torch.no_grad()
def _states(pipeline: Any, region: Region, guided: bool) -> Tensor:
    texts = [region.negative_prompt, region.prompt] if guided else [region.prompt]
    states: Tensor = pipeline.text_encoder(token_ids(pipeline, texts)).last_hidden_state
    return states
