"""Results made small enough for git: ledgers, one parquet file of all cells, one sheet of images a method."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from bench.collect import write_parquet
from bench.regression.history import COLUMNS
from bench.schema import CellRecord
from reports import gallery, sheets
from reports.build import Built, build
from reports.figures.api import to_csv
from reports.sources import HISTORY_FILE, Results, load
from seqlora.errors import BadInputError
from seqlora.files import atomic_write, read_json

STORE = "store"  # folder of the compact results, beside the page
LARGEST_FILE = 5_000_000  # bytes; whatever is larger belongs elsewhere


def publish(results: Results, out: Path, workers: int = 1) -> Built:
    """Write `<out>/store`, which holds all numbers of `results`, and the report that is built from it.

    Raises:
        BadInputError: `results` is the published store itself, or there is nothing in it.
        StoredFileError: the folder cannot be written.
    """
    store = out / STORE
    if store.resolve() == results.folder.resolve():
        raise BadInputError(f"{results.folder} is what was published already; give the folder that it came from")
    if not any(results.has.values()):
        raise BadInputError(f"{results.folder} holds no results; run `tox -e bench` first")
    before = {path for path in store.rglob("*") if path.is_file()}
    written = list(_copy(results, store))
    for stale in before.difference(written):
        stale.unlink()
    return build(load(store), out, workers)


def _copy(results: Results, store: Path) -> Iterator[Path]:
    """Write the compact store; yields every file of it."""
    for path in sorted([*results.folder.glob("theory/*.json"), *results.folder.glob("timing/*.json")]):
        text = json.dumps(read_json(path), separators=(",", ":")) + "\n"
        yield _write(store / path.relative_to(results.folder), text)
    if len(results.history):
        yield _write(store / HISTORY_FILE, to_csv(results.history.assign(fingerprint="").reindex(columns=COLUMNS)))
    if results.records:
        images: list[Path] = []
        records = [_portable(record, results, store / "bench", images) for record in _shown_first(results)]
        cells = store / "bench" / "cells.parquet"
        write_parquet(cells, "published", records)
        yield from [*images, cells]


def _shown_first(results: Results) -> list[CellRecord]:
    """All records; only those that the gallery shows keep their images."""
    shown = {record.to_cell() for record in gallery.chosen(results)}
    return [
        record if record.to_cell() in shown else record.model_copy(update={"artifacts": {}})
        for record in results.records
    ]


def _portable(record: CellRecord, results: Results, target: Path, images: list[Path]) -> CellRecord:
    """The record with its images as WebP below `target`, and without paths that mean nothing elsewhere."""
    artifacts = {}
    for name in record.artifacts:
        path = gallery.path_of(record, name, results.store or results.folder)
        relative = f"images/{record.to_cell().digest}-{name}.webp"
        if path is not None and _shrink(path, target / relative):
            artifacts[name] = relative
            images.append(target / relative)
    argv = [Path(word).name if Path(word).is_absolute() else word for word in record.provenance.argv]
    provenance = record.provenance.model_copy(update={"argv": argv})
    return record.model_copy(update={"artifacts": artifacts, "provenance": provenance})


def _shrink(path: Path, target: Path) -> bool:
    """Write an image as WebP; False for files that are none and for what stays too large.

    One that is WebP already was published before, and would lose a little each time: it is copied as it is.
    """
    try:
        with Image.open(path) as image:
            image.load()  # nothing damaged is passed on
            data = path.read_bytes() if image.format == "WEBP" else _webp(image)
    except OSError:
        return False
    if len(data) > LARGEST_FILE:
        return False
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)
    return True


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=sheets.QUALITY, method=6)
    return buffer.getvalue()


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path
