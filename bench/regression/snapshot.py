"""One side of a comparison: the numbers of many cells, from a store or from a baseline file in git."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.api import Cell
from bench.regression.numbers import numbers
from bench.schema import CellRecord, SchemaVersionError, Status
from bench.store import Store
from seqlora.errors import BadInputError, SeqLoRAError, StoredFileError
from seqlora.files import read_json

KIND = "seqlora-baseline"
SCHEMA_VERSION = 1
Group = tuple[str, str, int]  # task, method, number of concepts


class NotComparableError(SeqLoRAError):
    """There is no baseline, or none that this candidate can be held against."""

    exit_code = 4


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CellNumbers(_Strict):
    """What is compared of one cell."""

    task: str
    method: str
    n_concepts: int
    order: int
    seed: int
    status: Status
    reason: str = ""
    fingerprint: str
    weights: str  # hash of the weight files that the cell used: other weights are another task
    numbers: dict[str, float] = Field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """The cell that these are the numbers of."""
        return Cell(self.task, self.method, self.n_concepts, self.order, self.seed)

    @property
    def group(self) -> Group:
        """Cells that are replicates of one another: all that differ in seed and order only."""
        return self.task, self.method, self.n_concepts


class Ratio(_Strict):
    """A timing ratio of `python -m bench timing`."""

    ratio: float
    low: float
    high: float
    smaller_is_better: bool


class Snapshot(_Strict):
    """The numbers of many cells and what they were computed with.

    Attributes:
        comparable: fingerprint -> the environment behind it. Cells computed in one of these environments must have
            equal numbers; all others are compared statistically.
        verdicts: "C1 on synthetic layers" -> kind of verdict.
        ratios: name -> timing ratio.
    """

    kind: Literal["seqlora-baseline"] = "seqlora-baseline"  # KIND
    schema_version: Literal[1] = 1  # SCHEMA_VERSION
    git_revision: str | None
    git_dirty: bool | None
    created_utc: str
    comparable: dict[str, dict[str, Any]]
    cells: list[CellNumbers]
    verdicts: dict[str, str] = Field(default_factory=dict)
    ratios: dict[str, Ratio] = Field(default_factory=dict)

    def by_cell(self) -> dict[Cell, CellNumbers]:
        """Cell -> its numbers."""
        return {entry.cell: entry for entry in self.cells}


def of_records(records: Iterable[CellRecord], where: str) -> Snapshot:
    """The snapshot of stored cells; revision and date are those of the last one computed.

    Raises:
        NotComparableError: there are none.
    """
    kept = sorted(records, key=lambda record: record.to_cell())
    if not kept:
        raise NotComparableError(f"{where} holds no finished cell; run `python -m bench run --suite gate` first")
    last = max(kept, key=lambda record: record.provenance.created_utc)
    revisions = {record.provenance.git_revision for record in kept}
    return Snapshot(
        git_revision=last.provenance.git_revision if len(revisions) == 1 else None,
        git_dirty=any(record.provenance.git_dirty is not False for record in kept),
        created_utc=last.provenance.created_utc,
        comparable={record.fingerprint: _environment(record) for record in kept},
        cells=[_cell_numbers(record) for record in kept],
    )


def load(path: Path) -> Snapshot:
    """The snapshot at `path`: a store, a baseline file, or a folder with one baseline file.

    Raises:
        NotComparableError: nothing there, or something of another schema version.
        StoredFileError: a file that `bless` did not write.
    """
    if path.is_dir() and (path / "cells").is_dir():
        try:
            return of_records(Store(path).all_records(), str(path))
        except SchemaVersionError as error:
            raise NotComparableError(str(error)) from error
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        found = f"{len(files)} baseline files, not one" if path.is_dir() else "no baseline"
        raise NotComparableError(
            f"{path} holds {found}; give a store or a baseline file, or write one with `python -m bench bless`"
        )
    return _read(files[0])


def load_candidate(path: Path) -> Snapshot:
    """Like `load`, for the side whose absence is a mistake on the command line.

    Raises:
        BadInputError: nothing there.
    """
    if not path.exists():
        raise BadInputError(f"candidate {path} does not exist; run `python -m bench run --suite gate --out {path}`")
    return load(path)


def _read(path: Path) -> Snapshot:
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise StoredFileError(f"{path} is no baseline; give a store or a file that `python -m bench bless` wrote")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise NotComparableError(
            f"{path} has schema version {data.get('schema_version')!r}, not {SCHEMA_VERSION}; bless again"
        )
    try:
        return Snapshot.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise StoredFileError(f"{path} is damaged ({place}: {first['msg']}); restore it from git") from error


def _cell_numbers(record: CellRecord) -> CellNumbers:
    return CellNumbers(
        **record.cell.model_dump(),
        status=record.status,
        reason=record.reason,
        fingerprint=record.fingerprint,
        weights=_hash(record.provenance.weights),
        numbers=numbers(record) if record.status == "done" else {},
    )


def _environment(record: CellRecord) -> dict[str, Any]:
    """The part of the provenance that people read; the fingerprint is the hash of more."""
    kept = {"python", "os", "cpu", "device", "threads", "dtype", "blas", "torch_build"}
    found = record.provenance.model_dump(mode="json", include=kept)
    packages = record.provenance.packages
    return {**found, **{name: packages[name] for name in ("numpy", "torch") if name in packages}}


def _hash(weights: dict[str, str]) -> str:
    text = json.dumps(weights, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if weights else ""
