"""SVG files as parts of one HTML page: colours that follow the page, ids that do not clash, each glyph once."""

from __future__ import annotations

import base64
import io
import re
from html import escape

from PIL import Image

from reports import style

OWN_ID = re.compile(  # ids that nothing refers to
    r' id="(?:(?:figure|patch|axes|matplotlib\.axis|[xy]tick|line2d|text|legend|\w*Collection)_\d+|image[0-9a-f]+)"'
)
GLYPH = re.compile(r'<path id="([A-Za-z][\w-]*-[0-9a-f]+)" d="([^"]*)" transform="(scale\([^"]*)"/>')


class Glyphs:
    """The outlines of all letters that the figures of a page use; each is kept once, under a short id."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}  # outline -> id
        self._names: dict[str, str] = {}  # matplotlib's id within one figure -> ours

    def collect(self, svg: str) -> str:
        """Take the glyph outlines out of `svg` and let its text refer to ours."""
        self._names = {}
        svg = re.sub(r"<defs>\s*</defs>", "", GLYPH.sub(self._keep, svg))
        return re.sub(r'xlink:href="#([^"]+)"', lambda use: f'href="#{self._names.get(use[1], use[1])}"', svg)

    def _keep(self, match: re.Match[str]) -> str:
        outline = f'd="{" ".join(match[2].split())}" transform="{match[3]}"'
        self._names[match[1]] = self._ids.setdefault(outline, f"g{len(self._ids)}")
        return ""

    def sprite(self) -> str:
        """An invisible SVG that defines them."""
        paths = "".join(f'<path id="{name}" {outline}/>' for outline, name in self._ids.items())
        return f'<svg class="sprite" aria-hidden="true"><defs>{paths}</defs></svg>'


def inline_svg(svg: str, prefix: str, label: str, glyphs: Glyphs) -> str:
    """Make a stored SVG part of an HTML page.

    Args:
        svg: as matplotlib writes it.
        prefix: of all ids that are the figure's own.
        label: what a screen reader says.
        glyphs: takes the outlines of its letters.

    Returns:
        The `svg` element: no header, no metadata, no namespaces (HTML knows them), colours of the palette as variables.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = glyphs.collect(svg)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = OWN_ID.sub("", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)(?!g\d+")', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-label="{escape(label)}"', svg, count=1)
    svg = re.sub(r"(?<=: )#([0-9a-f]{6})(?![0-9a-f])", _variable, svg)
    svg = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", _as_webp, svg)
    svg = re.sub(r"(?:image-rendering: ?[a-z-]+;?)+", "", svg)  # smooth, whatever the size
    return re.sub(r">\s+<", ">\n<", svg)


def _as_webp(match: re.Match[str]) -> str:
    """A photograph in a figure at a fifth of its bytes."""
    with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=85, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _variable(match: re.Match[str]) -> str:
    colour = match.group(0)
    return f"var(--c{colour[1:]})" if colour in style.DARK else colour
