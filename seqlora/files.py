"""Files that are either there whole or not at all, and that are checked before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seqlora.errors import BadInputError, DamagedFileError, StoredFileError, UnwritableError
from seqlora.headers import tensor_shapes

MAX_JSON = 1 << 30  # bytes; the largest record that we write takes a few megabytes


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` when the block ends well.

    A crash, a full disk or an exception leaves the old file as it was and no temporary file behind
    (a killed process may leave one, named `.<name>.*.tmp`, which nothing reads: see `remove_leftovers`).

    Raises:
        UnwritableError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if "\0" in str(path):
            raise OSError("its name holds a NUL character")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def unwritable(path: str | Path, error: OSError) -> UnwritableError:
    """What to raise where the operating system refuses a write."""
    return UnwritableError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder")


def remove_leftovers(folder: str | Path, name: str = "*") -> None:
    """Remove what killed writers of `folder/name` left behind; call it only under the lock that its writers hold.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    for path in Path(folder).glob(f".{name}.*.tmp"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, atomically; NaN and infinity are refused (they are no JSON)."""
    try:
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise BadInputError(f"cannot store {path}: {error}") from error
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DamagedFileError: what is in it is not JSON, or more than `MAX_JSON` bytes.
        StoredFileError: the file is missing or the operating system refuses to read it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON:
            raise DamagedFileError(f"{path} has more than {MAX_JSON} bytes of JSON; delete it or restore it")
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoredFileError(f"{path} does not exist; check the folder") from error
    except OSError as error:
        raise StoredFileError(f"cannot read {path}: {error.strerror or error}; check the folder") from error
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and a million opening brackets
        raise DamagedFileError(f"{path} is not readable JSON ({error}); delete it or restore it") from error


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically; shared or strided storage is copied first."""
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(whole, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error


def read_tensors(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file whole, after its header, size and shapes have been checked.

    Args:
        path: the file.
        shapes: shapes of tensors that must be in it, where they are known.

    Raises:
        StoredFileError: the file is missing, truncated or no safetensors file, or holds other shapes.
    """
    found = tensor_shapes(path)
    for name, shape in (shapes or {}).items():
        if found.get(name) != tuple(shape):
            has = f"{name} of shape {found[name]}, not {tuple(shape)}" if name in found else f"no tensor {name}"
            raise StoredFileError(f"{path} has {has}; restore the file that belongs to this model")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise StoredFileError(f"{path} is not a whole safetensors file ({error}); restore or delete it") from error


def check_name(name: str, what: str) -> str:
    """Return `name` if it can safely be a file name: letters, digits, `-`, `_`, `.`, not starting with a dot.

    Raises:
        BadInputError: anything else (path separators, control characters, an empty or overlong name).
    """
    allowed = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not allowed or name.startswith(".") or len(name) > 100:
        raise BadInputError(f"{what} {name!r} cannot be a file name; use up to 100 letters, digits, '-', '_' or '.'")
    return name
