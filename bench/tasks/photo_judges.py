"""Who judges photographs: the models that the user names, identity's threshold, and what is left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.api import Scalar
from bench.metrics.clip import ClipJudge
from bench.metrics.dino import DinoJudge
from bench.metrics.faces import IMPOSTOR_PAIRS, FaceJudge, calibrated, load_encoder
from bench.metrics.identity import IdentityJudge
from bench.models import Models
from bench.personalise.folders import ConceptSource
from bench.personalise.images import ConceptImages
from bench.tasks.images import Judges
from seqlora.errors import BadInputError, StoredFileError


@lru_cache(maxsize=1)
def load_judges(
    models: Models, sources: tuple[ConceptSource, ...], size: int, held_out: float
) -> tuple[Judges, dict[str, Scalar]]:
    """Who judges, and what to say about it beside the results.

    Args:
        models: names the judges; those it does not name leave their metrics out.
        sources: all concepts; identity's threshold is calibrated on their photos.
        size: of images in pixels.
        held_out: share of photos that are references.
    """
    notes: dict[str, Scalar] = {"clip": models.clip or None, "dino": models.dino or None}
    identity, more = _identity(models, sources, size, held_out)
    dino = models.dino_folder
    judges = Judges(identity, _clip(models), None, DinoJudge(dino, models.device) if dino else None)
    return judges, notes | more


def _clip(models: Models) -> ClipJudge | None:
    folder = models.clip_folder
    if folder is None:
        return None
    try:
        return ClipJudge(f"local-dir:{folder}", device=models.device)
    except Exception as error:  # open_clip, transformers and safetensors each raise what they like
        text = " ".join(str(error).split())[:300]
        raise StoredFileError(f"--clip {folder} does not load as an open_clip model ({text}); restore it") from error


def _identity(
    models: Models, sources: tuple[ConceptSource, ...], size: int, held_out: float
) -> tuple[FaceJudge | IdentityJudge | None, dict[str, Scalar]]:
    path = models.identity_path
    if path is None:
        return None, {"identity": None}
    judge: FaceJudge | IdentityJudge
    judge = FaceJudge(path, None, models.device) if path.is_dir() else IdentityJudge(load_encoder(path), None, None)
    notes: dict[str, Scalar] = {"identity": models.identity}
    threshold = models.threshold
    if threshold is None:
        threshold, pairs = calibrated([_embeddings(judge, source.load(size, held_out)) for source in sources])
        notes["impostor_pairs"] = pairs
        if threshold is None:
            notes["detection"] = f"left out: {pairs} impostor pairs, {IMPOSTOR_PAIRS} needed, or give --threshold"
    return judge.at(threshold), {**notes, "identity_threshold": threshold}


def _embeddings(judge: FaceJudge | IdentityJudge, person: ConceptImages) -> NDArray[np.float64]:
    """Unit embeddings of all photos of a person that show a face."""
    images = np.concatenate([person.training, person.references])
    if isinstance(judge, IdentityJudge):
        return judge.embed(images)
    embedding, found = judge.embed(images)
    return embedding[found]


def faceless(judges: Judges, concepts: Sequence[ConceptImages]) -> dict[str, Scalar]:
    """How many references count for nothing because no face is found in them.

    Raises:
        BadInputError: all references of a concept.
    """
    if not isinstance(judges.identity, FaceJudge):
        return {}
    missing = 0
    for concept in concepts:
        found = judges.identity.embed(concept.references)[1]
        if not found.any():
            raise BadInputError(
                f"concept {concept.name!r}: no face is found in its {len(found)} held-out photos; name others in "
                "a subfolder `references`, or leave --identity out"
            )
        missing += int((~found).sum())
    return {"references_without_face": missing}
