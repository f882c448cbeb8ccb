"""A portrait as pixels: the figure is drawn as vectors, rasterised with transparency, and laid over a background.

The figure is kept on a 72 x 72 canvas and cropped to 64 x 64 where it is used, so that one drawing serves many shifts
and backgrounds.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import python_avatars
import resvg_py
from PIL import Image

from bench.world import attributes
from bench.world.identities import Context, Identity

SIZE = 64  # pixels of a portrait
CANVAS = 72  # pixels of a figure's canvas
MARGIN = (CANVAS - SIZE) // 2  # largest shift, pixels
_UNITS = 226.0  # side of the part of the drawing (264 x 280 units) that the 64 pixels show
_CENTRE = (132.0, 124.0)  # its centre, in units: the face is large, the shoulders are just visible
_LIGHTER = 0.5  # how far the colour of stripes and dots is on the way to white


def draw_figure(identity: Identity, context: Context) -> np.ndarray:
    """Rasterise the figure alone.

    Args:
        identity: who is drawn.
        context: clothes, mood and scale; background and shift play no part here.

    Returns:
        (72, 72, 4) uint8, red, green, blue (not premultiplied) and opacity.
    """
    parts = python_avatars
    hair = {**attributes.HAIR, **attributes.HELD_OUT_HAIR}[identity.hair]
    color = attributes.HAIR_COLOR[identity.hair_color]
    svg = parts.Avatar(
        style=parts.AvatarStyle.TRANSPARENT,
        background_color="#FFFFFF",
        top=parts.HairType[hair],
        hair_color=color,
        facial_hair=parts.FacialHairType[attributes.FACIAL_HAIR[identity.facial_hair]],
        facial_hair_color=color,
        skin_color=attributes.SKIN[identity.skin],
        accessory=parts.AccessoryType[attributes.ACCESSORY[identity.accessory]],
        clothing=parts.ClothingType[attributes.CLOTHING[context.clothing]],
        clothing_color=attributes.CLOTHING_COLOR[context.clothing_color],
        eyes=parts.EyeType[attributes.EYES[context.eyes]],
        eyebrows=parts.EyebrowType.DEFAULT,
        mouth=parts.MouthType[attributes.MOUTH[context.mouth]],
        nose=parts.NoseType.DEFAULT,
    ).render()
    # One pixel covers _UNITS / (SIZE * scale) units; the canvas is CANVAS pixels wide, around the same centre.
    side = _UNITS * CANVAS / (SIZE * context.scale)
    box = f'viewBox="{_CENTRE[0] - side / 2:.3f} {_CENTRE[1] - side / 2:.3f} {side:.3f} {side:.3f}"'
    frame = f'width="{CANVAS}px" height="{CANVAS}px" {box}'
    svg = svg.replace('width="264px" height="280px" viewBox="0 0 264 280"', frame, 1)
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)


@cache
def _pattern_mask(pattern: str, width: int) -> np.ndarray:
    """(64, width, 1) share of the lighter tone: vertical stripes or dots, 8 pixels apart, with soft edges."""
    y, x = np.mgrid[0:SIZE, 0:width].astype(np.float32)
    if pattern == "striped":
        mask = (np.floor(x / 4) % 2).astype(np.float32)
    elif pattern == "dotted":
        distance = np.hypot((x - 3.5 + 4) % 8 - 4, (y - 3.5 + 4) % 8 - 4)
        mask = np.clip(3.0 - distance, 0.0, 1.0)
    else:
        mask = np.zeros_like(x)
    return mask[..., None]


@cache
def background(color: str, pattern: str, width: int = SIZE) -> np.ndarray:
    """(64, width, 3) float32 in [0, 255]: a plain, striped or dotted wall."""
    tone = _rgb(attributes.BACKGROUND[color])
    # White walls get darker marks instead, as lighter ones would not be seen.
    other = tone * 0.75 if color == "white" else tone + (255.0 - tone) * _LIGHTER
    mask = _pattern_mask(pattern, width)
    wall = (1.0 - mask) * tone + mask * other
    wall.setflags(write=False)
    return wall


def crop(figure: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """Cut (..., 64, 64, 4) out of a (..., 72, 72, 4) canvas so that the figure moves by (right, down) pixels."""
    left, top = MARGIN - shift[0], MARGIN - shift[1]
    return figure[..., top : top + SIZE, left : left + SIZE, :]


def compose(figure: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """Lay a cropped figure over a wall: a F + (1 - a) W, rounded to uint8."""
    opacity = figure[..., 3:].astype(np.float32) / 255.0
    return np.rint(opacity * figure[..., :3] + (1.0 - opacity) * wall).astype(np.uint8)


def draw(identity: Identity, context: Context) -> np.ndarray:
    """Draw one portrait.

    Returns:
        (64, 64, 3) uint8 RGB; the same arguments always give the same pixels.
    """
    figure = crop(draw_figure(identity, context), context.shift)
    return compose(figure, background(context.background, context.pattern))
