"""What a figure is: numbers chosen from stored results, drawn, saved together with those numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from reports.sources import Results
from reports.style import settle, styled
from seqlora.errors import StoredFileError
from seqlora.files import atomic_write

COORDINATES = re.compile(r'(?<=\s)(?:d|x|y)="[^"]*"')
LONG = re.compile(r"-?\d+\.\d{3,}")
Section = Literal["theory", "methods", "images", "cost", "past"]


@dataclass(frozen=True)
class FigureSpec:
    """One figure. `draw` sees nothing but the table that is saved beside it as CSV.

    Attributes:
        name: file name and anchor.
        title: heading of its place in the report.
        section: part of the report.
        inputs: the results it needs, keys of `reports.sources.COMMANDS` are the commands that make them.
        select: the plotted numbers, in long form; empty if they are not there.
        headline: what is seen, as one sentence, computed from the same numbers.
        caption: how to read it.
        draw: the figure; the second argument asks for the narrow layout of a phone.
    """

    name: str
    title: str
    section: Section
    inputs: tuple[str, ...]
    select: Callable[[Results], pd.DataFrame]
    headline: Callable[[pd.DataFrame], str]
    caption: str
    draw: Callable[[pd.DataFrame, bool], Figure]

    def figure(self, data: pd.DataFrame, narrow: bool = False) -> Figure:
        """Draw with the house style and settle where everything goes, so that every format shows the same."""
        with styled():
            figure = self.draw(data, narrow)
            settle(figure)
            return figure

    def svg(self, data: pd.DataFrame, narrow: bool = False) -> str:
        """The figure as SVG: the same text for the same numbers."""
        return as_svg(self.figure(data, narrow))

    def command(self, folder: str = "results") -> str:
        """The command that redraws it from stored results."""
        return f"python -m reports figure {self.name} --results {folder}"


def as_svg(figure: Figure) -> str:
    """SVG text without a date; coordinates to a hundredth of a point, which nobody sees and many lines are made of."""
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return COORDINATES.sub(lambda found: LONG.sub(_hundredth, found[0]), buffer.getvalue())


def _hundredth(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def save(figure: Figure, data: pd.DataFrame, name: str, out: Path, text: str = "") -> list[Path]:
    """Write `<name>.png`, `.svg`, `.csv` and `.txt` (what it shows and the command), each atomically.

    Args:
        figure: what was drawn from `data`.
        data: the plotted numbers.
        name: file name without suffix.
        out: folder.
        text: caption and command.

    Returns:
        The four paths.

    Raises:
        StoredFileError: the folder cannot be written.
    """
    paths = [out / f"{name}{suffix}" for suffix in (".png", ".svg", ".csv", ".txt")]
    with styled():
        svg = as_svg(figure)
        with atomic_write(paths[0]) as temporary, temporary.open("wb") as file:
            figure.savefig(file, format="png", metadata={"Software": None})
    for path, content in zip(paths[1:], (svg, to_csv(data), text.rstrip() + "\n"), strict=True):
        with atomic_write(path) as temporary:
            temporary.write_text(content, encoding="utf-8", newline="")
    return paths


def to_csv(data: pd.DataFrame) -> str:
    """All digits, one row a line."""
    return data.to_csv(index=False, lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """The numbers of a saved figure.

    Raises:
        StoredFileError: there is no such file.
    """
    try:
        return pd.read_csv(path, float_precision="round_trip")
    except (OSError, ValueError) as error:
        raise StoredFileError(f"{path} is no CSV of a figure ({error}); run the build again") from error
