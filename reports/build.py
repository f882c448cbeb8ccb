"""From a folder of results to a folder of figures, Markdown and one page."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed
from rich.console import Console
from rich.progress import track

from reports import ledger, tables
from reports.figures import FIGURES, save
from reports.figures.api import to_csv
from reports.html import Drawn, page
from reports.sources import COMMANDS, Results
from seqlora.files import atomic_write


@dataclass(frozen=True)
class Built:
    """What was written, and what there were no numbers for."""

    page: Path
    figures: Sequence[str]
    missing: Sequence[str]


def build(results: Results, out: Path, workers: int = 1) -> Built:
    """Write `index.html`, `ledger.md`, `tables.md` and `figures/<name>.{png,svg,csv,txt}`.

    Args:
        results: what is drawn.
        out: folder; what it holds under other names stays.
        workers: processes that draw.

    Raises:
        StoredFileError: the folder cannot be written.
    """
    drawn = draw_all(results, out / "figures", workers)
    missing = missing_lines(results, [figure.name for figure in drawn])
    found = tables.all_tables(results)
    _write(out / "ledger.md", ledger.to_markdown(results))
    _write(out / "tables.md", "\n".join(tables.to_markdown(table) for table in found))
    _write(out / "index.html", page(results, drawn, found, missing))
    return Built(out / "index.html", [figure.name for figure in drawn], missing)


def draw_all(results: Results, out: Path, workers: int) -> list[Drawn]:
    """Every figure that there are numbers for."""
    figures = Parallel(workers, return_as="generator")(delayed(draw)(name, results, out) for name in FIGURES)
    return [figure for figure in _progress(figures, len(FIGURES)) if figure is not None]


def draw(name: str, results: Results, out: Path) -> Drawn | None:
    """Draw and save one figure in both layouts; None if there are no numbers for it."""
    spec = FIGURES[name]
    data = spec.select(results)
    if data.empty:
        return None
    headline, command = spec.headline(data), spec.command(str(results.folder))
    origin = [COMMANDS[name] for name in spec.inputs if name in COMMANDS]
    text = "\n".join(
        [headline, "", spec.caption, "", f"Draw it again: {command}", *(f"Measure again: {c}" for c in origin)]
    )
    svg = save(spec.figure(data), data, spec.name, out, text)[1].read_text(encoding="utf-8")
    return Drawn(name, headline, svg, spec.svg(data, narrow=True), to_csv(data), command, origin)


def missing_lines(results: Results, drawn: Sequence[str]) -> list[str]:
    """One line for each thing that is not there, with the command that makes it."""
    there = results.has
    what = {
        "synthetic": "no claims were checked on synthetic layers",
        "minilm": "no claims were checked on MiniLM's layers",
        "diffusion": "no claims were checked on layers of a diffusion model",
        "bench": "no benchmark cells of linear layers are stored",
        "spectra": "methods were compared on two spectra of linear layers at most",
        "images": "no benchmark cells of images are stored",
        "timing": "no timing ratios are stored",
        "history": "no history of earlier revisions is stored",
    }
    lines = [f"{what[name]}: run `{COMMANDS[name]}`" for name, found in there.items() if not found]
    for name, spec in FIGURES.items():
        if name not in drawn and any(there[source] for source in spec.inputs):
            made = next(source for source in spec.inputs if there[source])
            lines.append(f"figure {name}: its numbers are not among the stored results; run `{COMMANDS[made]}`")
    return lines


def _progress(figures: Iterable[Drawn | None], total: int) -> Iterable[Drawn | None]:
    """A bar on a terminal, one line a figure elsewhere; on stderr."""
    if sys.stderr.isatty():
        yield from track(figures, "figures", total=total, console=Console(stderr=True))
        return
    for name, figure in zip(FIGURES, figures, strict=True):
        print(f"{name}: {'drawn' if figure else 'no numbers'}", file=sys.stderr, flush=True)
        yield figure


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
