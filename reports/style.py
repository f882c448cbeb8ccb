"""How every figure looks: one palette, one set of sizes, one way to say what a point means, the same bytes each time.

Colours have the hues of Okabe and Ito (2008) and differ in lightness too, so that red- and green-blind eyes tell them
apart; each has a contrast of at least 3:1 on the page. Series differ by marker as well as by colour. `DARK` gives each
colour its counterpart on a dark page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullLocator

from bench.options import labelled, split_name

INK, FAINT, GRID, PAPER = "#1f2328", "#646b73", "#d9dde2", "#ffffff"
BLUE, RED, GREEN, PURPLE, GOLD, SKY, GREY = (
    "#06588f", "#9a3412", "#0b9d82", "#c936bf", "#b3851d", "#3a8cc4", "#6e757d",
)  # fmt: skip
DARK = {
    INK: "#e6e9ed", FAINT: "#9ba3ac", GRID: "#373d45", PAPER: "#16191d",
    BLUE: "#8fc4fa", RED: "#f0693d", GREEN: "#45d9a8", PURPLE: "#dd5fd5", GOLD: "#fdd61c", SKY: "#5aa7d8",
    GREY: "#a7aeb6",
}  # fmt: skip
CYCLE = (BLUE, RED, GREEN, PURPLE, GOLD, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CHEAP, DEAR = "YlGnBu", "PuOr_r"  # sequential and diverging maps; both survive grey-scale and colour blindness

WIDE, NARROW = 7.2, 3.6  # inches: a page, a phone
RC: dict[str, Any] = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.facecolor": PAPER,
    "savefig.dpi": 200,
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": INK,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": 8.5,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.5,
    "svg.hashsalt": "seqlora",  # element ids derive from the content, not from a random number
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and name of one series."""

    colour: str
    marker: str
    label: str
    hollow: bool = False

    @property
    def face(self) -> str:
        """Fill of the marker."""
        return PAPER if self.hollow else self.colour


METHODS = {
    "base": Look(GREY, "X", "untrained base"),
    "token-only": Look(GREY, "D", "token only", hollow=True),
    "token-only-layerwise": Look(GREY, "D", "layer-wise words only"),
    "plain-sum": Look(RED, "o", "plain sum"),
    "plain-average": Look(RED, "v", "plain 1/T average", hollow=True),
    "plain-norm-matched": Look(RED, "^", "plain norm-matched", hollow=True),
    "plain-sequence": Look(RED, "s", "plain in sequence", hollow=True),
    "alternating": Look(PURPLE, "D", "alternating A and B"),
    "frozen-random": Look(GOLD, "o", "frozen random sum", hollow=True),
    "frozen-random-sequence": Look(GOLD, "s", "frozen random in sequence", hollow=True),
    "frozen-orthonormal": Look(GREEN, "o", "frozen orthonormal sum"),
    "frozen-orthonormal-sequence": Look(GREEN, "s", "frozen orthonormal in sequence", hollow=True),
    "frozen-same": Look(GOLD, "v", "one frozen basis for all", hollow=True),
    "orthogonal-adaptation": Look(GREEN, "D", "Orthogonal Adaptation, paper mode"),
    "orthogonal-adaptation-weight": Look(GREEN, "^", "frozen orthonormal 0.6 x sum", hollow=True),
    "seqlora": Look(BLUE, "o", "SeqLoRA"),
    "seqlora-penalty": Look(BLUE, "P", "SeqLoRA + penalty"),
    "seqlora-penalty-layerwise": Look(BLUE, "s", "SeqLoRA + penalty, layer-wise words"),
    "seqlora-penalty-kronecker": Look(BLUE, "d", "SeqLoRA + K-FAC penalty, layer-wise words"),
    "seqlora-replay": Look(BLUE, "X", "SeqLoRA + K-FAC penalty + replay, layer-wise words"),
    "penalty-only": Look(SKY, "P", "penalty only", hollow=True),
    "penalty-uniform": Look(BLUE, "v", "penalty, one weight for all layers", hollow=True),
    "penalty-sketch": Look(BLUE, "^", "penalty, sketched moments", hollow=True),
    "penalty-output-scale": Look(BLUE, "P", "penalty relative to output energy", hollow=True),
    "penalty-without-base": Look(BLUE, "D", "penalty, base not protected", hollow=True),
    "fusion": Look(PURPLE, "o", "fusion of plain"),
    "fusion-frozen": Look(PURPLE, "s", "fusion of frozen", hollow=True),
    "fusion-lbfgs": Look(PURPLE, "^", "fusion of plain, LBFGS", hollow=True),
    "ed-lora-average": Look(SKY, "v", "ED-LoRA 1/T average", hollow=True),
    "mix-of-show": Look(SKY, "D", "Mix-of-Show"),
    "mix-of-show-exact": Look(SKY, "s", "Mix-of-Show, exact", hollow=True),
    "joint-rank": Look(INK, "d", "joint of rank rT"),
    "joint": Look(INK, "X", "joint of any rank"),
}
"""Series of all methods, in the order of tables. Others get a colour by their place, see `look`."""

