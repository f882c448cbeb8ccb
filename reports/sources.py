"""What is reported: theory JSON, benchmark cells, timing ratios, regression history; read and checked, not computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.collect import read_parquet, table
from bench.options import split_name
from bench.regression import history
from bench.schema import CellRecord
from bench.store import Store
from reports.collected import records_of
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import read_json

Scalar = float | int | str | bool | None

COMMANDS = {
    "synthetic": "python -m theory --suite ci --layers synthetic --json results/theory/synthetic.json",
    "minilm": "python -m theory --suite ci --layers minilm --json results/theory/minilm.json",
    "diffusion": "python -m theory --suite ci --layers diffusion --json results/theory/diffusion.json",
    "bench": "python -m bench run --suite ci --out results/bench",
    "spectra": "python -m bench run --suite full --task linear-synthetic --out results/bench",
    "images": "python -m bench run --suite images --out results/bench",
    "timing": "python -m bench timing",
    "history": "python -m bench history",
}
LAYERS = ("synthetic", "minilm", "diffusion")  # sources of the theory, in the order of tables
HISTORY_FILE = "history.csv"
HISTORY = ["revision", "date", "task", "method", "n_concepts", "number", "better", "mean", "sd", "seeds"]
SYNTHETIC = "linear-synthetic"  # the task, whatever its options
IMAGE_METRIC = "identity"  # every image cell has it, no other does


class _Stored(BaseModel):
    """Columns may be added to what is stored; what is read here must be there and of its type."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class StoredCheck(_Stored):
    """`theory.api.BoundCheck` as it was stored."""

    name: str
    lhs: float
    rhs: float
    holds: bool
    control: bool
    layer: str = ""
    delta: float | None = None
    trials: int = 1
    violations: int = 0
    allowed_violations: int = 0
    rate_upper_limit: float | None = None


class StoredVerdict(_Stored):
    """`theory.api.Verdict` as it was stored."""

    kind: Literal["holds", "holds when", "fails when"]
    condition: str = ""
    text: str


class StoredClaim(_Stored):
    """`theory.api.ClaimResult` as it was stored: one row of the ledger."""

    claim: str
    layers: str
    verdict: StoredVerdict
    evidence: str
    controls_broken: bool
    checks: list[StoredCheck]
    tables: dict[str, list[dict[str, Scalar]]] = {}
    seconds: float = 0.0

    @property
    def controls(self) -> list[StoredCheck]:
        """The checks that must be broken, for the others to mean anything."""
        return [check for check in self.checks if check.control]


class StoredLedger(_Stored):
    """What `python -m theory --json` writes."""

    suite: str
    results: list[StoredClaim]
    changed: list[str] = []


class Ratio(_Stored):
    """One measured time or size against another."""

    name: str
    ratio: float
    low: float
    high: float
    goal: float
    smaller_is_better: bool
    goal_met: bool
    candidate_seconds: float | None = None
    reference_seconds: float | None = None


@dataclass(frozen=True)
class Results:
    """Everything that a folder of results holds.

    Attributes:
        folder: where it came from.
        claims: one ledger row a claim and source of layers.
        suites: source of layers -> suite that the claims were checked with.
        cells: long table of all benchmark cells, as `bench.collect` lays it out.
        records: the cells themselves.
        store: folder of the store that the records' artifacts are relative to.
        history: gated numbers of earlier revisions, columns `HISTORY`, oldest first.
        ratios: timing ratios.
        machine: processor that the ratios were measured on.
        damaged: stored files that could not be believed, one line each.
        changed: verdicts that are not the expected ones, one line each.
    """

    folder: Path
    claims: Sequence[StoredClaim] = ()
    suites: Mapping[str, str] = field(default_factory=dict)
    cells: pd.DataFrame = field(default_factory=lambda: table([]))
    records: Sequence[CellRecord] = ()
    store: Path | None = None
    ratios: Sequence[Ratio] = ()
    history: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=HISTORY))
    machine: str = ""
    damaged: Sequence[str] = ()
    changed: Sequence[str] = ()

    def table(self, claim: str, name: str) -> pd.DataFrame:
        """A table of a claim from every source of layers, with a column `source`; empty if there is none."""
        rows = [
            {"source": found.layers, **row}
            for found in self.claims
            if found.claim == claim
            for row in found.tables.get(name, [])
        ]
        return pd.DataFrame(rows)

    @property
    def has(self) -> dict[str, bool]:
        """Which kinds of results there are, by their key in `COMMANDS`."""
        return {
            **{name: name in self.sources for name in LAYERS},
            "bench": len(self.linear) > 0,
            "spectra": sum(split_name(task)[0] == SYNTHETIC for task in self.linear.task.unique()) > 2,
            "images": len(self.images) > 0,
            "timing": len(self.ratios) > 0,
            "history": len(self.history) > 0,
        }

    @property
    def linear(self) -> pd.DataFrame:
        """Cells of tasks that draw no images."""
        return self.cells[~self.cells.task.isin(self.images.task.unique())]

    @property
    def images(self) -> pd.DataFrame:
        """Cells of tasks that draw images."""
        tasks = self.cells.loc[self.cells.metric == IMAGE_METRIC, "task"].unique()
        return self.cells[self.cells.task.isin(tasks)]

    @property
    def sources(self) -> list[str]:
        """Sources of layers, in the order of the ledger."""
        return list(dict.fromkeys(claim.layers for claim in self.claims))


