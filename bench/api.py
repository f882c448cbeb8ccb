"""The vocabulary of the benchmark: cells, metrics, methods, tasks, and what running a cell returns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bench.seeds import Seeds
from seqlora.errors import BadInputError

Array = NDArray[np.float64]
Scalar = float | int | str | bool | None
Orientation = Literal["higher", "lower"]
Role = Literal["method", "control", "reference"]


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the benchmark. Everything random in it derives from all axes but the method."""

    task: str  # canonical name, with its options: "linear-synthetic:decay=2"
    method: str
    n_concepts: int
    order: int = 0  # 0 is the task's own order of concepts, k > 0 the k-th random order
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.task and self.method) or self.n_concepts < 1 or self.order < 0 or self.seed < 0:
            raise BadInputError(f"{self} is no cell: needs a task, a method, concepts >= 1, order >= 0, seed >= 0")

    @property
    def key(self) -> str:
        """Canonical JSON of the axes: the same text on every machine and in every session."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of `key`."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:16]

    @property
    def seeds(self) -> Seeds:
        """Random streams of this cell; equal for all methods."""
        return Seeds.of(self.task, self.n_concepts, self.order, self.seed)

    def __str__(self) -> str:
        return f"{self.task} {self.method} T={self.n_concepts} order={self.order} seed={self.seed}"


@dataclass(frozen=True)
class Metric:
    """What a number means: tables, axes and gates read it from here."""

    name: str  # unique, also the column name
    pretty_name: str
    orientation: Orientation  # which way is better
    lower_bound: float | None = None
    upper_bound: float | None = None
    unit: str = ""
    margin: float | None = None  # change, in the metric's unit, that matters in practice; None: never gated
    description: str = ""

    def worsening(self, before: float, after: float) -> float:
        """Change from `before` to `after`, signed so that + is worse."""
        return before - after if self.orientation == "higher" else after - before


@dataclass(frozen=True)
class MetricMatrix:
    """The stored primitive: a metric of every concept after every stage.

    Attributes:
        metric: a name in `bench.metrics.METRICS`.
        values: R, shape (T, T); R[t, j] is the value on concept j with the model after stage t, NaN where not measured.
        single: S, shape (T,); the value on concept j of a model that learnt concept j alone.
        base: b, shape (T,); the value on concept j of the untrained base model.
        layer: name of the layer, "" for the whole model (or the mean over its layers).
    """

    metric: str
    values: Array
    single: Array
    base: Array
    layer: str = ""

    def __post_init__(self) -> None:
        concepts = len(self.values)
        shapes = (self.values.shape, self.single.shape, self.base.shape)
        if shapes != ((concepts, concepts), (concepts,), (concepts,)):
            raise BadInputError(f"matrix of {self.metric}: shapes {shapes} are not (T, T), (T,), (T,)")


@dataclass(frozen=True)
class Value:
    """One number in long form: a quantity that is no R matrix, or one prompt's or image's share of one."""

    metric: str
    value: float
    layer: str = ""
    stage: int | None = None  # after how many concepts, counted from 0 as in R[t, j]
    concept: int | None = None
    other: int | None = None  # the second concept of a pair: overlap, cross-similarity, leakage
    item: str = ""  # prompt or image


@dataclass(frozen=True)
class CellResult:
    """What `Task.run` returns; the runner adds cell, status and provenance and stores it."""

    concepts: tuple[str, ...]  # names, in the order in which they were learnt
    matrices: Sequence[MetricMatrix]
    values: Sequence[Value] = ()
    settings: Mapping[str, Scalar] = field(default_factory=dict)  # rank, ridge, gamma, merge weight, steps …
    claims: Sequence[Mapping[str, Any]] = ()  # BoundCheck.to_json() of the bounds that were checked here
    timing: Mapping[str, float] = field(default_factory=dict)  # seconds and bytes, names end in the unit
    artifacts: Mapping[str, str] = field(default_factory=dict)  # name -> path relative to Context.artifacts
    weights: Mapping[str, str] = field(default_factory=dict)  # name -> SHA-256 of every weight file that was used
    dtype: str = "float64"


@dataclass(frozen=True)
class Context:
    """What a task may use besides its cell. It never says which executor runs it."""

    seeds: Seeds
    artifacts: Path  # folder of this cell alone: images, adapters; created on first use
    shared: Path  # folder that all cells of one store share (lock what you build there)
    options: Mapping[str, str] = field(default_factory=dict)  # from the command line: base, clip, identity, device


class Method(Protocol):
    """What is compared. A family of tasks ("linear", "image") extends this by how it trains a method."""

    @property
    def name(self) -> str:
        """Unique within the family; the same method has the same name in every family."""

    @property
    def pretty_name(self) -> str:
        """For tables and legends."""

    @property
    def role(self) -> Role:
        """Whether it competes, is a control, or is a reference that no continual method can use."""

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """Everything that could be set otherwise; columns of the result."""


class Task(Protocol):
    """On what methods are compared."""

    @property
    def name(self) -> str:
        """Canonical name with options, as in `Cell.task`."""

    @property
    def family(self) -> str:
        """Which methods it accepts: those of `bench.methods.methods(family)`."""

    def max_concepts(self) -> int:
        """The longest sequence it can build."""

    def run(self, cell: Cell, method: Any, context: Context) -> CellResult:
        """Train and measure `method`; every random number comes from `context.seeds`."""

    def estimate(self, cell: Cell) -> float:
        """Rough seconds on one core, used only until cells of the same kind have been timed."""


@runtime_checkable
class SharesWork(Protocol):
    """A task whose cells use what one of them has computed (trainings that several merge methods start from)."""

    def shared(self, cell: Cell) -> tuple[str, float]:
        """Name of what is shared and its seconds, which `estimate` leaves out; it is needed once for each name."""
