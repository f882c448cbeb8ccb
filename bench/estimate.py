"""How long a run will take: from cells of the same kind that were timed, else from the task's own guess."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

from bench.api import Cell, SharesWork
from bench.schema import CellRecord
from bench.tasks import load_task


def estimate_seconds(cells: Sequence[Cell], timed: Iterable[CellRecord], workers: int = 1) -> float:
    """Seconds until all of `cells` are done; what several of them share counts once.

    Args:
        cells: what is missing.
        timed: finished cells, of any kind.
        workers: cells at the same time.
    """
    times: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in timed:
        if record.status == "done":
            for kind in _kinds(record.to_cell()):
                times[kind].append(record.timing["total_seconds"])

    own = 0.0
    shared: dict[str, float] = {}
    for cell in cells:
        known = next((times[kind] for kind in _kinds(cell) if times.get(kind)), None)
        if known:
            own += mean(known)
            continue
        task = load_task(cell.task)
        own += task.estimate(cell)
        if isinstance(task, SharesWork):
            name, seconds = task.shared(cell)
            shared[name] = seconds
    return (own + sum(shared.values())) / max(1, min(workers, len(cells)))


def in_words(seconds: float) -> str:
    """A duration for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _kinds(cell: Cell) -> tuple[tuple[str, ...], ...]:
    """From the most to the least specific."""
    count = str(cell.n_concepts)
    return (cell.task, cell.method, count), (cell.task, "", count)