FAMILIES = {
    "gaussian": Look(BLUE, "o", "Gaussian"),
    "rademacher": Look(GREEN, "s", "Rademacher"),
    "uniform": Look(SKY, "^", "uniform"),
    "student": Look(RED, "D", "Student t(3), control", hollow=True),
    "sparse": Look(PURPLE, "v", "sparse spikes, control", hollow=True),
}


def in_order(names: Iterable[str]) -> list[str]:
    """Methods as tables and legends list them; unknown ones last, as they come."""
    known = list(METHODS)
    return sorted(dict.fromkeys(names), key=lambda name: _place(split_name(name)[0], known))


def _place(kind: str, known: list[str]) -> int:
    return known.index(kind) if kind in known else len(known)


def look(name: str, index: int = 0) -> Look:
    """How a method is drawn; its options (after a colon) are added to its label."""
    kind, _ = split_name(name)
    if kind in METHODS:
        known = METHODS[kind]
        return Look(known.colour, known.marker, labelled(known.label, name), known.hollow)
    return cycled(name, index)


def cycled(label: str, index: int) -> Look:
    """A series that is known by its place only: colour and marker run through cycles of the same length."""
    hollow = bool((index // len(CYCLE)) % 2)
    return Look(CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)], label, hollow)


@contextmanager
def styled() -> Iterator[None]:
    """Our settings, on top of matplotlib's own defaults and not of the user's."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)  # type: ignore[arg-type]
        yield


def panels(
    count: int,
    narrow: bool,
    *,
    columns: int = 3,
    narrow_columns: int = 1,
    height: float = 2.3,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels.

    Args:
        count: panels.
        narrow: for a phone.
        columns: most columns on a page.
        narrow_columns: most columns on a phone.
        height: inches a row.
        sharey: as in `Figure.subplots`.
    """
    across = min(narrow_columns if narrow else columns, count)
    rows = ceil(count / across)
    figure = Figure(figsize=(NARROW if narrow else WIDE, rows * height))
    FigureCanvasAgg(figure)
    grid = np.atleast_1d(figure.subplots(rows, across, sharey=sharey, squeeze=False)).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def headline(figure: Figure, text: str) -> None:
    """What the figure shows, as a sentence above it; the figure grows by its height."""
    narrow = figure.get_figwidth() < 5
    wrapped = "\n".join(textwrap.wrap(text, 41 if narrow else 76, break_on_hyphens=False))
    title = figure.suptitle(wrapped, x=0.008, ha="left", fontsize=9.5 if narrow else 10.5, fontweight="bold")
    _grow(figure, title)


def legend_below(figure: Figure, panels: Sequence[Axes], columns: int = 4, handles: Sequence[Line2D] = ()) -> None:
    """One legend for all panels, under them, in as many columns as fit; the figure grows by its height.

    Args:
        figure: where it goes.
        panels: axes whose labelled series it names; a label that comes twice is shown once.
        columns: most columns.
        handles: what is named besides.
    """
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    found.update({str(handle.get_label()): handle for handle in handles})
    for across in range(min(columns, len(found)), 0, -1):
        legend = figure.legend(list(found.values()), list(found), loc="outside lower left", ncols=across)
        if legend.get_window_extent().width <= figure.bbox.width - 10 or across == 1:
            _grow(figure, legend)
            return
        legend.remove()


