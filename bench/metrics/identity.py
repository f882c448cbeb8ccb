"""Is it the same person: cosines of ArcFace embeddings through insightface, against held-out references only.

An image in which no face is found is a failure: its cosine counts as 0, what two strangers have, and it is never a
detection. The share of images with a face is therefore printed beside both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class IdentityScores:
    """Scores of the images of one concept, one entry an image.

    Attributes:
        cosine: mean over references, 0 where no face was found.
        detected: mean cosine above the threshold, and a face found; None without a threshold.
        found: whether a face was found; None without a detector.
    """

    cosine: NDArray[np.float64]
    detected: NDArray[np.bool_] | None
    found: NDArray[np.bool_] | None

    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """Metric -> one number an image; what could not be judged is left out."""
        judged = {"identity": self.cosine, "detection": self.detected, "face_found": self.found}
        return {name: numbers.astype(np.float64) for name, numbers in judged.items() if numbers is not None}


class Recognises(Protocol):
    """Whoever tells people apart: the embedded world's encoder, or a face detector and encoder for photographs."""

    def score(self, images: Pixels, references: Pixels) -> IdentityScores:
        """All pairs of generated images and references."""


@dataclass(frozen=True)
class IdentityJudge:
    """An encoder with the threshold that was calibrated for it, and a face detector.

    Attributes:
        encoder: insightface's `ArcFaceONNX`, prepared.
        threshold: cosine at a false-accept rate of 1e-3 on impostor pairs of this encoder; None if it is not known.
        found: (n, H, W, 3) uint8 images -> (n,) bool; None without a detector: every image then counts as a face.
    """

    encoder: Any
    threshold: float | None
    found: Callable[[Pixels], NDArray[np.bool_]] | None

    def at(self, threshold: float | None) -> IdentityJudge:
        """The same encoder and detector with another threshold."""
        return replace(self, threshold=threshold)

    def embed(self, images: Pixels) -> NDArray[np.float64]:
        """(n, d) unit embeddings of (n, H, W, 3) uint8 RGB images (insightface expects BGR)."""
        bgr = [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in images]
        features = np.asarray(self.encoder.get_feat(bgr), dtype=np.float64)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def score(self, images: Pixels, references: Pixels) -> IdentityScores:
        """All pairs of generated images and references; O(n k d)."""
        found = None if self.found is None else np.asarray(self.found(images))
        mean = (self.embed(images) @ self.embed(references).T).mean(axis=1)
        return scored(mean, found, self.threshold)


def scored(mean: NDArray[np.float64], found: NDArray[np.bool_] | None, threshold: float | None) -> IdentityScores:
    """What mean cosines come to, given who has a face and where the threshold is."""
    face = np.ones(len(mean), bool) if found is None else found
    detected = None if threshold is None else face & (mean > threshold)
    return IdentityScores(np.where(face, mean, 0.0), detected, found)
