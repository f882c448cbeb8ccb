"""The sheet of images that a cell leaves: one row a concept, a reference first, then one image after each stage."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.schema import CellRecord

Pixels = NDArray[np.uint8]
ARTIFACT = "gallery"
GAP = 2  # white pixels between images, as `bench.world.sampling.grid` leaves them
QUALITY = 90
SIDE = 128  # larger images are scaled down to this many pixels


def cut(path: Path, concepts: int) -> Pixels | None:
    """The images of a sheet, shape (T, T + 1, H, W, 3); None if it is not laid out for that many concepts.

    Raises:
        OSError: no image that Pillow reads.
    """
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB"))
    rows, columns = concepts, concepts + 1
    height, spare = divmod(sheet.shape[0] + GAP, rows)
    width, more = divmod(sheet.shape[1] + GAP, columns)
    if spare or more or min(height, width) <= GAP:
        return None
    padded = np.pad(sheet, ((0, GAP), (0, GAP), (0, 0)))
    tiles = padded.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    return tiles[:, :, : height - GAP, : width - GAP]


def encode(image: Pixels) -> str:
    """A small image as base64 of WebP: the same text for the same pixels."""
    small = Image.fromarray(image)
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=6)
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> Pixels:
    """The inverse of `encode`, up to what WebP loses."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))


def scores(record: CellRecord) -> Mapping[tuple[int, int], float]:
    """Identity of the very images on the sheet, by concept and stage: those of the first prompt."""
    return {
        (value.concept, value.stage): value.value
        for value in record.values
        if value.metric == "identity" and value.item == "prompt 0" and value.value is not None
        and value.concept is not None and value.stage is not None
    }  # fmt: skip
