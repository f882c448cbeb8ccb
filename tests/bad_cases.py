"""The table of bad input: what is done, what the one line must say, and the exit code.

A row is a program with arguments, or a call. `{place}` stands for a folder with a stored benchmark (`store`), a stored
sequence of concepts (`sequence`), results (`results`) and photographs (`photos/cat`): see `test_bad_input.py`.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import onnx_file
from bench.personalise.images import load_folder
from bench.personalise.tokens import require_token
from bench.world import assets
from bench.world.verification import load_encoder
from seqlora import ConceptSequence, SeqLoRAConfig, solve_linear
from seqlora.files import read_json, read_tensors
from theory.layers.base import Layer
from theory.layers.hf import choose_layers

from . import bad_files as make

SMALL = "linear-synthetic:width=16,samples=100,rank=2"


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        does: arguments of a program (a text, split at blanks), or a call with the place.
        says: what the line must name: the offender and what is wrong with it.
        code: exit code.
        damage: done to the place first.
        fault: an error that the operating system gives whenever a file is read as text.
    """

    does: str | Callable[[Path], Any]
    says: tuple[str, ...]
    code: int = 2
    damage: Callable[[Path], Any] = lambda place: None
    fault: int = 0


# --- a small model -------------------------------------------------------------------------------------------------


def model(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))


CONFIG = SeqLoRAConfig(rank=2, target_modules=("0", "2"), start_batches=1, forgetting_weight=0.5)


def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return module(batch).square().mean()


def learn(sequence: ConceptSequence, name: str, value: float = 1.0, steps: int = 3) -> None:
    list(sequence.learn(name, [torch.full((4, 8), value) for _ in range(steps)], loss))


# --- damage ---------------------------------------------------------------------------------------------------------


def other_schema(place: Path) -> None:
    for path in place.glob("store/cells/*/*/*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def index(**changes: Any) -> Callable[[Path], None]:
    def edit(place: Path) -> None:
        path = place / "sequence" / "sequence.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def write(name: str, content: bytes | str) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def truncate(name: str, count: int) -> Callable[[Path], None]:
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:-count])


