"""The JSON record of one cell, checked on the way in and on the way out.

A change that old readers would misread raises `SCHEMA_VERSION`; records of another version are refused, not guessed at.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bench.api import Cell, CellResult, MetricMatrix, Scalar
from seqlora.errors import DamagedFileError, StoredFileError

SCHEMA_VERSION = 1
Status = Literal["done", "failed", "skipped"]


def _nan_to_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


Number = Annotated[float | None, BeforeValidator(_nan_to_none)]  # JSON has no NaN: null is "not measured"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CellAxes(_Strict):
    """The cell itself."""

    task: str = Field(min_length=1)
    method: str = Field(min_length=1)
    n_concepts: int = Field(ge=1)
    order: int = Field(ge=0)
    seed: int = Field(ge=0)


def _inside(path: str) -> str:
    """A path that cannot lead out of the store, whoever wrote the record."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path:
        raise ValueError("an artifact's path leads out of the store")
    return path


Inside = Annotated[str, AfterValidator(_inside)]


class Matrix(_Strict):
    """`MetricMatrix` as JSON: rows of R are stages, columns concepts; null where not measured."""

    metric: str
    layer: str = ""
    R: list[list[Number]]
    S: list[Number]
    b: list[Number]

    @model_validator(mode="after")
    def _square(self) -> Matrix:
        size = len(self.R)
        if any(len(row) != size for row in self.R) or len(self.S) != size or len(self.b) != size:
            raise ValueError("R must be T x T, S and b of length T")
        return self

    def to_matrix(self) -> MetricMatrix:
        """Back to arrays, null becoming NaN."""
        R, S, b = (np.array(part, dtype=np.float64) for part in (self.R, self.S, self.b))
        return MetricMatrix(self.metric, R, S, b, self.layer)


class LongValue(_Strict):
    """`Value` as JSON."""

    metric: str
    value: Number
    layer: str = ""
    stage: int | None = None
    concept: int | None = None
    other: int | None = None
    item: str = ""


class Provenance(_Strict):
    """Where, when and with what the cell was computed."""

    created_utc: str
    argv: list[str]
    git_revision: str | None  # None outside a checkout
    git_dirty: bool | None
    python: str
    packages: dict[str, str]
    torch_build: str  # SHA-256 of torch.__config__.show()
    blas: list[str]
    os: str
    cpu: str
    device: str
    threads: int
    dtype: str
    weights: dict[str, str]


class CellRecord(_Strict):
    """One stored cell."""

    schema_version: Literal[1] = 1  # SCHEMA_VERSION
    cell: CellAxes
    status: Status
    reason: str = ""  # of a failed or skipped cell: one line
    traceback: str = ""  # of a failed cell
    pretty_name: str = ""  # of the method
    role: Literal["method", "control", "reference"] = "method"
    settings: dict[str, Scalar] = Field(default_factory=dict)
    concepts: list[str] = Field(default_factory=list)
    matrices: list[Matrix] = Field(default_factory=list)
    values: list[LongValue] = Field(default_factory=list)
    claims: list[dict[str, Any]] = Field(default_factory=list)
    timing: dict[str, float] = Field(default_factory=dict)
    artifacts: dict[str, Inside] = Field(default_factory=dict)  # name -> path relative to the store's folder
    provenance: Provenance
    fingerprint: str
    checksum: str = ""  # SHA-256 of the canonical JSON of everything else

    def to_cell(self) -> Cell:
        """The cell that this is the record of."""
        return Cell(**self.cell.model_dump())

    def matrix(self, metric: str, layer: str = "") -> MetricMatrix | None:
        """The R matrix of a metric, if it was measured."""
        found = (m for m in self.matrices if m.metric == metric and m.layer == layer)
        return next((matrix.to_matrix() for matrix in found), None)

    def sealed(self) -> CellRecord:
        """The same record with its checksum."""
        return self.model_copy(update={"checksum": _checksum(self.model_dump(mode="json"))})


def result_fields(result: CellResult) -> dict[str, Any]:
    """The part of a record that comes from the task.

    Raises:
        pydantic.ValidationError: the task returned something that no record may hold, infinity for example.
    """
    return {
        "concepts": list(result.concepts),
        "matrices": [
            Matrix(metric=m.metric, layer=m.layer, R=m.values.tolist(), S=m.single.tolist(), b=m.base.tolist())
            for m in result.matrices
        ],
        "values": [LongValue(**{**vars(v), "value": float(v.value)}) for v in result.values],
        "claims": [dict(claim) for claim in result.claims],
        "timing": dict(result.timing),
    }


def parse(data: Any, where: str) -> CellRecord:
    """A record from its JSON value.

    Raises:
        SchemaVersionError: another schema version.
        CorruptRecordError: not a record, or not the one that was written.
    """
    if isinstance(data, dict) and "schema_version" in data and data["schema_version"] != SCHEMA_VERSION:
        raise other_version(where, data["schema_version"])
    try:
        record = CellRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "record"
        raise CorruptRecordError(f"{where} is no cell record ({place}: {first['msg']})") from error
    if record.checksum != _checksum(record.model_dump(mode="json")):
        raise CorruptRecordError(f"{where} does not match its checksum")
    return record


def other_version(where: str, found: object) -> SchemaVersionError:
    """What to raise for a file of another schema version."""
    return SchemaVersionError(
        f"{where} has schema version {found!r}, this version reads {SCHEMA_VERSION}; "
        "choose another --out folder or the version of the code that wrote it"
    )


class SchemaVersionError(StoredFileError):
    """A record of another schema version: the whole folder is left as it is."""


class CorruptRecordError(DamagedFileError):
    """A record that is truncated or was changed after it was written: set aside and computed again."""


def _checksum(dump: dict[str, Any]) -> str:
    body = {name: value for name, value in dump.items() if name != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
