"""One self-contained HTML file: the ledger, figures with their numbers and commands, tables, galleries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from latex2mathml.converter import convert
from markupsafe import Markup

from reports import gallery, ledger, style
from reports.figures import FIGURES
from reports.figures.api import FigureSpec
from reports.inline import Glyphs, inline_svg
from reports.sources import Results
from reports.tables import Table

SECTIONS = {
    "theory": "The theory against data",
    "methods": "Methods compared on linear layers",
    "images": "Methods compared on images",
    "cost": "Cost",
    "past": "History of the gated metrics",
}


PLAIN = ",.:;=()[]+-_*/|~"  # characters of CSV, besides letters and digits, that a data URI holds as they are


@dataclass(frozen=True)
class Drawn:
    """A figure that there were numbers for, in both layouts.

    Attributes:
        name: of the figure.
        headline: what is seen.
        wide: SVG for a page.
        narrow: SVG for a phone.
        csv: the plotted numbers.
        command: how to draw it again.
        origin: the commands that made the numbers.
    """

    name: str
    headline: str
    wide: str
    narrow: str
    csv: str
    command: str
    origin: Sequence[str]

    @property
    def spec(self) -> FigureSpec:
        """What the figure is."""
        return FIGURES[self.name]

    @property
    def download(self) -> str:
        """The numbers as a data URI; percent-encoded, as base64 would make them a third longer."""
        return f"data:text/csv;charset=utf-8,{quote(self.csv, safe=PLAIN)}"

    def inline(self, narrow: bool, glyphs: Glyphs) -> Markup:
        """The SVG as part of the page."""
        prefix = f"{self.name}-{'narrow' if narrow else 'wide'}"
        return Markup(inline_svg(self.narrow if narrow else self.wide, prefix, self.headline, glyphs))


def colour_variables(dark: bool) -> str:
    """CSS declarations of the palette."""
    pairs = style.DARK.items() if dark else ((colour, colour) for colour in style.DARK)
    return " ".join(f"--c{name[1:]}: {value};" for name, value in pairs)


def mathml(latex: str) -> Markup:
    """A formula that browsers set themselves."""
    return Markup(re.sub(r' xmlns="[^"]*"', "", convert(latex))) if latex else Markup("")


def page(results: Results, figures: Sequence[Drawn], tables: Sequence[Table], missing: Sequence[str]) -> str:
    """The whole report as one HTML text; the same text for the same results."""
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["mathml"] = mathml
    environment.filters["pieces"] = ledger.pieces
    strips, left_out = gallery.strips(results)
    rows = ledger.rows(results)
    glyphs = Glyphs()
    return environment.get_template("page.html").render(
        disclaimer=ledger.DISCLAIMER,
        origins=ledger.ORIGINS,
        summary=[*ledger.summary(rows), *ledger.changes(results)],
        ledger=rows,
        sections={key: (title, [f for f in figures if f.spec.section == key]) for key, title in SECTIONS.items()},
        plots={f.name: (f.inline(False, glyphs), f.inline(True, glyphs)) for f in figures},
        sprite=Markup(glyphs.sprite()),
        tables=tables,
        strips=strips,
        missing=[*missing, *results.damaged, *left_out],
        light=Markup(colour_variables(dark=False)),
        dark=Markup(colour_variables(dark=True)),
    )
