"""One region over the whole image is ordinary sampling; overlaps are averaged; elsewhere the global text counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.regional import Region, RegionalAttention, covered, grid, regional
from seqlora.errors import BadInputError

WHOLE = (0.0, 0.0, 1.0, 1.0)
PROMPTS = ["a photo of a person", "a photo of two people"]


def draw(pipe: Any, regions: list[Region], prompts: list[str], guidance: float = 2.0) -> np.ndarray:
    noise = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    with regional(pipe, regions, 16, 32, guided=guidance > 1):
        return pipe(
            prompts, height=16, width=32, num_inference_steps=2, guidance_scale=guidance, generator=noise,
            output_type="latent",
        ).images.numpy()  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_whole_image_region_equals_ordinary_sampling_for_a_batch(load: Callable[[], Any], guidance: float) -> None:
    pipe = load()
    wanted = "a photo of a person with pink hair"
    ordinary = draw(pipe, [], [wanted, wanted], guidance)
    with_region = draw(pipe, [Region(WHOLE, wanted)], PROMPTS, guidance)
    np.testing.assert_allclose(with_region, ordinary, atol=1e-4)
    assert not np.allclose(draw(pipe, [], PROMPTS, guidance), ordinary, atol=1e-3)  # the global prompt would differ


def test_processors_are_put_back(load: Callable[[], Any]) -> None:
    pipe = load()
    before = dict(pipe.unet.attn_processors)
    draw(pipe, [Region(WHOLE, "a person")], PROMPTS[:1])
    assert dict(pipe.unet.attn_processors) == before


def test_overlap_is_averaged_and_the_rest_keeps_the_global_text() -> None:
    def inner(attn: Any, hidden: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        assert text is not None
        return hidden * 0 + text.mean((1, 2))[:, None, None]

    states = torch.stack([torch.full((1, 2, 3), 1.0), torch.full((1, 2, 3), 3.0)])
    boxes = [(0.0, 0.0, 1.0, 0.5), (0.0, 0.25, 1.0, 0.75)]
    attention = RegionalAttention(inner, states, boxes, aspect=0.5)
    out = attention(None, torch.zeros(2, 8, 1), torch.full((2, 2, 3), 9.0))
    row = [1.0, 2.0, 3.0, 9.0]  # first box, both, second box, neither
    assert out[0, :, 0].tolist() == row * 2
    assert torch.equal(out[0], out[1])


def test_boxes_on_a_grid() -> None:
    assert grid(8, 0.5) == (2, 4)
    assert covered((0.0, 0.1, 1.0, 0.6), 1, 4).tolist() == [False, True, False, False]  # ceil and floor
    assert covered((0.0, 0.3, 1.0, 0.4), 1, 4).tolist() == [False, True, False, False]  # thinner than a position
    with pytest.raises(BadInputError, match="form no grid"):
        grid(7, 0.5)
    with pytest.raises(BadInputError, match="rising order"):
        Region((0.5, 0.0, 0.5, 1.0), "a person")
