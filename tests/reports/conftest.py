"""Results to report: claims checked on smoke-sized synthetic layers, a few linear cells, one timed ratio, all measured;
image cells and a history of revisions with the shape of real ones and numbers from a random generator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from threadpoolctl import threadpool_limits

from bench.api import Array, Cell, CellResult, MetricMatrix, Value
from bench.composed import DRAWN, PLAIN, REGIONAL
from bench.regression.history import COLUMNS
from bench.runner import Job, compute
from bench.schema import CellRecord, result_fields
from bench.store import Store
from bench.world.sampling import grid
from reports import build, style
from reports.figures import FigureSpec
from reports.sources import Results, load
from seqlora.files import write_json
from theory import ledger
from theory.stattest import check_rate

SMALL = "linear-synthetic:width=16,samples=100,rank=2"
PEOPLE = "portraits:steps=2"
IMAGE_METHODS = {  # share of an identity that each later stage takes away
    "token-only": ("control", 0.0),
    "plain-sum": ("method", 0.5),
    "seqlora": ("method", 0.3),
    "seqlora-penalty": ("method", 0.02),
    "seqlora-penalty:gamma=0.2": ("method", 0.1),
    "fusion": ("method", 0.15),
}
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
    _draw_people(store, like=next(store.all_records()))
    write_json(root / "timing" / "timing.json", {"machine": "here", "threads": 1, "ratios": [_timed()]})
    pd.DataFrame(_revisions(), columns=COLUMNS).to_csv(root / "history.csv", index=False)
    return root


@pytest.fixture(scope="session")
def results(folder: Path) -> Results:
    return load(folder)


@pytest.fixture(scope="session")
def spectra(results: Results) -> Results:
    """The same with every linear cell on two more spectra."""
    linear = results.linear
    more = [linear.assign(task=SMALL.replace(":", f":decay={decay},")) for decay in (0.5, 2.0)]
    return replace(results, cells=pd.concat([results.cells, *more], ignore_index=True))


@pytest.fixture(scope="session")
def _built(spectra: Results, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, bool], float]]:
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
        return build.build(spectra, tmp_path_factory.mktemp("report")).page, overhangs


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


def _draw_people(store: Store, like: CellRecord) -> None:
    """Image cells of every method: T = 2 and 3, two seeds."""
    for count in (2, 3):
        for seed in (0, 1):
            for method, (role, loss) in IMAGE_METHODS.items():
                cell = Cell(PEOPLE, method, count, seed=seed)
                rng = np.random.default_rng([count, seed])  # as in real cells, noise does not depend on the method
                folder = store.artifacts(cell)
                folder.mkdir(parents=True)
                Image.fromarray(_sheet(count, loss, rng)).save(folder / "gallery.png")
                gamma = {"seqlora-penalty": 1.0, "seqlora-penalty:gamma=0.2": 0.2}.get(method)
                record = like.model_copy(
                    update={
                        "cell": like.cell.model_copy(update=vars(cell)),
                        "pretty_name": f"{method.partition(':')[0]} in words",
                        "role": role,
                        "settings": {"rank": 2} | ({} if gamma is None else {"gamma": gamma}),
                        "artifacts": {"gallery": str((folder / "gallery.png").relative_to(store.folder))},
                        **result_fields(_people(count, loss, rng)),
                    }
                )
                store.write(CellRecord.model_validate(record.model_dump()))


def _people(T: int, loss: float, rng: np.random.Generator) -> CellResult:
    """What `bench.tasks.images` measures, for a method that loses a share of an identity with each later stage."""
    later = np.tril(np.arange(T)[:, None] - np.arange(T)[None, :]).astype(float)
    seen = np.where(np.tri(T) > 0, 0.8 * (1 - loss) ** later + 0.02 * rng.standard_normal((T, T)), np.nan)
    nothing = np.full(T, np.nan)
    metrics = {"identity": seen, "clip_text": 0.6 - 0.3 * seen, "context": 1 - 0.5 * seen, "detection": seen,
               "face_found": np.where(np.tri(T) > 0, 1.0, np.nan), "clip_image": seen}  # fmt: skip
    matrices = [MetricMatrix(name, R, np.full(T, 0.8), np.zeros(T)) for name, R in metrics.items()]
    energies = {f"block.{k}": loss * later * rng.uniform(0.5, 1.5) for k in range(4)}
    energies[""] = np.mean(list(energies.values()), axis=0)
    matrices += [MetricMatrix("forgetting_energy", _lower(F), nothing, nothing, layer) for layer, F in energies.items()]
    pairs = [(i, j) for i in range(T) for j in range(T) if i != j]
    values = [Value("identity", seen[t, j], stage=t, concept=j, item="prompt 0") for j in range(T) for t in range(j, T)]
    values += [Value("cross_similarity", 0.3 * loss, concept=i, other=j) for i, j in pairs]
    values += [Value("identity_real", 0.9, concept=i) for i in range(T)]
    for how, share in ((PLAIN, 0.5), (REGIONAL, 0.9), (DRAWN, 1.0)):
        values += [Value(f"{how}region_identity", share * seen[-1, i], concept=i, other=j) for i, j in pairs]
        values += [Value(f"{how}leakage", 0.2 * (1 - share), concept=i, other=j) for i, j in pairs]
    checks = [
        check_rate("C3, plain form: delta=0.1", 0, 32, 0.1, layer=name, forgetting=float(F[-1, 0]), bound=loss * T + 1)
        for name, F in energies.items()
        if name
    ]
    timing = {"learn_seconds": 3.0 * T, "learn_seconds_per_concept": 3.0, "merge_seconds": 0.01 * T,
              "stored_bytes_per_concept": 4000.0}  # fmt: skip
    names = tuple(f"person{j}" for j in range(T))
    return CellResult(names, matrices, [*values, Value("drift", 0.1 * loss)], {}, [c.to_json() for c in checks], timing)


def _lower(F: Array) -> Array:
    return np.where(np.tri(len(F)) > 0, F, np.nan)


def _sheet(T: int, loss: float, rng: np.random.Generator) -> np.ndarray:
    """A row a concept: its colour, then the same fading into grey."""
    colours = rng.integers(0, 256, (T, 3))
    images = np.full((T, T + 1, 16, 12, 3), 255.0)
    images[:, 0] = colours[:, None, None]
    for j in range(T):
        for t in range(j, T):
            images[j, t + 1] = 128 + (colours[j] - 128) * (1 - loss) ** (t - j)
    return grid(images.reshape(-1, 16, 12, 3).astype(np.uint8), T + 1)


def _revisions() -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(0)
    for day, revision in enumerate(("1a2b3c4d5e", "2b3c4d5e6f", "3c4d5e6f7a")):
        for number in ("identity.final", "identity.forgetting"):
            yield {"revision": revision, "date": f"2026-01-0{day + 1}", "fingerprint": "f", "task": PEOPLE,
                   "method": "seqlora", "n_concepts": 2, "number": number, "better": "higher",
                   "mean": 0.5 + 0.01 * rng.standard_normal(), "sd": 0.02, "seeds": 8}  # fmt: skip


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
