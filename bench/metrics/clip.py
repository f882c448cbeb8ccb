"""Text and image alignment by any open_clip model: raw cosines; what papers print are views of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
CLIPSCORE_WEIGHT = 2.5


class ClipJudge:
    """An open_clip model.

    Args:
        name: an architecture, or "local-dir:<folder>".
        pretrained: tag of the weights; not for a local folder.
        device: where it runs.
    """

    def __init__(self, name: str, pretrained: str | None = None, device: str = "cpu") -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, device=device
        )
        self.model.eval()
        self.device = device
        self.tokenize = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def images(self, images: Pixels) -> NDArray[np.float64]:
        """(n, d) unit embeddings of (n, H, W, 3) uint8 images."""
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images])
        return self.model.encode_image(pixels.to(self.device), normalize=True).double().cpu().numpy()

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(n, d) unit embeddings."""
        tokens = self.tokenize(list(texts)).to(self.device)
        return self.model.encode_text(tokens, normalize=True).double().cpu().numpy()

    def text_alignment(self, images: Pixels, texts: Sequence[str]) -> NDArray[np.float64]:
        """CLIP-T, (n,): cosine of image i and text i (write the class word where the concept's token was)."""
        return np.sum(self.images(images) * self.texts(texts), axis=1)

    def image_alignment(self, images: Pixels, references: Pixels) -> NDArray[np.float64]:
        """CLIP-I, (n,): mean cosine with all references."""
        return (self.images(images) @ self.images(references).T).mean(axis=1)


def clip_score(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """CLIPScore of Hessel et al. 2021: `2.5 max(cos, 0)`, pair by pair."""
    return CLIPSCORE_WEIGHT * np.maximum(cosine, 0.0)


def drift(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """`(1 - mean cosine) / 2` of the embeddings of unrelated prompts' images, drawn with the same noise."""
    return float(1 - np.mean(np.sum(before * after, axis=1))) / 2
