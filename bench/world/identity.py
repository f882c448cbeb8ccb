"""The identity encoder: 64 x 64 portraits to unit-free 128-vectors whose cosine says "same person".

Trained with the additive angular margin (ArcFace, Deng et al. 2019) on people who are in no listed split, under all
changes of context; exported to ONNX in the form that insightface's `ArcFaceONNX` reads (RGB, (x - 127.5) / 127.5).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from bench.world.autoencoder import to_tensor
from bench.world.data import FigurePool
from bench.world.nets import trunk
from bench.world.portraits import SIZE
from bench.world.training import LossFunction

WIDTH = 128
SCALE, MARGIN = 24.0, 0.35  # of the angular margin loss
MAX_SOFTNESS = 0.8  # weight of the blurred image in the mixture that is trained on


class IdentityEncoder(nn.Module):
    """Convolutional trunk, then a linear layer that sees where everything is."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk((24, 48, 64, 96))
        self.head = nn.Linear(96 * (SIZE // 16) ** 2, WIDTH, bias=False)
        self.norm = nn.BatchNorm1d(WIDTH, affine=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, 64, 64) in [-1, 1] to (n, 128), not normalised."""
        return self.norm(self.head(self.trunk(pixels).flatten(1)))


class ArcFaceTraining(nn.Module):
    """Encoder and class centres: cross-entropy of s cos(angle + margin of the true class).

    Args:
        n_people: number of training people.
    """

    def __init__(self, n_people: int) -> None:
        super().__init__()
        self.encoder = IdentityEncoder()
        self.centres = nn.Embedding(n_people, WIDTH)

    def forward(self, pixels: Tensor, person: Tensor, margin: float = MARGIN) -> Tensor:
        """Mean loss over the batch."""
        embedding = F.normalize(self.encoder(pixels).float())
        cosine = (embedding @ F.normalize(self.centres.weight.float()).T).clamp(-1 + 1e-6, 1 - 1e-6)
        true = cosine.gather(1, person[:, None])
        # cos(angle + m) = cos angle cos m - sin angle sin m
        shifted = true * np.cos(margin) - (1 - true.square()).sqrt() * np.sin(margin)
        return F.cross_entropy(SCALE * cosine.scatter(1, person[:, None], shifted), person)


def identity_loss(model: ArcFaceTraining, pool: FigurePool, numbers: np.ndarray, batch: int, ramp: int) -> LossFunction:
    """Loss of a step; the margin grows from 0 over `ramp` steps (a full margin at the start does not converge)."""
    weight = model.encoder.head.weight

    def loss(step: int, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        chosen = rng.integers(len(pool), size=batch)
        images, _ = pool.portraits(chosen, rng)
        pixels = to_tensor(images)
        # Generated images are neither as sharp nor as clean as drawings, whoever is in them.
        softness = MAX_SOFTNESS * torch.rand(batch, 1, 1, 1, generator=noise)
        pixels = pixels.lerp(gaussian_blur(pixels, [5, 5], [1.2, 1.2]), softness)
        amount = 0.05 * torch.rand(batch, 1, 1, 1, generator=noise)
        pixels = pixels + amount * torch.randn(pixels.shape, generator=noise)
        person = torch.from_numpy(numbers[chosen]).to(weight.device)
        return model(pixels.to(weight.device, weight.dtype), person, MARGIN * min(1.0, step / ramp))

    return loss


def people_numbers(pool: FigurePool) -> tuple[np.ndarray, int]:
    """Class number of every figure's person, and the number of people."""
    order = {person: number for number, person in enumerate(dict.fromkeys(pool.people))}
    return np.array([order[person] for person in pool.people]), len(order)
