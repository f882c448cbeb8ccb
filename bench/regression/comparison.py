"""Two snapshots held against each other: equal cells must have equal numbers, all others are tested gate by gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from bench.api import Cell, Metric
from bench.regression.decision import LEAST_PAIRS, Paired, holm, paired, verdict
from bench.regression.margins import MarginsFile
from bench.regression.numbers import GATED
from bench.regression.snapshot import CellNumbers, Group, NotComparableError, Snapshot

GateVerdict = Literal["equal", "regression", "unchanged", "inconclusive", "not comparable"]


@dataclass(frozen=True)
class Difference:
    """A number that had to be equal and is not."""

    cell: Cell
    number: str
    before: float | None
    after: float | None
    tolerance: float

    def __str__(self) -> str:
        shown = ["gone" if value is None else f"{value:.10g}" for value in (self.before, self.after)]
        return f"{self.cell}: {self.number} was {shown[0]}, is {shown[1]} (tolerance {self.tolerance:.2g})"


@dataclass(frozen=True)
class GateResult:
    """One gated number of one group of cells.

    Attributes:
        base: mean over the pairs before, `candidate` after.
        test: of the paired differences; None with fewer than two pairs.
        adjusted_p: after Holm, over all gates that were tested.
        reason: why it is not comparable.
    """

    group: Group
    number: Metric
    pairs: int
    base: float
    candidate: float
    margin: float
    verdict: GateVerdict
    test: Paired | None = None
    adjusted_p: float = 1.0
    reason: str = ""

    @property
    def better(self) -> bool:
        """Whether the 90 % interval lies beyond the margin on the good side."""
        return self.test is not None and self.test.high < -self.margin


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found.

    Attributes:
        gates: one entry a group and gated number.
        different: numbers that had to be equal.
        missing: cells of the base that the candidate lacks, or that failed there; one line each.
        new: cells that only the candidate has.
        verdicts: claims whose verdict changed; one line each.
        advice: timing ratios that got worse; one line each.
    """

    base: Snapshot
    candidate: Snapshot
    gates: Sequence[GateResult]
    different: Sequence[Difference]
    missing: Sequence[str]
    new: Sequence[Cell]
    verdicts: Sequence[str] = ()
    advice: Sequence[str] = field(default=())

    @property
    def regressions(self) -> list[GateResult]:
        """Gates that failed."""
        return [gate for gate in self.gates if gate.verdict == "regression"]

    @property
    def exit_code(self) -> int:
        """1 worse, unequal or a changed verdict; 3 cells missing or failed; 4 a gate could not be tested; else 0."""
        if self.regressions or self.different or self.verdicts:
            return 1
        if self.missing:
            return 3
        return 4 if any(gate.verdict == "not comparable" for gate in self.gates) else 0


def compare(
    base: Snapshot,
    candidate: Snapshot,
    margins: MarginsFile,
    verdicts: Sequence[str] = (),
    advice: Sequence[str] = (),
) -> Comparison:
    """Hold a candidate against a base.

    Args:
        base: what is known to be good.
        candidate: what is asked about.
        margins: practical margins and round-off, from the pilot.
        verdicts: changed verdicts of claims, from `bench.regression.advisory`.
        advice: worse timing ratios, likewise.

    Raises:
        NotComparableError: no cell in common.
    """
    before, after = base.by_cell(), candidate.by_cell()
    common = [cell for cell in before if cell in after]
    if not common:
        raise NotComparableError("base and candidate have no cell in common; run the same suite for both")
    pairs = [(before[c], after[c]) for c in common if before[c].status == after[c].status == "done"]
    different = [found for one, other in pairs if _must_be_equal(one, other) for found in _unequal(one, other, margins)]
    return Comparison(
        base,
        candidate,
        _decided(_gates(pairs, margins)),
        different,
        list(_missing(before, after)),
        [cell for cell in after if cell not in before],
        verdicts,
        advice,
    )


def _must_be_equal(one: CellNumbers, other: CellNumbers) -> bool:
    return one.fingerprint == other.fingerprint


def _unequal(one: CellNumbers, other: CellNumbers, margins: MarginsFile) -> list[Difference]:
    found = []
    for number, value in one.numbers.items():
        tolerance, now = margins.tolerance(one.group, number), other.numbers.get(number)
        if now is None or abs(now - value) > tolerance:
            found.append(Difference(one.cell, number, value, now, tolerance))
    return found


def _missing(before: Mapping[Cell, CellNumbers], after: Mapping[Cell, CellNumbers]) -> list[str]:
    """Cells that the base finished and the candidate did not, and gated numbers that are gone."""
    lines = []
    for cell, entry in before.items():
        if entry.status != "done":
            continue
        if cell not in after:
            lines.append(f"{cell}: missing")
            continue
        now = after[cell]
        if now.status != "done":
            lines.append(f"{cell}: {now.status} ({now.reason})")
            continue
        gone = [number for number in GATED if number in entry.numbers and number not in now.numbers]
        lines += [f"{cell}: {number} was not measured" for number in gone]
    return lines


def _gates(pairs: Sequence[tuple[CellNumbers, CellNumbers]], margins: MarginsFile) -> list[GateResult]:
    """Every gate that both sides have numbers for, tested but not yet corrected for their number."""
    groups: dict[Group, list[tuple[CellNumbers, CellNumbers]]] = {}
    for one, other in pairs:
        groups.setdefault(one.group, []).append((one, other))
    gates = []
    for group, members in groups.items():
        for name, number in GATED.items():
            both = [(a, b) for a, b in members if name in a.numbers and name in b.numbers]
            if both:
                gates.append(_gate(group, number, both, margins))
    return gates


def _gate(
    group: Group, number: Metric, pairs: Sequence[tuple[CellNumbers, CellNumbers]], margins: MarginsFile
) -> GateResult:
    before = np.array([a.numbers[number.name] for a, _ in pairs])
    after = np.array([b.numbers[number.name] for _, b in pairs])
    worse = np.array([number.worsening(a, b) for a, b in zip(before, after, strict=True)])
    test = paired(worse) if len(pairs) > 1 else None
    outcome: GateVerdict = "inconclusive"
    reason = ""
    equal = all(_must_be_equal(a, b) and not _unequal(a, b, margins) for a, b in pairs)
    if any(a.weights != b.weights for a, b in pairs):
        outcome, reason = "not comparable", "other weights were used: bless again"
    elif equal:
        outcome = "equal"
    elif len(pairs) < LEAST_PAIRS:
        outcome, reason = "not comparable", f"{len(pairs)} pairs, at least {LEAST_PAIRS} are needed"
    means = float(before.mean()), float(after.mean())
    margin = margins.margin(group, number.name)
    return GateResult(group, number, len(pairs), *means, margin, outcome, test, reason=reason)


def _decided(gates: Sequence[GateResult]) -> list[GateResult]:
    """Correct for the number of gates and decide. Gates whose cells are equal leave nothing to chance: not counted."""
    tested = [i for i, gate in enumerate(gates) if gate.verdict == "inconclusive" and gate.test is not None]
    adjusted = holm([gates[i].test.p_value for i in tested])  # type: ignore[union-attr]
    decided = list(gates)
    for i, p_value in zip(tested, adjusted, strict=True):
        gate = gates[i]
        assert gate.test is not None
        decided[i] = replace(gate, adjusted_p=p_value, verdict=verdict(gate.test, p_value, gate.margin))
    return decided
