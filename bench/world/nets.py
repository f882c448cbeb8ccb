"""The small convolutional trunk: identity encoder and attribute classifier share its shape, not its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """y = relu(x + conv(relu(conv(x)))), each convolution followed by batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        return torch.relu(x + self.body(x))


def trunk(widths: tuple[int, ...], blocks: int = 1) -> nn.Sequential:
    """Halve the resolution once per width: (n, 3, 64, 64) to (n, widths[-1], 64 / 2^k, 64 / 2^k)."""
    layers: list[nn.Module] = []
    before = 3
    for number, width in enumerate(widths):
        layers += [
            nn.Conv2d(before, width, 5 if number == 0 else 3, stride=2, padding=2 if number == 0 else 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        layers += [Residual(width) for _ in range(blocks if number else 0)]
        before = width
    return nn.Sequential(*layers)
