"""What a sequence of concepts looks like on disk: an index, one safetensors file a concept, one of past moments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqlora.config import SeqLoRAConfig
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import check_name, read_json, read_tensors, sha256_of, write_json, write_tensors
from seqlora.headers import tensor_shapes

SCHEMA = 1
INDEX = "sequence.json"
OUTPUTS = "outputs:"  # before the layer's name, for its output moment


@dataclass(frozen=True)
class Concept:
    """One finished concept.

    Attributes:
        name: its name, also its file name.
        factors: layer name -> (A (r, n), B (m, r)).
        extra: further tensors that were learnt with it (token embeddings).
        random_state: state of torch's generator when it was finished, so that a resumed script goes on alike.
    """

    name: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    random_state: Tensor | None = None


def write_concept(folder: Path, concept: Concept) -> dict[str, str]:
    """Store a concept; returns its entry in the index."""
    check_name(concept.name, "concept")
    tensors: dict[str, Tensor] = {f"extra:{name}": value for name, value in concept.extra.items()}
    for layer, (A, B) in concept.factors.items():
        tensors[f"A:{layer}"], tensors[f"B:{layer}"] = A, B
    if concept.random_state is not None:
        tensors["random_state"] = concept.random_state
    path = folder / "concepts" / f"{concept.name}.safetensors"
    write_tensors(path, tensors)
    return {"name": concept.name, "sha256": sha256_of(path)}


def read_concept(folder: Path, entry: Mapping[str, str], shapes: Mapping[str, tuple[int, int]]) -> Concept:
    """Read a concept back and check that it is the file of the index and fits the model.

    Args:
        folder: the sequence's folder.
        entry: its entry in the index.
        shapes: layer name -> (m, n) of the model.

    Raises:
        StoredFileError: another file than the index names, or shapes that do not fit.
    """
    name = check_name(entry["name"], "concept")
    path = folder / "concepts" / f"{name}.safetensors"
    found = tensor_shapes(path)
    if sha256_of(path) != entry["sha256"]:
        raise StoredFileError(f"{path} is not the file that {INDEX} names (sha256 differs); restore it")
    layers = {key[2:] for key in found if key.startswith("A:")}
    if layers != set(shapes):
        odd = sorted(layers ^ set(shapes))[0]
        raise StoredFileError(f"{path}: its layers are not those of this model (e.g. {odd}); load it on its own base")
    for layer, (m, n) in shapes.items():
        A, B = found[f"A:{layer}"], found.get(f"B:{layer}", ())
        if len(A) != 2 or len(B) != 2 or (B[0], A[1]) != (m, n) or A[0] != B[1]:
            raise StoredFileError(f"{path}: {layer} has factors {A}, {B} for a weight {m, n}; load it on its own base")
    tensors = read_tensors(path)
    factors = {layer: (tensors[f"A:{layer}"], tensors[f"B:{layer}"]) for layer in sorted(layers)}
    extra = {key[6:]: value for key, value in tensors.items() if key.startswith("extra:")}
    return Concept(name, factors, extra, tensors.get("random_state"))


def write_index(
    folder: Path, config: Mapping[str, Any], entries: list[dict[str, str]], moments: dict[str, Any]
) -> None:
    """Store the index last: until then the folder is the old sequence, after it the new one."""
    write_json(folder / INDEX, {"schema": SCHEMA, "config": config, "concepts": entries, "moments": moments})


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index.

    Raises:
        StoredFileError: missing, damaged, or written by another schema version.
    """
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        raise StoredFileError(f"{folder / INDEX} is not of schema {SCHEMA}; read it with the version that wrote it")
    missing = {"config", "concepts", "moments"} - set(index)
    if missing:
        raise StoredFileError(f"{folder / INDEX} lacks {sorted(missing)[0]!r}; restore it")
    config, concepts, moments = index["config"], index["concepts"], index["moments"]
    if not isinstance(config, dict) or not isinstance(concepts, list) or not isinstance(moments, dict):
        raise StoredFileError(f"{folder / INDEX} has a field of the wrong type; restore it")
    for entry in concepts:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "sha256")):
            raise StoredFileError(f"{folder / INDEX} has a concept without name or sha256; restore it")
    if type(moments.get("remembered")) is not int or not isinstance(moments.get("file"), str):
        raise StoredFileError(f"{folder / INDEX} does not say which moments belong to it; restore it")
    return index


def check_config(path: Path, stored: Mapping[str, Any], config: SeqLoRAConfig) -> None:
    """Refuse to go on with another configuration than the stored one, naming the first field that differs."""
    ours = json.loads(json.dumps(config.to_json()))
    for key, value in ours.items():
        if stored.get(key) != value:
            raise BadInputError(f"{path} was made with {key}={stored.get(key)!r}, not {value!r}; use another folder")


def write_moments(path: Path, factors: Mapping[str, Tensor], output_moments: Mapping[str, Tensor]) -> None:
    """Store what a penalty remembers, see `Past`."""
    write_tensors(path, {**factors, **{OUTPUTS + layer: G for layer, G in output_moments.items()}})


def read_moments(
    folder: Path, name: str, shapes: Mapping[str, tuple[int, int]], with_outputs: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Factors of the past moments, shape (l, n) for every layer of `shapes`, and their output moments, (m, m).

    Args:
        folder: the sequence's folder.
        name: of the file.
        shapes: layer name -> (m, n) of the model.
        with_outputs: whether output moments belong to it; else there are none.

    Raises:
        StoredFileError: damaged, or of another model.
    """
    path = folder / check_name(name, "moments file")
    found = tensor_shapes(path)
    outputs = {key: found.pop(key) for key in list(found) if key.startswith(OUTPUTS)}
    expected = {OUTPUTS + key: (m, m) for key, (m, _) in shapes.items()} if with_outputs else {}
    widths = {key: shape[1] if len(shape) == 2 else None for key, shape in found.items()}
    if widths != {key: n for key, (_, n) in shapes.items()} or outputs != expected:
        raise StoredFileError(f"{path}: its layers are not those of this model; load it on its own base")
    tensors = read_tensors(path)
    return {key: tensors[key] for key in found}, {key.removeprefix(OUTPUTS): tensors[key] for key in outputs}


def write_checkpoint(
    path: Path, setting: Mapping[str, Any], tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    """Store the state of a concept in the making: the optimiser's, and that of torch's generator."""
    text = json.dumps({**scalars, "setting": setting})
    packed = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    write_tensors(path, {**tensors, "random_state": torch.get_rng_state(), "scalars": packed})


def read_checkpoint(
    path: Path, config: SeqLoRAConfig, setting: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The optimiser's state; puts torch's generator back to where it was.

    None if other concepts were learnt since: the state would not be orthogonal to them, so the concept starts anew.

    Raises:
        BadInputError: written under another configuration.
        StoredFileError: damaged.
    """
    tensors = read_tensors(path)
    try:
        scalars = json.loads(bytes(tensors.pop("scalars").tolist()))
        stored, random_state = scalars.pop("setting"), tensors.pop("random_state")
        check_config(path, stored["config"], config)
        if stored["past"] != setting["past"]:
            return None
        torch.set_rng_state(random_state)
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, RuntimeError) as error:
        raise no_checkpoint(path, error) from error
    return tensors, scalars


def no_checkpoint(path: Path, error: Exception) -> StoredFileError:
    """What to raise where a checkpoint does not hold the optimiser's state."""
    return StoredFileError(f"{path} is no checkpoint ({error}); delete it to start the concept anew")
