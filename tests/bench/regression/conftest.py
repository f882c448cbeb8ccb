"""Snapshots of real linear cells, computed in memory, and of cells whose numbers a test makes up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import pytest

from bench.api import Cell
from bench.regression.snapshot import CellNumbers, Snapshot, of_records
from bench.runner import Job, compute
from bench.store import Store


def measured(cells: Iterable[Cell], store: Store, **options: str) -> Snapshot:
    """What the code as it now is makes of `cells`."""
    records = [compute(cell, store, Job(store.folder, options=options)) for cell in cells]
    assert all(record.status == "done" for record in records), [record.reason for record in records]
    return of_records(records, "memory")


def elsewhere(snapshot: Snapshot, fingerprint: str = "another machine") -> Snapshot:
    """The same numbers, but from where they need not be equal: only the statistics decide."""
    cells = [entry.model_copy(update={"fingerprint": fingerprint}) for entry in snapshot.cells]
    return snapshot.model_copy(update={"cells": cells, "comparable": {fingerprint: {"cpu": fingerprint}}})


def made_up(
    values: Mapping[str, Sequence[float]], fingerprint: str = "here", method: str = "seqlora", **changes: str
) -> Snapshot:
    """One group of cells: number -> its value for seed 0, 1, ..."""
    seeds = len(next(iter(values.values())))
    cells = [
        CellNumbers(
            task="linear-synthetic:width=8",
            method=method,
            n_concepts=2,
            order=0,
            seed=seed,
            **{"status": "done", "fingerprint": fingerprint, "weights": "", **changes},
            numbers={name: numbers[seed] for name, numbers in values.items()},
        )
        for seed in range(seeds)
    ]
    return Snapshot(
        git_revision="0" * 40,
        git_dirty=False,
        created_utc="2026-01-01T00:00:00+00:00",
        comparable={fingerprint: {"cpu": "one"}},
        cells=cells,
    )


@pytest.fixture
def make() -> SimpleNamespace:
    """The functions of this file."""
    return SimpleNamespace(measured=measured, elsewhere=elsewhere, made_up=made_up)
