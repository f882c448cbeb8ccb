"""A concept of a stored training as files for plain diffusers: `python -m bench export RESULTS CONCEPT FOLDER`.

What is written is the concept's own LoRA and token, see `bench.personalise.export`; `examples/plain_diffusers.py` draws
with them. Concepts that were learnt one after another add up: load several, and the sum is the merged model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.personalise.export import export_concept
from bench.personalise.learner import TOKEN
from bench.personalise.shared import Learnt
from bench.schema import CellRecord
from bench.store import Store
from seqlora.errors import BadInputError
from seqlora.files import check_name, read_json, read_tensors


def export_command(
    source: Annotated[Path, typer.Argument(help="A store (results/bench), or one folder of its shared/trainings.")],
    concept: Annotated[str, typer.Argument(help="Name of the concept.")],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    method: Annotated[str, typer.Option(help="Whose training, if the store holds several.")] = "",
    task: Annotated[str, typer.Option(help="Of which task, if the store holds several.")] = "",
) -> None:
    """Write a learnt concept as a LoRA and a token that plain diffusers loads."""
    check_name(concept, "concept")
    training = find_training(Store(source), concept, method, task) if (source / "cells").is_dir() else source
    print(export_concept(read_concept(training, concept), folder))


def find_training(store: Store, concept: str, method: str = "", task: str = "") -> Path:
    """The folder of the only training that fits.

    Raises:
        BadInputError: none does, or several do; the message names them.
    """
    found: dict[str, str] = {}
    for record in store.all_records():
        fits = record.cell.method.startswith(method) and record.cell.task.startswith(task)
        if record.status == "done" and concept in record.concepts and "training" in record.artifacts and fits:
            found.setdefault(str(read_json(store.folder / record.artifacts["training"])), _described(record))
    if not found:
        raise BadInputError(f"{store.folder} holds no finished image cell with concept {concept!r}; run one first")
    if len(found) > 1:
        several = "; ".join(f"{described}: shared/trainings/{name}" for name, described in found.items())
        raise BadInputError(
            f"several trainings of {concept!r}: name one by --method and --task, or its folder: {several}"
        )
    return store.shared / "trainings" / check_name(next(iter(found)), "training")


def read_concept(training: Path, name: str) -> Learnt:
    """One concept of a training, without its moments.

    Raises:
        BadInputError: the training holds no such concept.
    """
    path = training / "concepts" / f"{name}.safetensors"
    alone = training / f"{name}.safetensors"  # a token without a LoRA
    if not path.is_file() and not alone.is_file():
        known = sorted(p.stem for p in (*training.glob("concepts/*.safetensors"), *training.glob("*.safetensors")))
        raise BadInputError(f"{training} holds no concept {name!r}; it holds: {', '.join(known) or 'none'}")
    if not path.is_file():
        return Learnt(name, {}, read_tensors(alone)[TOKEN], {}, 0.0)
    tensors = read_tensors(path)
    layers = [key.removeprefix("A:") for key in tensors if key.startswith("A:")]
    factors = {layer: (tensors[f"A:{layer}"], tensors[f"B:{layer}"]) for layer in layers}
    return Learnt(name, factors, tensors.get(f"extra:{TOKEN}", torch.empty(0)), {}, 0.0)


def _described(record: CellRecord) -> str:
    cell = record.cell
    return f"{cell.task} {cell.method} T={cell.n_concepts} seed={cell.seed}"
