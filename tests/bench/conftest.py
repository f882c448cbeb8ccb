"""A task whose behaviour a test decides, and small linear cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import tasks
from bench.api import Cell, CellResult, Context, MetricMatrix, Value
from bench.runner import Job, compute
from bench.schema import CellRecord
from bench.store import Store

SMALL = "linear-synthetic:width=16,samples=100,rank=2"


@dataclass
class ScriptedTask:
    """Runs whatever function it is given; without one, returns numbers drawn from the cell's streams."""

    name: str = "scripted"
    family: str = "linear"
    ran: list[Cell] = field(default_factory=list)
    script: Callable[[Cell, Context], None] = lambda cell, context: None

    def max_concepts(self) -> int:
        return 10

    def estimate(self, cell: Cell) -> float:
        return 2.0

    def run(self, cell: Cell, method: Any, context: Context) -> CellResult:
        self.ran.append(cell)
        self.script(cell, context)
        T = cell.n_concepts
        R = np.where(np.tri(T, dtype=bool), context.seeds.rng("data").random((T, T)), np.nan)
        matrix = MetricMatrix("relative_error", R, R[-1], np.ones(T))
        values = [Value("overlap", 0.25, concept=0, other=1, item="pair")]
        return CellResult(tuple(f"c{i}" for i in range(T)), [matrix], values, {"rank": 2})


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedTask:
    """The task "scripted", known for the length of a test."""
    task = ScriptedTask()
    entries = {**tasks.TASKS._entries, "scripted": lambda options: task}
    monkeypatch.setattr(tasks.TASKS, "_entries", entries)
    tasks.load_task.cache_clear()
    yield task
    tasks.load_task.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def record(store: Store) -> CellRecord:
    """A real record, not stored."""
    return compute(Cell(SMALL, "seqlora", 2), store, Job(store.folder))