def several(*damages: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        for one in damages:
            one(place)

    return damage


def parquet(place: Path) -> None:
    """A collected suite of another schema version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    footer = json.dumps({"schema_version": 7, "suite": "ci", "cells": {}})
    (place / "results" / "bench").mkdir()
    table = pa.table({"task": ["t"]}).replace_schema_metadata({"seqlora": footer})
    pq.write_table(table, place / "results" / "bench" / "ci.parquet")


# --- calls ----------------------------------------------------------------------------------------------------------


def photos(*damaged: tuple[str, bytes], name: str = "cat") -> Callable[[Path], Any]:
    """Load a concept of two sound images and one damaged file."""
    return lambda place: load_folder(make.concept(place.parent / "new", *damaged), 8, "cat", 1, name=name)


def tensor_file(content: bytes) -> Callable[[Path], Any]:
    def call(place: Path) -> None:
        path = place.parent / "x.safetensors"
        path.write_bytes(content)
        read_tensors(path, {"W": (2, 2)})

    return call


def encoder(**shape: Any) -> Callable[[Path], Any]:
    return lambda place: load_encoder(make.network(place.parent / "face.onnx", **shape))


def large_encoder(place: Path) -> None:
    path = make.network(place.parent / "face.onnx")
    with path.open("r+b") as file:
        file.truncate(onnx_file.MAX_BYTES + 1)  # a sparse file
    load_encoder(path)


def weights(**files: bytes) -> Callable[[Path], Any]:
    return lambda place: assets.identity_model(make.world(place.parent / "weights", **files))


def reopen(place: Path) -> None:
    ConceptSequence.from_pretrained(model(), place / "sequence")


def go_on(**changes: Any) -> Callable[[Path], Any]:
    """Learn another concept in the stored sequence."""
    return lambda place: learn(ConceptSequence(model(), CONFIG, place / "sequence"), **{"name": "dog", **changes})


def continued_with_rank_1(place: Path) -> None:
    ConceptSequence(model(), SeqLoRAConfig.from_json({**CONFIG.to_json(), "rank": 1}), place / "sequence")


def learn_twice(place: Path) -> None:
    sequence = ConceptSequence(model(), CONFIG)
    learn(sequence, "cat")
    learn(sequence, "cat")


def nan_loss(place: Path) -> None:
    sequence = ConceptSequence(model(), CONFIG, place / "sequence")
    list(sequence.learn("dog", [torch.ones(4, 8)] * 3, lambda module, batch: NAN * loss(module, batch)))


def config(**changes: Any) -> Callable[[Path], Any]:
    return lambda place: SeqLoRAConfig.from_json({**CONFIG.to_json(), **changes})


def fresh(**changes: Any) -> Callable[[Path], Any]:
    """A new sequence with a changed configuration."""
    return lambda place: ConceptSequence(model(), SeqLoRAConfig.from_json({**CONFIG.to_json(), **changes}))


def activations(X: np.ndarray) -> Callable[[Path], Any]:
    return lambda place: Layer("query", np.zeros((3, 2)), {"cat": X})


def linear(X: Any, Y: Any, rank: int = 1, **options: Any) -> Callable[[Path], Any]:
    return lambda place: solve_linear(torch.tensor(X), torch.tensor(Y), rank, **options)


NAN = float("nan")
SQUARE = [[1.0, 0.0], [0.0, 1.0]]
RUN = f"bench run --task {SMALL} --concepts 2 --method base --out"
THEORY = "theory --suite smoke C1 --layers"
CASES: dict[str, Case] = {
    # arguments
    "no such suite": Case("bench run --suite smok", ("'smok'", "did you mean 'smoke'")),
    "no such task": Case("bench run --task linear-sinthetic", ("'linear-sinthetic'", "did you mean")),
    "a task with a hostile name": Case("bench run --task ../../etc/passwd", ("'../../etc/passwd'", "known:")),
    "a task with NUL": Case("bench run --task linear\0x", (r"'linear\x00x'",)),
    "no such method": Case("bench run --method seqlor", ("'seqlor'", "did you mean 'seqlora'")),
    "no such task option": Case("bench run --task linear-synthetic:colour=red", ("'colour'", "known: ")),
    "a task option that is NaN": Case("bench run --task linear-synthetic:decay=nan", ("decay='nan'", "not finite")),
    "rank 0": Case("bench run --task linear-synthetic:rank=0", ("rank 0",)),
    "a method option of the wrong type": Case("bench run --method seqlora-penalty:gamma=big", ("gamma='big'",)),
    "concepts in words": Case("bench run --concepts two", ("--concepts 'two'",)),
    "too many concepts": Case("bench run --task linear-minilm --concepts 5000", ("concepts, not 5000",)),
    "a range without end": Case("bench run --concepts 1-99999999999", ("--concepts '1-99999999999'", "more than")),
    "no seeds": Case("bench run --seeds 0", ("--seeds 0",)),
    "seeds without end": Case("bench run --seeds 99999999999", ("99999999999", "more than")),
    "an empty range of seeds": Case("bench run --seeds 5-3", ("--seeds '5-3'", "no number")),
    "a shard past the last": Case("bench run --shard 3/2", ("--shard '3/2'", "i/n")),
    "a shard in words": Case("bench run --shard 1/x", ("--shard '1/x'", "i/n")),
    "no such executor": Case("bench run --executor threads", ("'threads'", "known: serial")),
    "no dask scheduler": Case(f"{RUN} {{place}}/new --executor dask --scheduler x://y", ("'x://y'", "dask scheduler")),
    "no such cluster": Case(f"{RUN} {{place}}/new --executor submitit --scheduler mars", ("'mars'", "slurm or local")),
    "a setting without value": Case("bench run --set base", ("'base'", "name=value")),
    "a setting that no task knows": Case("bench run --set disturbence=1", ("disturbence", "disturbance", "device")),
    "no workers": Case("bench run --workers 0", ("--workers", "--help")),
    "no such option": Case("bench run --no-such-option", ("--no-such-option", "--help")),
    "no such command": Case("bench no-such-command", ("no-such-command", "--help")),
    "nothing to train of that name": Case("bench world pretrain faces", ("faces", "--help")),
    "no photos": Case("bench run --task photos:{place}/nowhere --clip x", ("nowhere", "check the path")),
    "photos without class": Case("bench run --task photos:{place}/photos --clip x", ("photos/cat", "class word")),
    # stores
    "a file in place of the store": Case(f"{RUN} {{place}}/photos/cat/1.png", ("1.png", "choose another folder")),
    "a store on no file system": Case(f"{RUN} /proc/no/store", ("/proc/no/store", "choose another folder")),
    "a store with NUL in its name": Case(f"{RUN} {{place}}/a\0b", ("null byte", "--help")),
    "a store with an overlong name": Case(f"{RUN} {{place}}/{'x' * 300}", ("xxx", "File name too long")),
    "run on another schema": Case(f"{RUN} {{place}}/store", ("schema version 99", "--out"), damage=other_schema),
    "status of another schema": Case(
        f"bench status --task {SMALL} --concepts 2 --out {{place}}/store", ("schema version 99",), damage=other_schema
    ),
    "collecting another schema": Case(
        f"bench collect --task {SMALL} --concepts 2 --out {{place}}/store", ("schema version 99",), damage=other_schema
    ),
    "a store that may not be read": Case(
        f"{RUN} {{place}}/store", ("cannot read", "Permission denied", "check the folder"), fault=errno.EACCES
    ),
    "collecting nothing": Case("bench collect --out {place}/new", ("smoke", "run it first")),
    "collecting from nowhere": Case("bench collect --from {place}/nowhere", ("nowhere", "no folder")),
    # theory
    "no such claim": Case("theory C77", ("'C77'", "did you mean")),
    "no such layers": Case(f"{THEORY} marble", ("'marble'", "synthetic")),
    "no such suite of claims": Case("theory --suite big", ("'big'", "smoke")),
    "a negative seed": Case("theory --seed -1", ("--seed", "--help")),
    "a ledger in a folder": Case("theory --json {place}", ("--json", "is a folder")),
    "no model folder": Case(f"{THEORY} hf:{{place}}/nowhere", ("nowhere", "does not exist")),
    "a folder without model": Case(f"{THEORY} hf:{{place}}/photos", ("photos", "config.json")),
    "a model with a truncated file": Case(
        f"{THEORY} hf:{{place}}/sequence",
        ("cat.safetensors", "not a whole safetensors file"),
        damage=several(write("sequence/config.json", "{}"), truncate("sequence/concepts/cat.safetensors", 9)),
    ),
    "a model in pickles": Case(
        f"{THEORY} hf:{{place}}/bert",
        ("bert", "safetensors"),
        damage=several(
            write("bert/config.json", '{"model_type": "bert"}'), write("bert/pytorch_model.bin", b"\x80\x04N.")
        ),
    ),
    "a layer pattern that matches nothing": Case(
        lambda place: choose_layers(model(), "attention"), ("'attention'", "matches no Linear layer")
    ),
    "a layer pattern that is none": Case(lambda place: choose_layers(model(), "("), ("'('", "regular expression")),
    "NaN activations": Case(activations(np.array([[1.0], [NAN]])), ("layer query, concept cat", "not finite"), code=3),
    "activations of another width": Case(activations(np.ones((3, 4))), ("query", "(3, 4)", "(2, N)")),
    # reports
    "no results": Case("reports build --results {place}/nowhere", ("nowhere", "no folder")),
    "no such figure": Case("reports figure rainbow --results {place}/results", ("rainbow",)),
    "a damaged ledger": Case(
        "reports build --results {place}/results --out {place}/new",
        ("synthetic.json", "not readable JSON"),
        damage=write("results/theory/synthetic.json", '{"suite": '),
    ),
    "a ledger that is none": Case(
        "reports build --results {place}/results --out {place}/new",
        ("synthetic.json", "was not written by"),
        damage=write("results/theory/synthetic.json", "[1, 2]"),
    ),
    "a damaged collection": Case(
        "reports build --results {place}/results --out {place}/new",
        ("ci.parquet", "delete it"),
        damage=write("results/bench/ci.parquet", b"PAR1 rubbish PAR1"),
    ),
    "a collection of another schema": Case(
        "reports build --results {place}/results --out {place}/new", ("ci.parquet", "schema version 7"), damage=parquet
    ),
    # images
    "no concept folder": Case(lambda place: load_folder(place / "nowhere", 8, "cat", 1), ("nowhere", "is no folder")),
    "an empty concept folder": Case(lambda place: load_folder(place / "results", 8, "cat", 1), ("results", "0 images")),
    "text as an image": Case(photos(("3.png", b"hello")), ("3.png", "does not decode")),
    "an empty image": Case(photos(("3.jpg", b"")), ("3.jpg", "does not decode")),
    "half an image": Case(photos(("3.png", make.png()[:45])), ("3.png", "does not decode")),
    "an image of 64,000 x 64,000": Case(photos(("3.png", make.png(64000, 64000))), ("3.png", "4096000000 pixels")),
    "an image of 9,000 x 9,000": Case(photos(("3.png", make.png(9000, 9000))), ("3.png", "9000 x 9000", "more than")),
    "a bomb in zTXt": Case(photos(("3.png", make.bomb(b"zTXt"))), ("3.png", "too large")),
    "a bomb in iTXt": Case(photos(("3.png", make.bomb(b"iTXt"))), ("3.png", "too large")),
    "a bomb in iCCP": Case(photos(("3.png", make.bomb(b"iCCP"))), ("3.png", "too large")),
    "a caption without the concept": Case(photos(("1.txt", b"a cat")), ("'a cat'", "lacks {}")),
    "a caption with other braces": Case(photos(("1.txt", b"{} {0.__class__}")), ("__class__", "braces")),
    "a caption in no UTF-8": Case(photos(("1.txt", b"\xff\xfe{}")), ("1.txt", "UTF-8")),
    "one mask of two": Case(photos(("mask/1.png", make.png()), ("3.png", make.png())), ("2.png", "missing")),
    "a concept with a hostile name": Case(photos(name="../../cat"), ("'../../cat'", "file name")),
    "a concept with NUL in its name": Case(photos(name="cat\0"), (r"'cat\x00'", "file name")),
    "a concept with an absolute name": Case(photos(name="/etc/cat"), ("'/etc/cat'", "file name")),
    "a prompt without the token": Case(lambda place: require_token("a cat", "<cat>"), ("'a cat'", "<cat>")),
    # weights
    "no tensors": Case(lambda place: read_tensors(place / "nowhere"), ("nowhere", "does not exist")),
    "a pickle": Case(tensor_file(b"\x80\x04\x95pickled"), ("x.safetensors", "its header claims")),
    "four bytes": Case(tensor_file(b"1234"), ("x.safetensors", "too few")),
    "a header of 2^60 bytes": Case(tensor_file(make.tensors({}, claimed=1 << 60)), ("claims 1152921504606846976",)),
    "a header of brackets": Case(tensor_file(make.tensors(b"[" * 99999)), ("x.safetensors", "not a whole")),
    "a header without shape": Case(tensor_file(make.tensors({"W": {"dtype": "F32"}})), ("'W'", "shape")),
    "a shape that claims gigabytes": Case(
        tensor_file(make.tensors({"W": make.entry([1 << 20, 1 << 20])})), ("'W'", "cannot take 16 bytes")
    ),
    "tensors that overlap": Case(
        tensor_file(make.tensors({"W": make.entry([2, 2]), "V": make.entry([2, 2])})), ("starts at byte 0",)
    ),
    "a truncated tensor": Case(tensor_file(make.tensors({"W": make.entry([2, 2])}, bytes(9))), ("take 16 bytes",)),
    "hidden bytes": Case(tensor_file(make.tensors({"W": make.entry([2, 2])}, bytes(99))), ("take 16 bytes", "99")),
    "another shape": Case(tensor_file(make.tensors({"W": make.entry([4])})), ("W of shape (4,), not (2, 2)",)),
    "another tensor": Case(tensor_file(make.tensors({"V": make.entry([4])})), ("no tensor W",)),
    "released weights of another size": Case(weights(identity_onnx=b"12345"), ("identity.onnx", "git checkout")),
    "released weights of another hash": Case(weights(identity_onnx=b"1234"), ("wrong sha256", "git checkout")),
    "missing released weights": Case(weights(), ("identity.onnx is missing", "git checkout")),
    "no encoder": Case(lambda place: load_encoder(place / "face.onnx"), ("face.onnx", "does not exist")),
    "rubbish as an encoder": Case(lambda place: load_encoder(place / "photos/cat/1.png"), ("1.png", "no ONNX file")),
    "an encoder of sounds": Case(encoder(shape=("n", 80)), ("face.onnx", "not images")),
    "an encoder of grey images": Case(encoder(shape=("n", 1, 8, 8)), ("face.onnx", "not images")),
    "an encoder of two outputs": Case(encoder(outputs=2), ("face.onnx", "not embeddings")),
    "an encoder with outside files": Case(encoder(outside=True), ("face.onnx", "in other files")),
    "an encoder of unknown operators": Case(encoder(operator="Flatter"), ("face.onnx", "does not load")),
    "an encoder of gigabytes": Case(large_encoder, ("face.onnx", "more than")),
    # sequences
    "a sequence of another schema": Case(reopen, ("sequence.json", "schema 1"), damage=index(schema=9)),
    "a sequence with a hostile name": Case(
        reopen, ("'../../x'", "file name"), damage=index(concepts=[{"name": "../../x", "sha256": "0"}])
    ),
    "a sequence without a list": Case(reopen, ("sequence.json", "wrong type"), damage=index(concepts="cat")),
    "a sequence of brackets": Case(
        reopen, ("sequence.json", "not readable JSON"), damage=write("sequence/sequence.json", "[" * 99999)
    ),
    "a truncated concept": Case(
        reopen, ("cat.safetensors", "not a whole"), damage=truncate("sequence/concepts/cat.safetensors", 4)
    ),
    "a concept of another model": Case(
        lambda place: ConceptSequence.from_pretrained(model(10), place / "sequence"), ("cat.safetensors", "own base")
    ),
    "another configuration": Case(continued_with_rank_1, ("rank=2, not 1", "another folder")),
    "a concept learnt twice": Case(learn_twice, ("'cat'", "already learnt")),
    "a checkpoint that is none": Case(
        go_on(),
        ("dog.safetensors", "no checkpoint"),
        damage=write("sequence/partial/dog.safetensors", make.tensors({"W": make.entry([4])})),
    ),
    "a loss that is NaN": Case(nan_loss, ("'dog'", "loss is not finite"), code=3),
    "batches that are NaN": Case(go_on(value=NAN), ("'dog'", "activations hold NaN"), code=3),
    "a concept without batches": Case(go_on(steps=0), ("'dog'", "no batches")),
    "a concept with a path for a name": Case(go_on(name="a/b"), ("'a/b'", "file name")),
    "a rank over capacity": Case(fresh(rank=5, planned_concepts=3), ("concepts of rank 5", "width is 8")),
    "a pattern that matches nothing": Case(fresh(target_modules="attention"), ("'attention'", "matches no layer")),
    "no such field": Case(config(rang=3), ("'rang'", "describe")),
    "a rank of words": Case(config(rank="two"), ("rank", "'two'", "whole number")),
    "a ridge of words": Case(config(ridge="much"), ("ridge", "'much'")),
    "a ridge that is NaN": Case(config(ridge=NAN), ("ridge", "nan", "finite")),
    "no such optimiser": Case(config(coefficient_optimizer="os.system"), ("coefficient_optimizer", "torch.optim")),
    "NaN in a linear problem": Case(linear([[NAN, 1.0], [0.0, 1.0]], SQUARE), ("NaN",), code=3),
    "shapes that do not fit": Case(linear(SQUARE, [[1.0, 2.0, 3.0]]), ("(2, 2)", "(1, 3)")),
    "a rank over the width": Case(linear(SQUARE, SQUARE, rank=3), ("rank 3",)),
    "JSON in no UTF-8": Case(
        lambda place: read_json(place / "x.json"), ("x.json", "not readable JSON"), damage=write("x.json", b'"\xff"')
    ),
}
