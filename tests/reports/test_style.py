"""The palette: seen on white and on black, and told apart by colour-blind eyes."""

from __future__ import annotations

from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from reports import style

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
SERIES = (style.BLUE, style.RED, style.GREEN, style.PURPLE, style.GOLD)


def linear(colour: str) -> NDArray[np.float64]:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(colour: str, paper: str) -> float:
    """WCAG 2 contrast ratio."""
    bright, dim = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (colour, paper)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear sRGB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(np.clip(to_xyz @ rgb, 0, None) / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("dark", [False, True])
def test_every_colour_stands_out_from_the_page(dark: bool) -> None:
    pages = {colour: style.DARK[colour] if dark else colour for colour in style.DARK}
    for colour in (style.INK, style.FAINT, *style.CYCLE):
        least = 4.5 if colour in (style.INK, style.FAINT) else 3.0  # text, graphics (WCAG 2, AA)
        assert contrast(pages[colour], pages[style.PAPER]) >= least, colour


@pytest.mark.parametrize("eye", BLINDNESS)
@pytest.mark.parametrize("dark", [False, True])
def test_series_differ_to_every_eye(eye: str, dark: bool) -> None:
    seen = {c: lab(np.asarray(BLINDNESS[eye]) @ linear(style.DARK[c] if dark else c)) for c in SERIES}
    for one, other in combinations(SERIES, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def test_methods_of_one_colour_have_different_markers() -> None:
    looks = [(look.colour, look.marker, look.hollow) for look in style.METHODS.values()]
    assert len(set(looks)) == len(looks)


def test_looks_of_options_and_strangers() -> None:
    assert style.look("seqlora-penalty:gamma=0.2").label == "SeqLoRA + penalty (gamma=0.2)"
    assert style.look("seqlora-penalty:gamma=0.2").colour == style.look("seqlora-penalty").colour
    assert style.look("new-method", 3).label == "new-method"
    assert style.in_order(["zz", "joint", "seqlora:x=1", "base"]) == ["base", "seqlora:x=1", "joint", "zz"]


def test_users_settings_change_nothing() -> None:
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}), style.styled():
        assert mpl.rcParams["font.size"] == style.RC["font.size"]
        assert mpl.rcParams["axes.facecolor"] == style.PAPER


def test_layer_names_stay_recognisable() -> None:
    assert style.named("minilm", "encoder.layer.4.attention.self.query") == "minilm 4.query"
    assert style.named("hf:models/tiny/", "unet.mid.attn1.to_q") == "tiny unet.mid.attn1.to_q"
    long = style.short("x" * 40 + "tail")
    assert len(long) <= 36
    assert long.endswith("tail")


def test_title_of_a_square_panel_stays_inside_the_figure() -> None:
    with style.styled():
        figure, panels = style.panels(4, narrow=False, columns=4, height=1.8)
        for panel in panels:
            panel.set_box_aspect(1.6)  # narrower than its place: the panel moves to the middle of it
            panel.set_title("Orthogonal Adaptation, paper mode")
        style.settle(figure)
        figure.canvas.draw()
    assert max(panel.get_tightbbox().x1 for panel in panels) <= figure.bbox.x1
