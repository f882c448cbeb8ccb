"""Two people side by side on a wide image: the layout is known, so regions need no detector."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.world.captions import keep_some, scene_caption
from bench.world.identities import Context, Identity
from bench.world.portraits import SIZE, background, compose, crop, draw_figure

WIDTH = 2 * SIZE

# Regions as fractions (top, left, bottom, right) of the image, as regional sampling takes them.
BOXES: dict[str, tuple[float, float, float, float]] = {"left": (0.0, 0.0, 1.0, 0.5), "right": (0.0, 0.5, 1.0, 1.0)}


@dataclass(frozen=True)
class Scene:
    """Who stands where; both share the wall of the left context."""

    left: Identity
    right: Identity
    left_context: Context
    right_context: Context


def join(figures: list[np.ndarray], color: str, pattern: str) -> np.ndarray:
    """Lay two cropped figures (64, 64, 4) side by side over one wall: (64, 128, 3) uint8."""
    return compose(np.concatenate(figures, axis=1), background(color, pattern, WIDTH))


def draw_scene(scene: Scene) -> np.ndarray:
    """Draw a scene: (64, 128, 3) uint8 RGB, deterministic."""
    sides = ((scene.left, scene.left_context), (scene.right, scene.right_context))
    figures = [crop(draw_figure(person, context), context.shift) for person, context in sides]
    return join(figures, scene.left_context.background, scene.left_context.pattern)


def same_wall(left: Context, right: Context) -> Context:
    """The right context moved in front of the left one's wall."""
    return replace(right, background=left.background, pattern=left.pattern)


def cut(image: np.ndarray, side: str) -> np.ndarray:
    """The part of a (..., H, W, 3) image that belongs to one side."""
    height, width = image.shape[-3:-1]
    top, left, bottom, right = BOXES[side]
    return image[..., round(top * height) : round(bottom * height), round(left * width) : round(right * width), :]


_EXTRA = ("facial_hair", "mouth")
SCENE_FIELDS: tuple[str, ...] = ("hair", "hair_color", *_EXTRA)  # what scene captions say about each person


def choose_scene(
    left: dict[str, str], right: dict[str, str], wall: dict[str, str], rng: np.random.Generator
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """What a training caption of a scene mentions: hair and at most one more word a side, to fit 32 tokens."""

    def side(shown: dict[str, str]) -> dict[str, str]:
        kept = keep_some({name: shown[name] for name in ("hair", "hair_color") if name in shown}, rng)
        extra = _EXTRA[rng.integers(len(_EXTRA))]
        return {**kept, extra: shown[extra]} if rng.random() < 0.5 else kept

    return side(left), side(right), keep_some(wall, rng)


def short_scene_caption(
    left: dict[str, str], right: dict[str, str], wall: dict[str, str], rng: np.random.Generator
) -> str:
    """A training caption of a scene, see `choose_scene`."""
    return scene_caption(*choose_scene(left, right, wall, rng))
