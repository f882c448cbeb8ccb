"""Images that cells left beside their records: references, single-concept, after each stage, merged."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.schema import CellRecord
from reports.sources import Results
from reports.style import in_order

KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
LARGEST = 2_000_000  # bytes of one image
MOST = 60_000_000  # bytes of all, so that a phone can still open the page


@dataclass(frozen=True)
class Picture:
    """One image, embedded."""

    label: str
    source: str  # data URI


@dataclass(frozen=True)
class Strip:
    """All images of one cell."""

    title: str
    pictures: Sequence[Picture]


def strips(results: Results) -> tuple[list[Strip], list[str]]:
    """Strips of the lowest seed of every task, number of concepts and method; and what was left out, and why."""
    if results.store is None:
        return [], []
    chosen: dict[tuple[str, int, str], CellRecord] = {}
    for record in sorted(results.records, key=lambda r: (r.cell.seed, r.cell.order)):
        if any(_is_image(path) for path in record.artifacts.values()):
            chosen.setdefault((record.cell.task, record.cell.n_concepts, record.cell.method), record)
    methods = in_order(key[2] for key in chosen)
    left_out: list[str] = []
    found: list[Strip] = []
    budget = MOST
    for (task, count, _), record in sorted(chosen.items(), key=lambda k: (k[0][0], k[0][1], methods.index(k[0][2]))):
        pictures = list(_pictures(record, results.store, left_out, budget))
        budget -= sum(len(picture.source) for picture in pictures)
        if pictures:
            found.append(Strip(f"{task}, T = {count}: {record.pretty_name}", pictures))
    return found, left_out


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def _pictures(record: CellRecord, store: Path, left_out: list[str], budget: int) -> Iterator[Picture]:
    root = store.resolve()
    for label, relative in sorted(record.artifacts.items()):
        if not _is_image(relative):
            continue
        path = (root / relative).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            left_out.append(f"image {relative} is not in {store}")
            continue
        content = path.read_bytes() if path.stat().st_size <= LARGEST else b""
        kind = next((kind for magic, kind in KINDS.items() if content.startswith(magic)), None)
        if kind is None:
            left_out.append(f"image {relative} is larger than {LARGEST // 1_000_000} MB or no PNG, JPEG or WebP file")
            continue
        budget -= len(content) * 4 // 3
        if budget < 0:
            left_out.append(f"image {relative}: the page would exceed {MOST // 1_000_000} MB")
            return
        yield Picture(label, f"data:{kind};base64,{base64.b64encode(content).decode()}")
