"""How well the identity encoder tells people apart: genuine and impostor pairs, threshold, true-accept rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

from bench.onnx_file import check_image_encoder, check_session
from bench.world.identities import Identity, sample_context
from bench.world.portraits import draw
from seqlora.errors import StoredFileError

FALSE_ACCEPT_RATE = 1e-3


def embed(encoder: ArcFaceONNX, images: np.ndarray) -> np.ndarray:
    """(n, 128) unit embeddings of (n, 64, 64, 3) uint8 RGB images, through insightface (which expects BGR)."""
    features = encoder.get_feat([cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images])
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def load_encoder(path: Path) -> ArcFaceONNX:
    """Open an ArcFace ONNX file on the CPU.

    Raises:
        StoredFileError: missing, damaged, or no encoder of images.
    """
    check_image_encoder(path)
    try:
        encoder = ArcFaceONNX(model_file=str(path))
    except Exception as error:  # onnxruntime's errors share no base class
        reason = str(error).strip().splitlines()[0]
        raise StoredFileError(f"{path} does not load as an encoder ({reason}); restore or delete it") from error
    check_session(path, encoder.session)
    encoder.prepare(ctx_id=-1)
    return encoder


@dataclass(frozen=True)
class Pairs:
    """Cosines of all same-person and all different-person pairs of portraits."""

    genuine: np.ndarray
    impostor: np.ndarray

    def threshold(self, rate: float = FALSE_ACCEPT_RATE) -> float:
        """Smallest cosine that at most `rate` of the impostor pairs exceed."""
        return float(np.quantile(self.impostor, 1 - rate, method="higher"))

    def true_accept_rate(self, threshold: float) -> float:
        """Share of genuine pairs above a threshold."""
        return float((self.genuine > threshold).mean())


def portrait_pairs(
    encoder: ArcFaceONNX, people: tuple[Identity, ...], per_person: int, rng: np.random.Generator
) -> Pairs:
    """Draw `per_person` portraits of each person in random contexts and compare all pairs; O((n k)^2)."""
    images = np.stack([draw(person, sample_context(rng)) for person in people for _ in range(per_person)])
    embedding = embed(encoder, images)
    cosine = embedding @ embedding.T
    number = np.repeat(np.arange(len(people)), per_person)
    same = number[:, None] == number
    above = np.triu(np.ones_like(same), k=1)
    return Pairs(cosine[same & above], cosine[~same & above])
