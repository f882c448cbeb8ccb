"""Figures: drawn from the numbers beside them, readable, and the same bytes for the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reports import build
from reports.figures import FIGURES, FigureSpec, find
from reports.figures.api import as_svg, read_csv
from reports.sources import Results
from seqlora.errors import BadInputError, StoredFileError


@pytest.fixture(params=FIGURES, scope="module")
def spec(request: pytest.FixtureRequest) -> FigureSpec:
    return FIGURES[request.param]


def test_every_figure_is_saved_with_its_numbers_and_command(spec: FigureSpec, spectra: Results, built: Path) -> None:
    saved = built.parent / "figures" / spec.name
    pd.testing.assert_frame_equal(
        read_csv(saved.with_suffix(".csv")), spec.select(spectra).reset_index(drop=True), check_dtype=False
    )
    text = saved.with_suffix(".txt").read_text()
    assert f"python -m reports figure {spec.name}" in text
    assert spec.caption in text
    with Image.open(saved.with_suffix(".png")) as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("name", ["tightness", "rank_star", "method_comparison", "gallery", "layer_energy"])
def test_nothing_but_the_saved_numbers_is_drawn(name: str, built: Path) -> None:
    """Drawn again from the CSV alone, the figure is the same to the byte."""
    saved = built.parent / "figures" / name
    assert FIGURES[name].svg(read_csv(saved.with_suffix(".csv"))) == saved.with_suffix(".svg").read_text()


@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_nothing_is_cut_off(spec: FigureSpec, overhangs: dict[tuple[str, bool], float], narrow: bool) -> None:
    assert overhangs[spec.name, narrow] < 0.02


def test_cut_text_would_be_seen(measure: Callable[[Figure], float]) -> None:
    figure = Figure(figsize=(2, 1))
    figure.text(0.9, 0.5, "runs over the edge")
    assert measure(figure) > 0.5


def test_points_lie_where_the_table_says(results: Results) -> None:
    spec = FIGURES["tightness"]
    data = spec.select(results)
    panel = spec.figure(data).axes[0]
    for delta, group in data[data.panel == "exact"].groupby("delta"):
        line = next(line for line in panel.lines if line.get_label() == f"δ = {delta:g}")
        group = group.sort_values("n_samples")
        np.testing.assert_array_equal(line.get_xdata(), group.n_samples)
        np.testing.assert_array_equal(line.get_ydata(), group.ratio)


def test_another_process_draws_the_same_bytes(folder: Path, results: Results, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    build.draw("phase_diagram", results, here)
    command = [sys.executable, "-m", "reports", "figure", "phase_diagram", "--results", str(folder)]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "MPLBACKEND": "agg"}
    subprocess.run([*command, "--out", str(there)], check=True, env=environment, capture_output=True)
    assert sorted(path.suffix for path in there.iterdir()) == [".csv", ".png", ".svg", ".txt"]
    for path in there.iterdir():
        assert path.read_bytes() == (here / path.name).read_bytes(), path.name


def test_unknown_figure_and_missing_csv(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no figure 'tightnes'; there are .*tightness"):
        find("tightnes")
    with pytest.raises(StoredFileError, match=r"absent\.csv is no CSV of a figure"):
        read_csv(tmp_path / "absent.csv")


def test_spectra_are_told_apart_by_decay_and_angle(spectra: Results, results: Results) -> None:
    data = FIGURES["spectra"].select(spectra)
    assert sorted(data.decay.unique()) == [0.5, 1.5, 2.0]
    assert set(data.angle) == {45.0}
    assert (data.groupby("method")["mean"].nunique() == 1).all()  # the same cells thrice
    assert FIGURES["spectra"].select(results).empty  # one decay makes no line
    assert FIGURES["spectra"].headline(data).startswith("Of 3 spectra at T = 3: ")


def test_coordinates_are_rounded_and_nothing_else_is() -> None:
    svg = '<path id="d0.1234" d="M {} -7.5 \nL {} 0" transform="scale(0.015625)"/><use x="{}" y="3" r="0.125"/>'
    figure = Figure()
    figure.savefig = lambda buffer, **_: buffer.write(svg.format("1.23456", "8.999999", "-4.0051"))  # type: ignore
    assert as_svg(figure) == svg.format("1.23", "9.00", "-4.01")
