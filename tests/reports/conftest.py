"""Real results, small: every claim checked on smoke-sized synthetic layers, a few linear cells, one timed ratio."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from bench.api import Cell
from bench.runner import Job, compute
from bench.store import Store
from reports import build, style
from reports.figures import FigureSpec
from reports.sources import Results, load
from seqlora.files import write_json
from theory import ledger

SMALL = "linear-synthetic:width=16,samples=100,rank=2"
METHODS = ("base", "plain-sum", "plain-average", "frozen-orthonormal", "seqlora", "seqlora-penalty", "joint")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results as the commands leave it. Read it, do not write into it."""
    root = tmp_path_factory.mktemp("results")
    with threadpool_limits(1):
        found = ledger.run(ledger.select([]), "synthetic", "smoke", seed=0)
    stored = ledger.to_json(found, "synthetic", "smoke", 0, [])
    for result in stored["results"]:
        result["tables"] = {name: _few(rows) for name, rows in result["tables"].items()}
    write_json(root / "theory" / "synthetic.json", stored)
    store = Store(root / "bench")
    for seed in range(3):
        for method in METHODS:
            store.write(compute(Cell(SMALL, method, 3, seed=seed), store, Job(store.folder)))
    write_json(root / "timing" / "timing.json", {"machine": "here", "threads": 1, "ratios": [_timed()]})
    return root


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return load(folder)


@pytest.fixture(scope="session")
def _built(results: Results, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, bool], float]]:
    """Everything built once, each figure measured as it is drawn."""
    overhangs: dict[tuple[str, bool], float] = {}
    draw = FigureSpec.figure

    def measured(spec: FigureSpec, data: pd.DataFrame, narrow: bool = False) -> Figure:
        figure = draw(spec, data, narrow)
        overhangs[spec.name, narrow] = overhang(figure)
        return figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureSpec, "figure", measured)
        patch.setitem(style.RC, "savefig.dpi", 50)  # pixels cost time and are looked at elsewhere
        return build.build(results, tmp_path_factory.mktemp("report")).page, overhangs


@pytest.fixture
def built(_built: tuple[Path, dict[tuple[str, bool], float]]) -> Path:
    """The page of a built report. Read its folder, do not write into it."""
    return _built[0]


@pytest.fixture
def overhangs(_built: tuple[Path, dict[tuple[str, bool], float]]) -> dict[tuple[str, bool], float]:
    """By how many inches each figure, by name and whether narrow, reached over its edge."""
    return _built[1]


@pytest.fixture
def measure() -> Callable[[Figure], float]:
    return overhang


def overhang(figure: Figure) -> float:
    """By how many inches anything visible reaches over the edge of the figure."""
    drawn, width, height = figure.get_tightbbox(), *figure.get_size_inches()
    return max(-drawn.x0, -drawn.y0, drawn.x1 - width, drawn.y1 - height)


def _few(rows: list[dict[str, Any]], layers: int = 2) -> list[dict[str, Any]]:
    """Rows of the first layers only: panels take time to draw."""
    kept = list(dict.fromkeys(row["layer"] for row in rows))[:layers]
    return [row for row in rows if row["layer"] in kept]


def _timed() -> dict[str, object]:
    """One ratio, measured."""
    matrix = np.ones((200, 200))
    pairs = []
    for _ in range(3):
        start = time.perf_counter()
        matrix.copy()
        middle = time.perf_counter()
        matrix @ matrix
        pairs.append((middle - start) / (time.perf_counter() - middle))
    ratio = float(np.median(pairs))
    return {
        "name": "copy / product",
        "ratio": ratio,
        "low": min(pairs),
        "high": max(pairs),
        "goal": 1.0,
        "smaller_is_better": True,
        "goal_met": ratio <= 1.0,
    }
