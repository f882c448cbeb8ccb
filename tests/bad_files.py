"""Malformed files, each made on purpose: what `test_bad_input.py` feeds to the programs."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


def image(path: Path, size: int = 8) -> Path:
    """A sound PNG or JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3)
    Image.fromarray(pixels).save(path)
    return path


def concept(folder: Path, *damaged: tuple[str, bytes]) -> Path:
    """A folder with two sound images and whatever else is given."""
    for name in ("1.png", "2.png"):
        image(folder / name)
    for name, content in damaged:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 8, height: int = 8, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels whose header and further chunks say whatever is wanted; its pixels are those of 8 x 8."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(bytes(9) * 8)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def bomb(kind: bytes) -> bytes:
    """A PNG of a few kilobytes with a compressed chunk of 80 MB of zeros."""
    packed = zlib.compress(bytes(80 << 20), 9)
    before = {b"zTXt": b"comment\0\0", b"iCCP": b"profile\0\0", b"iTXt": b"comment\0\1\0\0\0"}[kind]
    return png(8, 8, (kind, before + packed))


def tensors(header: Any, data: bytes = bytes(16), claimed: int | None = None) -> bytes:
    """A safetensors file with any header, and any claim of how long that header is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def entry(shape: list[int], start: int = 0, stop: int = 16, dtype: str = "F32") -> Mapping[str, Any]:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def network(
    path: Path,
    shape: tuple[Any, ...] = ("n", 3, 8, 8),
    outputs: int = 1,
    operator: str = "Flatten",
    outside: bool = False,
) -> Path:
    """An ONNX file that flattens images, or something that is no encoder of images."""
    names = [f"embedding{k}" for k in range(outputs)]
    weight = numpy_helper.from_array(np.zeros((2, 2), np.float32), "weight")
    if outside:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="../../etc/passwd")
    graph = helper.make_graph(
        [helper.make_node(operator, ["pixels"], [name]) for name in names],
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "d"]) for name in names],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def world(folder: Path, **files: bytes) -> Path:
    """A folder of released weights whose manifest names one file, and that holds `files`."""
    folder.mkdir()
    record = {"sha256": "0" * 64, "bytes": 4}
    (folder / "manifest.json").write_text(json.dumps({"files": {"identity.onnx": record}}))
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder
