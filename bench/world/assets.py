"""The only way to the released weights: each function checks them against the manifest before it hands them out.

Nothing is downloaded, nothing is unpickled. Every file is hashed once per process.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.world.portraits import SIZE
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import read_json, read_tensors, sha256_of

if TYPE_CHECKING:
    from bench.world.classifier import AttributeClassifier

WEIGHTS = Path(__file__).with_name("weights")
PIPELINE, CLIP, IDENTITY, CLASSIFIER = "pipeline", "clip", "identity.onnx", "classifier.safetensors"
RESTORE = "restore it with `git checkout -- bench/world/weights`"


class WeightsError(StoredFileError):
    """Released weights are missing or are not those that the manifest names."""


@cache
def manifest(weights: Path = WEIGHTS) -> dict[str, Any]:
    """The manifest: per file sha256 and bytes; recipe hash, data version, licence, logs, thresholds.

    Raises:
        WeightsError: there is none.
    """
    try:
        return read_json(weights / "manifest.json")
    except StoredFileError as error:
        raise WeightsError(f"the embedded world has no readable manifest: {error}; {RESTORE}") from error


@cache
def verify(weights: Path = WEIGHTS) -> Path:
    """Check every file of the manifest once per process; return the folder.

    Raises:
        WeightsError: a file is missing or has another hash.
    """
    for name, record in manifest(weights)["files"].items():
        path = weights / name
        if not path.is_file():
            raise WeightsError(f"weights file {path} is missing; {RESTORE}")
        if path.stat().st_size != record["bytes"]:  # before gigabytes of something else are hashed
            raise WeightsError(f"weights file {path} has not the size that manifest.json gives; {RESTORE}")
        if sha256_of(path) != record["sha256"]:
            raise WeightsError(f"weights file {path} is not the one in manifest.json (wrong sha256); {RESTORE}")
    return weights


def pipeline_folder(weights: Path = WEIGHTS) -> Path:
    """The small Stable Diffusion: a folder for `StableDiffusionPipeline.from_pretrained`."""
    return verify(weights) / PIPELINE


def clip_folder(weights: Path = WEIGHTS) -> Path:
    """The CLIP model: `open_clip.create_model_and_transforms(f"local-dir:{clip_folder()}")`."""
    return verify(weights) / CLIP


def identity_model(weights: Path = WEIGHTS) -> Path:
    """The identity encoder: an ONNX file for insightface's `ArcFaceONNX`."""
    return verify(weights) / IDENTITY


def classifier(weights: Path = WEIGHTS) -> AttributeClassifier:
    """The attribute classifier, in float32, evaluation mode; `.predict(images)` judges (n, 64, 64, 3) uint8."""
    from bench.world.classifier import AttributeClassifier

    model = AttributeClassifier()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict(read_tensors(verify(weights) / CLASSIFIER, shapes))
    return model.float().eval()


class FaceScore:
    """Whether images show a portrait at all: the part that a face detector plays for photographs.

    Args:
        model: the classifier that has the face logit.
        threshold: log-odds above which a face counts as found; 99 % of unseen portraits pass.
    """

    def __init__(self, model: AttributeClassifier, threshold: float) -> None:
        self.model, self.threshold = model, threshold

    def score(self, images: np.ndarray) -> np.ndarray:
        """(n,) log-odds of (n, 64, 64, 3) uint8 RGB images.

        Raises:
            BadInputError: the array has another shape or type.
        """
        if images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3) or images.dtype != np.uint8:
            raise BadInputError(
                f"face score needs uint8 images of shape (n, {SIZE}, {SIZE}, 3), got {images.dtype} {images.shape}"
            )
        return self.model.face_score(images)

    def found(self, images: np.ndarray) -> np.ndarray:
        """(n,) bool: a face was found."""
        return self.score(images) > self.threshold


def face_score(weights: Path = WEIGHTS) -> FaceScore:
    """The face-found score with its calibrated threshold."""
    return FaceScore(classifier(weights), manifest(weights)["calibration"]["face_threshold"])


def identity_threshold(weights: Path = WEIGHTS) -> float:
    """Cosine above which two portraits count as one person: false-accept rate 1e-3 on calibration identities."""
    return manifest(weights)["calibration"]["identity_threshold"]
