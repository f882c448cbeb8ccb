"""What a safetensors file says of itself, checked against its size before a byte of it is believed.

The layout is: 8 bytes n (little endian), n bytes of JSON, the tensors. Every tensor's bytes must follow from its type
and shape, the tensors must fill the rest of the file without gap or overlap: a truncated file, a header that claims
what is not there, or hidden bytes cannot pass, and nothing larger than the file is ever allocated.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from seqlora.errors import StoredFileError

MAX_HEADER = 100_000_000  # bytes; the format's own limit
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}

Shape = tuple[int, ...]


def tensor_shapes(path: str | Path) -> dict[str, Shape]:
    """Name -> shape of every tensor of a safetensors file; O(header), whatever the size of the tensors.

    Raises:
        StoredFileError: the file is missing, unreadable, truncated, or its header and its size disagree.
    """
    try:
        return _checked(Path(path))
    except FileNotFoundError as error:
        raise StoredFileError(f"{path} does not exist; check the folder") from error
    except OSError as error:
        raise StoredFileError(f"cannot read {path}: {error.strerror or error}; check the folder") from error
    except (ValueError, RecursionError) as error:  # JSON that is none is a ValueError, too
        raise StoredFileError(f"{path} is not a whole safetensors file ({error}); restore or delete it") from error


def check_folder(folder: str | Path) -> None:
    """Check every safetensors file below a model folder, before a library opens them.

    Raises:
        StoredFileError: see `tensor_shapes`.
    """
    for path in sorted(Path(folder).rglob("*.safetensors")):
        tensor_shapes(path)


def _checked(path: Path) -> dict[str, Shape]:
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 8:
            raise ValueError(f"{size} bytes are too few for a header")
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        header = json.loads(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    entries = [(name, *_entry(name, value)) for name, value in header.items()]
    end = 0
    for name, _, start, stop in sorted(entries, key=lambda entry: entry[2:]):
        if start != end:
            raise ValueError(f"tensor {name!r} starts at byte {start}, the one before it ends at {end}")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"its tensors take {end} bytes, the file holds {size - 8 - length}")
    return {name: shape for name, shape, _, _ in entries}


def _entry(name: str, value: Any) -> tuple[Shape, int, int]:
    """Shape, first byte and end of one tensor; their consistency is part of reading them."""
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(field) for field in ("dtype", "shape", "data_offsets"))
    if dtype not in BITS or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name[:80]!r} has no type, shape and place that can be read")
    start, stop = offsets
    # bytes = product of the shape times bits / 8
    if 8 * (stop - start) != prod(shape) * BITS[dtype]:
        raise ValueError(f"tensor {name[:80]!r} of type {dtype} and shape {shape} cannot take {stop - start} bytes")
    return tuple(shape), start, stop


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
