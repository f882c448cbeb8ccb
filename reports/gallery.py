"""Images that cells left beside their records: people as they were learnt, kept and lost, next to their references."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import UnidentifiedImageError

from bench.options import labelled
from bench.schema import CellRecord
from reports import sheets
from reports.sources import Results
from reports.style import in_order

KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
LARGEST = 2_000_000  # bytes of one image that is shown as it is
MOST = 12_000_000  # bytes of all, so that a phone can still open the page
OPENED = ("plain-sum", "seqlora", "seqlora-penalty")
PEOPLE = 8  # rows of a sheet that are shown; longer sequences show the first, who have most to lose


@dataclass(frozen=True)
class Picture:
    """One image, embedded; no source where there is none."""

    label: str
    source: str = ""  # data URI
    score: str = ""
    height: int = 72  # of its box, 72 pixels wide, before it is loaded


@dataclass(frozen=True)
class Strip:
    """All images of one cell.

    Attributes:
        title: task, number of concepts, method, seed.
        heads: what the columns of the sheet are.
        rows: name of a concept and its images, one a column.
        pictures: images that are no sheet.
        opened: whether the reader sees it without a click.
    """

    title: str
    heads: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[Picture]]] = ()
    pictures: Sequence[Picture] = field(default_factory=list)
    opened: bool = False


def chosen(results: Results) -> list[CellRecord]:
    """Cells with images: the lowest seed of every task, number of concepts and method."""
    found: dict[tuple[str, int, str], CellRecord] = {}
    for record in sorted(results.records, key=lambda r: (r.cell.seed, r.cell.order)):
        if any(_is_image(path) for path in record.artifacts.values()):
            found.setdefault((record.cell.task, record.cell.n_concepts, record.cell.method), record)
    methods = in_order(key[2] for key in found)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1], methods.index(key[2])))]


def strips(results: Results) -> tuple[list[Strip], list[str]]:
    """The images of the chosen cells; and what was left out, and why."""
    if results.store is None:
        return [], []
    left_out: list[str] = []
    found: list[Strip] = []
    budget = MOST
    for record in chosen(results):
        strip = _strip(record, results.store, left_out)
        size = sum(len(p.source) for p in [*strip.pictures, *(p for _, row in strip.rows for p in row)])
        if size > budget:
            left_out.append(f"images of {record.to_cell()}: the page would exceed {MOST / 1e6:g} MB of images")
            continue
        budget -= size
        if size:
            found.append(strip)
    return found, left_out


def path_of(record: CellRecord, name: str, store: Path) -> Path | None:
    """Where an image lies; None if it is not a file inside the store."""
    root = store.resolve()
    path = (root / record.artifacts[name]).resolve()
    return path if path.is_relative_to(root) and path.is_file() else None


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def _strip(record: CellRecord, store: Path, left_out: list[str]) -> Strip:
    cell = record.cell
    method = labelled(record.pretty_name, cell.method)
    title = f"{cell.task}, T = {cell.n_concepts}, seed {cell.seed}: {method}"
    heads: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[Picture]]] = ()
    pictures: list[Picture] = []
    for name, relative in sorted(record.artifacts.items()):
        if not _is_image(relative):
            continue
        path = path_of(record, name, store)
        if path is None:
            left_out.append(f"image {relative} is not in {store}")
        elif name == sheets.ARTIFACT and (sheet := _sheet(record, path)) is not None:
            heads, rows = sheet
        else:
            pictures += _whole(name, relative, path, left_out)
    return Strip(title, heads, rows, pictures, cell.method in OPENED)


def _sheet(record: CellRecord, path: Path) -> tuple[Sequence[str], Sequence[tuple[str, Sequence[Picture]]]] | None:
    """Heads and rows of a sheet; of a long sequence the first people, just trained and at the end."""
    T = record.cell.n_concepts
    try:
        tiles = sheets.cut(path, T)
    except (OSError, UnidentifiedImageError):
        return None
    if tiles is None:
        return None
    known, short = sheets.scores(record), T <= PEOPLE
    heads = ["reference", *([f"after {t + 1}" for t in range(T)] if short else ["just trained", f"after {T}"])]
    rows = []
    for j in range(min(T, PEOPLE)):
        name = record.concepts[j] if j < len(record.concepts) else f"concept {j + 1}"
        row = [_tile(f"reference of {name}", tiles[j, 0])]
        for t in range(T) if short else (j, T - 1):
            score = f"{known[j, t]:.2f}" if (j, t) in known else ""
            label = f"{name} after {t + 1} of {T} concepts"
            row.append(_tile(label, tiles[j, t + 1], score) if t >= j else Picture(""))
        rows.append((name, row))
    return heads, rows


def _tile(label: str, pixels: sheets.Pixels, score: str = "") -> Picture:
    height = round(72 * pixels.shape[0] / pixels.shape[1])
    return Picture(label, f"data:image/webp;base64,{sheets.encode(pixels)}", score, height)


def _whole(name: str, relative: str, path: Path, left_out: list[str]) -> Iterator[Picture]:
    content = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    kind = next((kind for magic, kind in KINDS.items() if content.startswith(magic)), None)
    if kind is None:
        left_out.append(f"image {relative} is larger than {LARGEST // 1_000_000} MB or no PNG, JPEG or WebP file")
        return
    yield Picture(name, f"data:{kind};base64,{base64.b64encode(content).decode()}")
