"""An attribute classifier independent of CLIP, and the face-found score that plays the part of a face detector.

One trunk, one softmax head per captioned attribute, and one logit "there is a portrait here", trained against images
without one: noise, bare walls, blends of people, scrambled patches, portraits upside down or heavily blurred.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.world.attributes import BACKGROUND, PATTERN, VALUES
from bench.world.autoencoder import to_tensor
from bench.world.data import FigurePool, labels
from bench.world.nets import trunk
from bench.world.portraits import SIZE, background
from bench.world.training import LossFunction

NEGATIVES = ("noise", "wall", "blend", "scrambled", "upside-down", "blurred")


class AttributeClassifier(nn.Module):
    """Predicts every captioned attribute, and whether there is a portrait at all."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk((24, 48, 64, 96))
        self.hidden = nn.Sequential(nn.Linear(96 * (SIZE // 16) ** 2, 128), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in VALUES.items()})
        self.face = nn.Linear(128, 1)

    def forward(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(n, 3, 64, 64) in [-1, 1] to logits per attribute, (n, classes), and face logits, (n,)."""
        h = self.hidden(self.trunk(pixels).flatten(1))
        return {name: head(h) for name, head in self.heads.items()}, self.face(h)[:, 0]

    @torch.no_grad()
    def predict(self, images: np.ndarray, batch: int = 256) -> dict[str, np.ndarray]:
        """Class numbers (indices into `VALUES[name]`) of (n, 64, 64, 3) uint8 images, per attribute."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in VALUES}
        for part in np.array_split(images, max(1, -(-len(images) // batch))):
            for name, logits in self(self._input(part))[0].items():
                found[name].append(logits.argmax(1).cpu().numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}

    @torch.no_grad()
    def face_score(self, images: np.ndarray) -> np.ndarray:
        """(n,) log-odds that there is a portrait."""
        return self(self._input(images))[1].float().cpu().numpy()

    def _input(self, images: np.ndarray) -> Tensor:
        return to_tensor(images).to(self.face.weight.device, self.face.weight.dtype)


def not_faces(kind: str, portraits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images without a proper face, made from (n, 64, 64, 3) portraits; `kind` is one of `NEGATIVES`."""
    n = len(portraits)
    if kind == "noise":
        # white noise enlarged by 1, 2, 4 or 8 pixels, so that the spectrum alone does not give it away
        grain = 2 ** int(rng.integers(4))
        small = rng.integers(0, 256, (n, SIZE // grain, SIZE // grain, 3), dtype=np.uint8)
        return small.repeat(grain, 1).repeat(grain, 2)
    if kind == "wall":
        walls = [background(rng.choice(list(BACKGROUND)), rng.choice(PATTERN)) for _ in range(n)]
        return np.stack(walls).astype(np.uint8)
    if kind == "scrambled":
        tiles = portraits.reshape(n, 4, 16, 4, 16, 3).swapaxes(2, 3).reshape(n, 16, 16, 16, 3)
        tiles = np.stack([t[rng.permutation(16)] for t in tiles])
        return tiles.reshape(n, 4, 4, 16, 16, 3).swapaxes(2, 3).reshape(n, SIZE, SIZE, 3)
    if kind == "upside-down":
        return portraits[:, ::-1].copy()
    coarse = portraits.reshape(n, 4, 16, 4, 16, 3).astype(np.float32).mean((2, 4))
    pixels = torch.from_numpy(coarse).permute(0, 3, 1, 2)
    smooth = F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return smooth.permute(0, 2, 3, 1).round().byte().numpy()


def classifier_loss(model: AttributeClassifier, pool: FigurePool, extra: FigurePool, batch: int) -> LossFunction:
    """Cross-entropy over visible attributes, and of face against no face (`extra` adds faces with held-out hair)."""
    weight = model.face.weight

    def loss(step: int, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        images, shown = pool.portraits(rng.integers(len(pool), size=batch), rng)
        others, _ = extra.portraits(rng.integers(len(extra), size=batch // 4), rng)
        kind = NEGATIVES[step % len(NEGATIVES)]
        negatives = not_faces(kind, others, rng)
        pixels = to_tensor(np.concatenate([images, others, negatives]))
        amount = 0.1 * torch.rand(len(pixels), 1, 1, 1, generator=noise)
        pixels = pixels + amount * torch.randn(pixels.shape, generator=noise)
        logits, face = model(pixels.to(weight.device, weight.dtype))
        target = torch.from_numpy(labels(shown)).to(weight.device)
        terms = [
            F.cross_entropy(logits[name][:batch].float(), target[:, column], ignore_index=-1)
            for column, name in enumerate(VALUES)
        ]
        is_face = torch.ones(len(pixels), device=weight.device)
        is_face[-len(negatives) :] = 0.0
        return sum(terms, F.binary_cross_entropy_with_logits(face.float(), is_face))

    return loss
