"""The page in a real browser: no script errors, no broken images, nothing wider than a phone, tables that sort.

Without a browser on the machine these tests do not run, except where CI is set: there they fail.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None and "CI" not in os.environ, reason=f"needs one of {', '.join(NAMES)} (Debian: chromium)"
)
PHONE, DESK = 390, 1200

PROBE = """<script>
const problems = [];
addEventListener("error", (e) => problems.push(e.message || `cannot load ${e.target.tagName}`), true);
addEventListener("unhandledrejection", (e) => problems.push(String(e.reason)));
const copies = [];  // of the images within figures; the load event waits for them
addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll("svg image")) {
    const copy = new Image(); copy.src = image.href.baseVal; copies.push(copy);
  }
});
addEventListener("load", () => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const pictures = [...document.images, ...copies];
  const broken = pictures.filter((p) => !p.complete || p.naturalWidth === 0).length;
  const clipped = (e) => e.closest(".scroll, pre, .formula, .sprite");
  const wide = [...document.body.querySelectorAll("*:not(svg *)")].filter((e) =>
    !clipped(e) && e.getBoundingClientRect().right > innerWidth + 1);
  const sorted = [];
  for (const table of document.querySelectorAll("#tables table")) {
    const head = table.tHead.rows[0].cells;
    const column = [...head].findIndex((cell) => cell.className === "n");
    if (column < 0 || table.tBodies[0].rows.length < 2) continue;
    head[column].click();
    const values = [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.sort));
    sorted.push(values.every((value, k) => k === 0 || values[k - 1] <= value) && head[column].ariaSort === "ascending");
  }
  parent.postMessage(JSON.stringify({
    problems, broken, pictures: pictures.length, wide: wide.map((e) => e.outerHTML.slice(0, 80)), sorted,
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches, paper: getComputedStyle(document.body).backgroundColor,
    shown: [...document.querySelectorAll("figure svg")].filter((e) => e.getBoundingClientRect().width > 0).length,
  }), "*");
});
</script>"""

# A window cannot be as narrow as a phone, a frame can.
FRAME = """<!DOCTYPE html><html><head><meta name="color-scheme" content="light dark"></head><body>
<script>addEventListener("message", (e) => { document.documentElement.dataset.probe = e.data; });</script>
<iframe src="page.html" style="width: %dpx; height: 844px; border: 0"></iframe></body></html>"""


@dataclass
class Browser:
    """A browser without a window, which knows nothing of earlier calls."""

    folder: Path

    def run(self, page: Path, *flags: str) -> str:
        assert BROWSER is not None, f"CI is set and none of {', '.join(NAMES)} is installed"
        quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-quic", "--hide-scrollbars", f"--user-data-dir={self.folder / 'profile'}")  # fmt: skip
        command = [BROWSER, *quiet, "--virtual-time-budget=20000", "--timeout=100000", *flags, page.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    def probe(self, text: str, width: int, dark: bool) -> dict[str, Any]:
        """What a reader's browser makes of a page, all images loaded: the page's own script runs, then ours."""
        text = text.replace('loading="lazy"', "")
        (self.folder / "page.html").write_text(text.replace("<head>", f'<head><meta charset="utf-8">{PROBE}', 1))
        frame = self.folder / "frame.html"
        frame.write_text(FRAME % width)
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        dumped = self.run(frame, f"--window-size={width + 100},900", scheme, "--dump-dom")
        found = re.search(r'data-probe="([^"]*)"', dumped)
        assert found is not None, "the page did not finish loading"
        return json.loads(html.unescape(found[1]))


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(tmp_path)


@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESK, True)], ids=["phone, light", "desk, dark"])
def test_page_is_whole_in_a_browser(built: Path, browser: Browser, width: int, dark: bool) -> None:
    found = browser.probe(built.read_text(), width, dark)
    assert found["problems"] == []
    assert found["broken"] == 0
    assert found["pictures"] > 20
    assert found["wide"] == []
    assert found["scroll"] <= found["width"]
    assert len(found["sorted"]) >= 3
    assert all(found["sorted"])
    assert found["width"] == width
    assert found["dark"] == dark
    assert found["paper"] == ("rgb(22, 25, 29)" if dark else "rgb(255, 255, 255)")
    assert found["shown"] == built.read_text().count('class="plot wide"')  # one layout of every figure, never both


def test_faults_would_be_seen(browser: Browser) -> None:
    page = (
        '<!DOCTYPE html><html><head></head><body><div style="width: 3000px">wide</div>'
        '<img src="data:image/webp;base64,AAAA"><script>undefinedFunction()</script>'
        '<section id="tables"><table><thead><tr><th class="n">x</th></tr></thead>'
        '<tbody><tr><td data-sort="2">2</td></tr><tr><td data-sort="1">1</td></tr></tbody></table></section>'
        "</body></html>"
    )
    found = browser.probe(page, PHONE, dark=False)
    assert any("undefinedFunction" in problem for problem in found["problems"])
    assert found["broken"] == 1
    assert len(found["wide"]) == 1
    assert found["scroll"] > found["width"]
    assert found["sorted"] == [False]


def test_a_screenshot_has_something_on_it(built: Path, browser: Browser, tmp_path: Path) -> None:
    target = tmp_path / "page.png"
    browser.run(built, f"--window-size={DESK},900", f"--screenshot={target}")
    with Image.open(target) as image:
        assert image.width == DESK
        assert np.asarray(image.convert("L")).std() > 20
