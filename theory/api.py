"""The vocabulary of the ledger: a claim, the checks it makes, and the verdict they lead to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from seqlora.errors import BadInputError
from theory.layers.base import Layer

Suite = Literal["smoke", "ci", "full"]
SUITES: tuple[str, ...] = get_args(Suite)
Source = Literal["abstract", "ours"]
Row = Mapping[str, float | int | str | bool | None]


@dataclass(frozen=True)
class BoundCheck:
    """One inequality `lhs <= rhs` put to the test, with everything needed to judge it again.

    A deterministic check holds iff `lhs <= rhs + tolerance`. A probabilistic one (`delta` set) counts
    violations in `trials` independent trials and holds iff they are at most `allowed_violations`, the exact
    binomial acceptance limit at the stated false-fail rate; `lhs` and `rhs` are then the violation rate and delta.
    """

    name: str  # what was checked and on what, e.g. "gaussian, delta=0.01"
    lhs: float
    rhs: float
    tolerance: float = 0.0
    layer: str = ""  # name of the layer, where there is one
    control: bool = False  # outside the assumptions: the claim is expected to fail here
    delta: float | None = None
    trials: int = 1
    violations: int = 0
    allowed_violations: int = 0
    rate_upper_limit: float | None = None  # exact binomial (Clopper-Pearson) limit of the violation rate
    detectable_rate: float | None = None  # smallest true rate that this check catches with probability 0.999
    details: Row = field(default_factory=dict)  # further numbers: tightness, quantiles, sizes, seed

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lhs) and np.isfinite(self.rhs) and self.tolerance >= 0):
            raise BadInputError(f"check {self.name!r}: lhs={self.lhs}, rhs={self.rhs} must be finite numbers")

    @property
    def holds(self) -> bool:
        """Whether the inequality held, within tolerance or within the allowed number of violations."""
        if self.delta is not None:
            return bool(self.violations <= self.allowed_violations)
        return bool(self.lhs <= self.rhs + self.tolerance)

    @property
    def slack(self) -> float:
        """`rhs - lhs`: negative where the inequality is broken."""
        return self.rhs - self.lhs

    def explain(self) -> str:
        """One line for people: what was compared and how it came out."""
        outcome = "holds" if self.holds else "broken"
        role = "control " if self.control else ""
        if self.delta is None:
            return f"{role}{self.name}: {self.lhs:.4g} <= {self.rhs:.4g} {outcome}"
        return (
            f"{role}{self.name}: {self.violations}/{self.trials} violations at delta={self.delta:g} "
            f"(allowed {self.allowed_violations}) {outcome}"
        )

    def to_json(self) -> dict[str, Any]:
        """All fields and the outcome, as JSON values."""
        return {**asdict(self), "details": dict(self.details), "holds": self.holds, "slack": self.slack}


@dataclass(frozen=True)
class Verdict:
    """What the checks say of a claim: `holds`, `holds when <condition>` or `fails when <condition>`."""

    kind: Literal["holds", "holds when", "fails when"]
    condition: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "holds") == bool(self.condition):
            raise BadInputError(f"verdict {self.kind!r} and condition {self.condition!r} do not go together")

    def __str__(self) -> str:
        return f"{self.kind} {self.condition}".strip()


@dataclass(frozen=True)
class ClaimResult:
    """One row of the ledger: a claim, checked on one source of layers."""

    claim: str
    layers: str  # the source: "synthetic", "minilm", "hf:<folder>", "diffusion"
    verdict: Verdict
    evidence: str  # one or two sentences with the decisive numbers
    checks: tuple[BoundCheck, ...]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # the data behind the figures, long form
    seconds: float = 0.0

    @property
    def controls(self) -> tuple[BoundCheck, ...]:
        """The checks that must be broken, for the others to mean anything."""
        return tuple(check for check in self.checks if check.control)

    @property
    def controls_broken(self) -> bool:
        """Whether there is a control and every control failed, as it must."""
        return bool(self.controls) and not any(check.holds for check in self.controls)

    def to_json(self) -> dict[str, Any]:
        """Everything that was computed, as JSON values."""
        return {
            "claim": self.claim,
            "layers": self.layers,
            "verdict": {
                "kind": self.verdict.kind,
                "condition": self.verdict.condition,
                "text": str(self.verdict),
            },
            "evidence": self.evidence,
            "controls_broken": self.controls_broken,
            "checks": [check.to_json() for check in self.checks],
            "tables": {name: [dict(row) for row in rows] for name, rows in self.tables.items()},
            "seconds": self.seconds,
        }


class Claim(ABC):
    """A statement about SeqLoRA that can fail. One claim, one file in `theory/claims/`."""

    id: ClassVar[str]  # "C1"
    title: ClassVar[str]
    statement: ClassVar[str]  # LaTeX
    assumptions: ClassVar[tuple[str, ...]]
    source: ClassVar[Source]  # "abstract": the abstract asserts it in words; "ours": derived here

    @abstractmethod
    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Put the claim to the test on `layers` (which come from `source`) and return the ledger row."""


CLAIMS: dict[str, Claim] = {}


def register(claim: type[Claim]) -> type[Claim]:
    """Class decorator: make a claim known to the ledger under its id.

    Raises:
        BadInputError: the id is taken.
    """
    if claim.id in CLAIMS:
        raise BadInputError(f"claim {claim.id} is registered twice: {claim.__name__}")
    CLAIMS[claim.id] = claim()
    return claim
