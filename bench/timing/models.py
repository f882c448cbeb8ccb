"""The network and the stand-in past that the timings share."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.storage import Concept
from seqlora.subspace import retract_qr

TARGETS = r".*attentions.*(to_q|to_k|to_v|to_out\.0)"
RANK = 4
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def unet() -> Any:
    """A Stable-Diffusion-shaped UNet whose narrowest adapted layer, 256 wide, holds 60 concepts of rank 4."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 256, 256),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=4,
    )


def batch(size: int = 8) -> Batch:
    """Latents, noise levels, text states and the target of a denoising step."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(size, 4, 16, 16, generator=generator)
    text = torch.randn(size, 32, 256, generator=generator)
    return latents, torch.randint(0, 1000, (size,), generator=generator), text, torch.randn_like(latents)


def loss(model: nn.Module, data: Batch) -> Tensor:
    """Denoising loss."""
    latents, times, text, target = data
    return F.mse_loss(model(latents, times, text).sample, target)


def sequence_with(concepts: int, **options: object) -> ConceptSequence:
    """A sequence on the UNet that already holds `concepts` random concepts with mutually orthogonal bases."""
    config = SeqLoRAConfig(rank=RANK, target_modules=TARGETS, **options)  # type: ignore[arg-type]
    sequence = ConceptSequence(unet(), config)
    generator = torch.Generator().manual_seed(2)
    bases = {
        layer.name: retract_qr(
            torch.randn(max(concepts, 1) * RANK, layer.weight.shape[1], generator=generator, dtype=torch.float64)
        ).float()
        for layer in sequence.layers
    }
    for index in range(concepts):
        rows = slice(index * RANK, (index + 1) * RANK)
        factors = {
            layer.name: (
                bases[layer.name][rows],
                1e-3 * torch.randn(layer.weight.shape[0], RANK, generator=generator),
            )
            for layer in sequence.layers
        }
        sequence.adopt(Concept(f"c{index}", factors))
    return sequence
