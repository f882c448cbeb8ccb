"""Images to latents and back: principal components of 4 x 4 patches, decoded by a small learnt network.

The encoder is linear and exact: z = S^(-1/2) U^T (patch - mean), with U the 16 leading principal directions and S their
standard deviations (the square root evens out the channels half-way, so that fine detail is not drowned in noise at
once). It is written into the strided convolutions of diffusers' `AutoencoderTiny`, which loads without our code. That
class's decoder upsamples by repetition and cannot hold the inverse patch transform, so it is learnt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional as F

from bench.world.data import FigurePool
from bench.world.training import LossFunction

PATCH = 4
LATENT_CHANNELS = 16
SCALING = 2.0  # the autoencoder's own latents are half as large: AutoencoderTiny squashes them beyond +-3


class PatchPCA:
    """The linear patch transform.

    Args:
        mean: (48,) mean patch; pixels in [-1, 1], in the order (row, column, channel).
        forward: (16, 48) rows of the encoder.
        inverse: (48, 16) least-squares inverse.
    """

    def __init__(self, mean: Tensor, forward: Tensor, inverse: Tensor) -> None:
        self.mean, self.forward, self.inverse = mean, forward, inverse

    @classmethod
    def fit(cls, images: np.ndarray) -> PatchPCA:
        """Fit to (n, 64, 64, 3) uint8 images; latents get unit variance on average over channels."""
        patches = _patches(to_tensor(images)).flatten(0, 2).double()
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        U, deviation = vectors.flip(1)[:, :LATENT_CHANNELS], values.flip(0)[:LATENT_CHANNELS].sqrt()
        U = U * torch.sign(U[U.abs().argmax(0), torch.arange(LATENT_CHANNELS)])  # fix the sign of each direction
        # channel i has deviation s_i^(1/2) after scaling; divide by the root of their mean square = mean(s)
        scale = deviation.sqrt() * deviation.mean().sqrt()
        return cls(mean.float(), (U / scale).T.float(), (U * scale).float())

    def encode(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) pixels in [-1, 1] to (n, 16, H/4, W/4) latents."""
        return ((_patches(images) - self.mean) @ self.forward.T).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Least-squares inverse of `encode` (for previews: the released decoder is better)."""
        patches = latents.permute(0, 2, 3, 1) @ self.inverse.T + self.mean
        n, h, w, _ = patches.shape
        return patches.view(n, h, w, PATCH, PATCH, 3).permute(0, 5, 1, 3, 2, 4).reshape(n, 3, h * PATCH, w * PATCH)

    @torch.no_grad()
    def write_into(self, autoencoder: Any) -> None:
        """Set the encoder's convolutions so that it equals `encode` / 2 exactly.

        Layer 0 copies the 3 channels; each strided layer gathers a 2 x 2 block into channels (taps 1 and 2 of the
        3 x 3 kernel, so nothing leaks over the edge); the last applies the matrix. `EncoderTiny` first maps
        [-1, 1] to [0, 1]: x = 2 y - 1.
        """
        copy, first, second, last = (autoencoder.encoder.layers[i] for i in range(4))
        for layer in (copy, first, second, last):
            layer.weight.zero_()
        copy.bias.zero_()
        for c in range(3):
            copy.weight[c, c, 1, 1] = 1.0
        for dy in (0, 1):
            for dx in (0, 1):
                for c in range(3):
                    first.weight[(dy * 2 + dx) * 3 + c, c, 1 + dy, 1 + dx] = 1.0
                for c in range(12):
                    second.weight[(dy * 2 + dx) * 12 + c, c, 1 + dy, 1 + dx] = 1.0
        # channel (Y X y x c) of `second` holds pixel (2 Y + y, 2 X + x), colour c
        y, x, colour = np.meshgrid(range(PATCH), range(PATCH), range(3), indexing="ij")
        position = (((y // 2 * 2 + x // 2) * 4 + (y % 2 * 2 + x % 2)) * 3 + colour).reshape(-1)
        last.weight[:, torch.as_tensor(position), 1, 1] = 2.0 * self.forward / SCALING
        last.bias.copy_(-(self.forward @ (1.0 + self.mean)) / SCALING)


def to_tensor(images: np.ndarray) -> Tensor:
    """(n, H, W, 3) uint8 to (n, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_images(pixels: Tensor) -> np.ndarray:
    """Inverse of `to_tensor`, clipped and rounded."""
    return ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _patches(images: Tensor) -> Tensor:
    n, c, h, w = images.shape
    view = images.view(n, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
    return view.reshape(n, h // PATCH, w // PATCH, PATCH * PATCH * c)


def build_autoencoder() -> AutoencoderTiny:
    """An untrained autoencoder of the released shape (0.2 M parameters)."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(64, 64, 64),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(4, 3, 1),
        scaling_factor=SCALING,
    )


def decoder_loss(autoencoder: Any, pca: PatchPCA, pool: FigurePool, batch: int = 16) -> LossFunction:
    """Loss of the decoder: L1 + MSE of pixels, from latents with a little noise (so that it also cleans up samples)."""
    weight = next(autoencoder.decoder.parameters())

    def loss(step: int, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        images, _ = pool.batch(rng, batch)
        pixels = to_tensor(images)
        latents = pca.encode(pixels)
        amount = 0.1 * torch.rand(batch, 1, 1, 1, generator=noise)
        latents = (latents + amount * torch.randn(latents.shape, generator=noise)) / SCALING
        decoded = autoencoder.decoder(latents.to(weight.device, weight.dtype)).float()
        target = pixels.to(weight.device)
        return F.l1_loss(decoded, target) + F.mse_loss(decoded, target)

    return loss


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 images in dB: 10 log10(255^2 / MSE)."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255.0**2 / error))


def pca_file(folder: Path) -> Path:
    """Where the fitted transform is kept between trainings."""
    return folder / "patch-pca.safetensors"