def load(folder: str | Path, past: Path | None = None) -> Results:
    """Read `theory/*.json`, `bench` (cells, or parquet files), `timing/*.json` and `history.csv` in `folder`.

    Args:
        folder: of results.
        past: history that is read where `folder` has none.

    Raises:
        BadInputError: `folder` is no folder.
        StoredFileError: a file is not what its place says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError(f"{folder} is no folder of results; run `tox -e bench` first or give --results")
    claims, suites, changed = read_theory(sorted((folder / "theory").glob("*.json")))
    cells, records, damaged = read_cells(folder / "bench")
    ratios, machine = read_timing(sorted((folder / "timing").glob("*.json")))
    own = folder / HISTORY_FILE
    earlier = read_history(own if own.exists() or past is None else past)
    return Results(folder, claims, suites, cells, records, folder / "bench", ratios, earlier, machine, damaged, changed)


def read_theory(paths: Sequence[Path]) -> tuple[list[StoredClaim], dict[str, str], list[str]]:
    """Ledger rows of every file, the suite of each source, and verdicts that differ from the expected ones.

    Raises:
        StoredFileError: a file holds no ledger, or two files hold the same row.
    """
    claims: list[StoredClaim] = []
    suites: dict[str, str] = {}
    changed: list[str] = []
    origin: dict[tuple[str, str], Path] = {}
    for path in paths:
        stored = read_json(path)
        ledger = _validated(StoredLedger, stored, path, "python -m theory --json")
        changed += ledger.changed
        for claim in ledger.results:
            key = (claim.claim, claim.layers)
            if key in origin:
                raise StoredFileError(
                    f"{path} and {origin[key]} both hold claim {key[0]} on {key[1]} layers; delete one of them"
                )
            origin[key] = path
            claims.append(claim)
            suites[claim.layers] = ledger.suite
    order = list(LAYERS)
    claims.sort(key=lambda claim: order.index(claim.layers) if claim.layers in order else len(order))
    return claims, suites, changed


def read_cells(folder: Path) -> tuple[pd.DataFrame, list[CellRecord], list[str]]:
    """The long table and the records of a store, from its cells, or from collected parquet files where it has none.

    Raises:
        SchemaVersionError: cells of another schema version.
        StoredFileError: a parquet file that `bench collect` did not write.
    """
    records = list(Store(folder).all_records())
    stored = sum(1 for _ in folder.glob("cells/*/*/*.json"))
    damaged = [f"{stored - len(records)} damaged cells in {folder} are left out"] if stored > len(records) else []
    if records:
        return table(records), records, damaged
    collected = [_read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    if not collected:
        return table([]), [], damaged
    together = {record.to_cell(): record for records in collected for record in records}
    return table(together.values()), list(together.values()), damaged


def read_timing(paths: Sequence[Path]) -> tuple[list[Ratio], str]:
    """Ratios of every file, and the machine they were measured on.

    Raises:
        StoredFileError: a file holds no ratios.
    """
    ratios: list[Ratio] = []
    machines: list[str] = []
    for path in paths:
        stored = read_json(path)
        rows = stored.get("ratios") if isinstance(stored, Mapping) else None
        ratios += _validated(list[Ratio], rows, path, "python -m bench timing")
        machines.append(str(stored.get("machine", "")))
    return ratios, ", ".join(dict.fromkeys(name for name in machines if name))


def read_history(path: Path) -> pd.DataFrame:
    """Rows of a history file; none if there is no such file.

    Raises:
        StoredFileError: not a history that `bench history` wrote.
    """
    rows = pd.DataFrame(history.read(path), columns=history.COLUMNS)
    try:
        numbers = {name: pd.to_numeric(rows[name]) for name in ("n_concepts", "mean", "sd", "seeds")}
    except ValueError as error:
        raise StoredFileError(f"{path} was not written by `{COMMANDS['history']}` ({error}); restore it") from error
    return rows.assign(**numbers)[HISTORY]


def _read_parquet(path: Path) -> list[CellRecord]:
    try:
        return list(records_of(*read_parquet(path)))
    except (OSError, KeyError, ValueError, TypeError) as error:  # pyarrow's errors are OSError and ValueError
        reason = str(error).splitlines()[0]
        raise StoredFileError(f"{path} was not written by `python -m bench collect` ({reason}); delete it") from error


def _validated(kind: Any, rows: Any, path: Path, command: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(rows)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise StoredFileError(f"{path} was not written by `{command}` ({place}: {first['msg']}); delete it") from error
