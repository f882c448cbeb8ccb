"""The quality floor of the embedded world, measured on data that no training has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.table import Table

from bench.world import assets
from bench.world.attributes import VALUES
from bench.world.autoencoder import psnr, to_images, to_tensor
from bench.world.captions import caption
from bench.world.classifier import NEGATIVES, AttributeClassifier, not_faces
from bench.world.clip import zero_shot
from bench.world.data import labels
from bench.world.identities import sample_base_identity, sample_context, visible_attributes
from bench.world.portraits import draw
from bench.world.sampling import sample
from bench.world.splits import identities
from bench.world.verification import load_encoder, portrait_pairs

STRICT = ("background", "hair_color", "skin", "clothing_color")  # floor .9; the other attributes .7
REAL = 400  # held-out portraits
GENERATED = 192  # generated images
ENTROPY = 7001  # of everything the check draws; no training uses it


@dataclass(frozen=True)
class Line:
    """One measured quantity and the floor it must reach."""

    what: str
    judge: str
    value: float
    floor: float
    count: int

    @property
    def passed(self) -> bool:
        """Whether the floor is reached."""
        return self.value >= self.floor


def floor_of(attribute: str) -> float:
    """Least accuracy that an attribute must be drawn and recognised with."""
    return 0.9 if attribute in STRICT else 0.7


class ClipJudge:
    """Zero-shot attribute recognition by the released CLIP model, loaded as any open_clip model is."""

    def __init__(self, folder: str) -> None:
        name = f"local-dir:{folder}"
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(name)

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Class numbers per attribute of (n, 64, 64, 3) uint8 images."""
        pixels = torch.stack([self.preprocess(Image.fromarray(image)) for image in images])
        return {name: zero_shot(self.model, self.tokenize, pixels, name) for name in VALUES}


def accuracies(predicted: dict[str, np.ndarray], target: np.ndarray) -> dict[str, tuple[float, int]]:
    """Share of right class numbers per attribute, over images on which it can be seen, and their count."""
    found = {}
    for column, name in enumerate(VALUES):
        seen = target[:, column] >= 0
        found[name] = float((predicted[name][seen] == target[seen, column]).mean()), int(seen.sum())
    return found


def held_out_portraits(count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Fresh portraits of base identities and what they show."""
    drawn = [(sample_base_identity(rng), sample_context(rng)) for _ in range(count)]
    return np.stack([draw(*pair) for pair in drawn]), [visible_attributes(*pair) for pair in drawn]


def generated_portraits(count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Images drawn by the released pipeline from full captions, and what those captions ask for."""
    folder = assets.pipeline_folder()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    wanted = [visible_attributes(sample_base_identity(rng), sample_context(rng)) for _ in range(count)]
    return sample(pipeline, [caption(shown) for shown in wanted], rng), wanted


def attribute_lines(images: np.ndarray, shown: list[dict[str, str]], what: str, judges: dict[str, Any]) -> list[Line]:
    """Accuracy of every attribute for every judge."""
    target = labels(shown)
    return [
        Line(f"{what}: {name}", judge, value, floor_of(name), n)
        for judge, model in judges.items()
        for name, (value, n) in accuracies(model.predict(images), target).items()
    ]


def identity_lines(rng: np.random.Generator) -> list[Line]:
    """True-accept rate on evaluation identities, at the threshold set on calibration identities and at their own."""
    encoder = load_encoder(assets.identity_model())
    pairs = portrait_pairs(encoder, identities("evaluation"), 6, rng)
    own = pairs.true_accept_rate(pairs.threshold())
    fixed = assets.identity_threshold()
    accepted = float((pairs.impostor > fixed).mean())
    return [
        Line("identity: TAR at FAR 1e-3", "encoder", own, 0.95, len(pairs.genuine)),
        Line("identity: TAR, stored threshold", "encoder", pairs.true_accept_rate(fixed), 0.90, len(pairs.genuine)),
        Line("identity: 1 - FAR, stored threshold", "encoder", 1 - accepted, 0.997, len(pairs.impostor)),
    ]


def face_lines(portraits: np.ndarray, generated: np.ndarray, rng: np.random.Generator) -> list[Line]:
    """Faces found among portraits and generated images, and rejected among images without one."""
    detector = assets.face_score()
    lines = [
        Line("face found", "portraits", float(detector.found(portraits).mean()), 0.97, len(portraits)),
        Line("face found", "generated", float(detector.found(generated).mean()), 0.95, len(generated)),
    ]
    for kind in NEGATIVES:
        images = not_faces(kind, portraits[:100], rng)
        lines.append(Line("no face found", kind, float(1 - detector.found(images).mean()), 0.95, len(images)))
    return lines


@torch.no_grad()
def autoencoder_line(portraits: np.ndarray) -> Line:
    """Reconstruction of portraits by the pipeline's autoencoder."""
    folder = assets.pipeline_folder()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    decoded = pipeline.vae.decode(pipeline.vae.encode(to_tensor(portraits)).latents).sample
    return Line("autoencoder: PSNR, dB", "portraits", psnr(to_images(decoded), portraits), 28.0, len(portraits))


def measure(generated: int = GENERATED) -> list[Line]:
    """Measure every line of the quality floor."""
    rng = np.random.default_rng(ENTROPY)
    judges: dict[str, ClipJudge | AttributeClassifier] = {
        "CLIP": ClipJudge(str(assets.clip_folder())),
        "classifier": assets.classifier(),
    }
    portraits, shown = held_out_portraits(REAL, rng)
    images, wanted = generated_portraits(generated, rng)
    return [
        *attribute_lines(images, wanted, "generated", judges),
        *attribute_lines(portraits, shown, "portraits", judges),
        *identity_lines(rng),
        *face_lines(portraits, images, rng),
        autoencoder_line(portraits[:128]),
    ]


def table(lines: list[Line]) -> Table:
    """The quality floor as a rich table."""
    result = Table(title="Quality floor of the embedded world")
    for column in ("measured", "judge", "value", "floor", "n", ""):
        result.add_column(column, justify="right" if column in ("value", "floor", "n") else "left")
    for line in lines:
        mark = "ok" if line.passed else "BELOW"
        result.add_row(line.what, line.judge, f"{line.value:.3f}", f"{line.floor:.3f}", str(line.count), mark)
    return result


def as_markdown(lines: list[Line]) -> str:
    """The same table in Markdown, for the README."""
    rows = [
        f"| {x.what} | {x.judge} | {x.value:.3f} | {x.floor:.3f} | {x.count} | {'ok' if x.passed else 'below'} |"
        for x in lines
    ]
    return "\n".join(["| measured | judge | value | floor | n | |", "|---|---|---|---|---|---|", *rows])