def settle(figure: Figure) -> None:
    """Wrap titles and labels that do not fit, and lay out once and for all, so that every format shows the same."""
    engine = figure.get_layout_engine()
    for _ in range(3):  # a wrapped text moves the panels, and what fitted may no longer
        if engine is not None:
            engine.execute(figure)
        if sum(_wrap(text, width) for text, width in _limits(figure)) == 0:
            break
    with mpl.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # no engine at all, not "none": that would draw everything once more


def _limits(figure: Figure) -> Iterator[tuple[Text, float]]:
    """Titles and horizontal labels, with the width that each has: up to the next panel of its row, or the edge."""
    for axes in figure.axes:
        axes.apply_aspect()  # squares move inside their place; only drawing would do it
    for axes in figure.axes:
        box, edge = axes.get_window_extent(), figure.bbox.x1 - 4
        rights = [other.get_window_extent() for other in figure.axes if other is not axes]
        row = [other.x0 - 6 for other in rights if other.x0 > box.x0 and other.y0 < box.y1 and other.y1 > box.y0]
        # matplotlib has no public way to a title on the left
        yield axes._left_title, min([edge, *row]) - box.x0  # type: ignore[attr-defined]
        yield axes.xaxis.label, 2 * (edge - (box.x0 + box.x1) / 2)


def _wrap(text: Text, width: float) -> bool:
    """Break a text into lines of at most `width` pixels; whether that was needed."""
    needed = text.get_window_extent().width
    if not text.get_text() or needed <= width:
        return False
    longest = max(len(line) for line in text.get_text().splitlines())
    most = max(8, int(longest * width / needed))
    lines = [textwrap.wrap(line, most, break_on_hyphens=False) for line in text.get_text().splitlines()]
    text.set_text("\n".join(part for line in lines for part in line))
    return True


def _grow(figure: Figure, artist: Artist) -> None:
    """Make room for an artist above or below the panels."""
    figure.set_figheight(figure.get_figheight() + artist.get_window_extent().height / figure.dpi + 0.04)


def plain_ticks(axes: Axes, axis: str) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2, 5 in each decade where there is room, else powers of ten."""
    scale = axes.xaxis if axis == "x" else axes.yaxis
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    decades = abs(np.log10(high / low))
    steps = ((0.9, (1, 2, 3, 5, 7)), (1.6, (1, 2, 5)), (2.6, (1, 3)), (np.inf, (1,)))
    subdivisions = next(subs for most, subs in steps if decades < most)
    scale.set_major_locator(LogLocator(subs=subdivisions))
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter("{x:g}")


def points(look: Look) -> dict[str, Any]:
    """Keywords of `plot` and `errorbar` for markers without a line."""
    return {"color": look.colour, "marker": look.marker, "mfc": look.face, "linestyle": "none"}


def zero_rate(axes: Axes, x: Any, y: Any, look: Look, horizontal: bool = False) -> None:
    """No event was seen: an arrow towards zero from the exact upper limit, because the rate is not zero."""
    length = 0.45 * np.asarray(x if horizontal else y)
    limit: dict[str, Any] = {"xerr": length, "xuplims": True} if horizontal else {"yerr": length, "uplims": True}
    axes.errorbar(x, y, **limit, capsize=0, elinewidth=1, **points(look))


def named(source: str, layer: str, most: int = 36) -> str:
    """A layer's name, after that of its model unless it is synthetic."""
    model = "" if source == "synthetic" else f"{source.removeprefix('hf:').rstrip('/').rpartition('/')[2]} "
    return model + short(layer, most - len(model))


def short(layer: str, most: int = 36) -> str:
    """A layer's name without the parts that all layers of a model share."""
    for prefix in ("encoder.", "layer."):
        layer = layer.removeprefix(prefix)
    layer = layer.replace("attention.self.", "").replace("attention.output.", "attention.").replace(" angle=", ", ")
    layer = layer.replace(" n=64", "").replace(", columns AR", ", AR")
    return layer if len(layer) <= most else f"{layer[: most // 2 - 1]}…{layer[-most // 2 :]}"
