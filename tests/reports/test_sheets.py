"""Sheets of images: cut where `bench` laid them out, refused where they are laid out otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.world.sampling import grid
from reports import sheets


@pytest.mark.parametrize(("concepts", "height", "width"), [(1, 8, 8), (3, 8, 5), (4, 64, 64)])
def test_cut_is_the_inverse_of_laying_out(concepts: int, height: int, width: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (concepts, concepts + 1, height, width, 3), dtype=np.uint8)
    Image.fromarray(grid(images.reshape(-1, height, width, 3), concepts + 1)).save(tmp_path / "sheet.png")
    np.testing.assert_array_equal(sheets.cut(tmp_path / "sheet.png", concepts), images)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (101, 77)).save(tmp_path / "other.png")
    assert sheets.cut(tmp_path / "other.png", 4) is None
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert sheets.cut(tmp_path / "dot.png", 1) is None


def test_encoding_keeps_the_picture_and_its_bytes() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 64, 3))
    text = sheets.encode(ramp)
    assert sheets.encode(ramp) == text
    assert np.abs(sheets.decode(text).astype(int) - ramp).max() < 12
    assert max(sheets.decode(sheets.encode(np.zeros((600, 300, 3), np.uint8))).shape) == sheets.SIDE
