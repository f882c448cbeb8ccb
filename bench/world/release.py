"""From trained weights in the cache to the files in `bench/world/weights`, tied to their recipe by a manifest."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.world import recipes
from bench.world.assets import CLASSIFIER, CLIP, IDENTITY, PIPELINE, WEIGHTS, FaceScore
from bench.world.autoencoder import LATENT_CHANNELS, build_autoencoder
from bench.world.check import held_out_portraits
from bench.world.classifier import AttributeClassifier
from bench.world.clip import build_clip, model_config, save_clip
from bench.world.data import DATA_VERSION, POOLS, load_pool
from bench.world.diffusion import TEXT_WIDTH, UNET_CHANNELS, build_pipeline
from bench.world.identities import sample_context
from bench.world.identity import IdentityEncoder
from bench.world.onnx_export import export_onnx
from bench.world.portraits import draw
from bench.world.splits import FILE as SPLITS
from bench.world.splits import identities
from bench.world.tokens import build_tokenizer
from bench.world.verification import FALSE_ACCEPT_RATE, load_encoder, portrait_pairs
from seqlora.files import read_json, sha256_of, write_json, write_tensors

LICENCE = "Apache-2.0"
DRAWINGS = "drawn with python-avatars (MIT), after Avataaars by Pablo Stanley (free for personal and commercial use)"
LIMIT = 25_000_000  # bytes of all weights together


def recipe() -> dict[str, Any]:
    """Everything that decides the weights but the code's revision: plans, shapes, data version, splits."""
    plans = (recipes.WORDS, recipes.DIFFUSION, recipes.DECODER, recipes.IDENTITY, recipes.CLASSIFIER, recipes.CLIP)
    return {
        "data_version": DATA_VERSION,
        "pools": {name: [spec.size, spec.entropy, spec.per_person] for name, spec in POOLS.items()},
        "splits": sha256_of(SPLITS),
        "plans": {plan.name: asdict(plan) for plan in plans},
        "batches": [recipes.WORDS_BATCH, recipes.DIFFUSION_BATCH, recipes.JUDGE_BATCH, recipes.CLIP_BATCH],
        "unet": list(UNET_CHANNELS),
        "text_width": TEXT_WIDTH,
        "latent_channels": LATENT_CHANNELS,
        "clip": model_config(build_tokenizer()),
    }


def recipe_hash() -> str:
    """SHA-256 of the recipe as canonical JSON."""
    return hashlib.sha256(json.dumps(recipe(), sort_keys=True).encode()).hexdigest()


def release(weights: Path = WEIGHTS) -> int:
    """Write all weights and the manifest; returns the bytes they take.

    Raises:
        StoredFileError: a training has left no weights yet.
    """
    model = recipes.load_text_to_image()
    autoencoder: Any = recipes.load_averaged("decoder", build_autoencoder())
    recipes.fit_pca(load_pool("held-out")).write_into(autoencoder)
    shutil.rmtree(weights / PIPELINE, ignore_errors=True)
    pipeline: Any = build_pipeline(model, autoencoder)
    pipeline.to(dtype=torch.float16).save_pretrained(weights / PIPELINE)

    save_clip(recipes.load_averaged("clip", build_clip(build_tokenizer())), build_tokenizer(), weights / CLIP)
    export_onnx(recipes.load_averaged("identity", IdentityEncoder()), weights / IDENTITY)
    judge = recipes.load_averaged("classifier", AttributeClassifier())
    half = {name: v.half() if v.is_floating_point() else v for name, v in judge.state_dict().items()}
    write_tensors(weights / CLASSIFIER, half)

    for path in weights.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    files = sorted(p for p in weights.rglob("*") if p.is_file() and p.name != "manifest.json")
    records = {str(p.relative_to(weights)): {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in files}
    write_json(weights / "manifest.json", {"files": records, **_provenance(), "calibration": calibrate(judge, weights)})
    return sum(path.stat().st_size for path in files)


def _provenance() -> dict[str, Any]:
    logs = {}
    for name in recipe()["plans"]:
        path = recipes.folder() / f"{name}.log.json"
        records = read_json(path) if path.is_file() else []
        logs[name] = records[:: max(1, len(records) // 10)] + records[-1:]
    return {
        "licence": LICENCE,
        "data": DRAWINGS,
        "data_version": DATA_VERSION,
        "recipe": recipe(),
        "recipe_sha256": recipe_hash(),
        "training_logs": logs,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def calibrate(judge: AttributeClassifier, weights: Path) -> dict[str, float]:
    """Thresholds from calibration identities: FAR 1e-3 for identity, 99 % of portraits found for faces."""
    rng = np.random.default_rng([DATA_VERSION, 21])
    people = identities("calibration")
    pairs = portrait_pairs(load_encoder(weights / IDENTITY), people, 6, rng)
    novel = np.stack([draw(person, sample_context(rng)) for person in people for _ in range(3)])
    common, _ = held_out_portraits(400, rng)
    scores = FaceScore(judge, 0.0).score(np.concatenate([novel, common]))
    return {
        "false_accept_rate": FALSE_ACCEPT_RATE,
        "identity_threshold": pairs.threshold(),
        "face_threshold": float(np.quantile(scores, 0.01)),
    }
