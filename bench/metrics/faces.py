"""Identity in photographs: insightface finds the face, turns it upright and embeds it; thresholds are calibrated here.

A pack (buffalo_l, ...) brings a detector, so a face that is not found counts as a failure. A lone ArcFace `.onnx` has
none: whole images are embedded, every one counts as a face, and no face-found rate is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.identity import IdentityScores, Pixels, scored
from bench.onnx_file import check_image_encoder
from bench.world.verification import FALSE_ACCEPT_RATE, Pairs
from seqlora.errors import BadInputError, StoredFileError

IMPOSTOR_PAIRS = round(1 / FALSE_ACCEPT_RATE)  # with fewer, a false-accept rate of 1e-3 is below one pair
DETECTION_SCORE = 0.5  # insightface's own default


class FaceJudge:
    """An insightface pack: its largest face stands for an image.

    Args:
        pack: folder of the pack's `.onnx` files.
        threshold: cosine above which two faces count as one person; None leaves the detection rate out.
        device: "cpu", or "cuda" (if onnxruntime has it).

    Raises:
        StoredFileError: the pack lacks a detector or a recogniser, or does not load.
    """

    def __init__(self, pack: str | Path, threshold: float | None = None, device: str = "cpu") -> None:
        from insightface.app import FaceAnalysis

        cuda = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        try:
            self.app: Any = FaceAnalysis(
                name=str(Path(pack).resolve()),
                allowed_modules=["detection", "recognition"],
                providers=[*cuda, "CPUExecutionProvider"],
            )
        except Exception as error:  # onnxruntime, protobuf, and a bare assertion where the detector is missing
            text = " ".join(str(error).split()) or "no face detector"
            raise StoredFileError(f"{pack} is no whole insightface pack ({text}); unzip it again") from error
        if "recognition" not in self.app.models:
            raise StoredFileError(f"{pack} has no recognition model; choose a pack that has one, buffalo_l for example")
        self.app.prepare(ctx_id=0 if cuda else -1, det_thresh=DETECTION_SCORE)
        self.threshold = threshold
        self._known: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}

    def at(self, threshold: float | None) -> FaceJudge:
        """The same judge with another threshold."""
        self.threshold = threshold
        return self

    def embed(self, images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Unit embeddings (n, d), zero where there is no face, and where one was found (n,).

        Args:
            images: (n, H, W, 3) uint8 RGB (insightface expects BGR).
        """
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self._known:  # references come again with every model
            faces = [self._largest(np.ascontiguousarray(image[..., ::-1])) for image in images]
            width = next((len(face) for face in faces if face is not None), 1)
            rows = [np.zeros(width) if face is None else face for face in faces]
            self._known[key] = np.stack(rows), np.array([face is not None for face in faces])
        return self._known[key]

    def _largest(self, image: Pixels) -> NDArray[np.float64] | None:
        faces = self.app.get(image)
        if not faces:
            return None
        face = max(faces, key=lambda f: float((f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1])))
        return np.asarray(face.normed_embedding, dtype=np.float64)

    def score(self, images: Pixels, references: Pixels) -> IdentityScores:
        """All pairs of generated faces and references with a face.

        Raises:
            BadInputError: no reference has a face.
        """
        known, usable = self.embed(references)
        if not usable.any():
            raise BadInputError("no reference photo has a face that insightface finds; use others, or no --identity")
        embedding, found = self.embed(images)
        mean = embedding @ known[usable].mean(axis=0) if found.any() else np.zeros(len(images))
        return scored(mean, found, self.threshold)


def load_encoder(path: str | Path, device: str = "cpu") -> Any:
    """Insightface's `ArcFaceONNX` from one file.

    Raises:
        StoredFileError: the file is no such model.
    """
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    try:
        check_image_encoder(path)
        encoder = ArcFaceONNX(model_file=str(path))
        encoder.prepare(ctx_id=0 if device.startswith("cuda") else -1)
    except Exception as error:  # protobuf, onnxruntime, a bare assertion on the number of outputs
        text = " ".join(str(error).split()) or "it has several outputs"
        raise StoredFileError(f"{path} is no ArcFace model in ONNX ({text}); restore it") from error
    return encoder


def calibrated(people: Sequence[NDArray[np.float64]]) -> tuple[float | None, int]:
    """The threshold that 1e-3 of the impostor pairs exceed (None if there are fewer than 1,000), and their number.

    Args:
        people: unit embeddings of each person's photos, (n_i, d); different entries are different people.
    """
    cosines = [
        (one @ other.T).ravel() for i, one in enumerate(people) for other in people[i + 1 :] if len(one) and len(other)
    ]
    impostors = np.concatenate([*cosines, np.empty(0)])
    if len(impostors) < IMPOSTOR_PAIRS:
        return None, len(impostors)
    return Pairs(np.empty(0), impostors).threshold(), len(impostors)
