"""Bounds that a cell promises and breaks: counted, because the right number is zero."""

from __future__ import annotations

from collections.abc import Iterator

from bench.metrics import METRICS
from bench.options import split_name
from bench.schema import CellRecord

# Methods whose bases are orthogonal to one another by construction, in every family.
ORTHOGONAL = ("seqlora", "seqlora-penalty", "frozen-orthonormal", "frozen-orthonormal-sequence", "fusion-frozen")
LARGEST_OVERLAP = 1e-6  # ‖A_i A_jᵀ‖ of the library after its last polish, in float32
# The frontier is found by a minimisation, whose value is exact to about the root of round-off: 1e-8 in float64, with
# two digits for the condition of the moments.
FRONTIER_SLACK = 1e-6


def violations(record: CellRecord) -> list[str]:
    """One line for each bound that does not hold: checked claims, orthogonality, the frontier (C8), metric ranges.

    Controls are left out: they are meant to break.
    """
    return [*_claims(record), *_overlaps(record), *_frontier(record), *_ranges(record)]


def _claims(record: CellRecord) -> Iterator[str]:
    for claim in record.claims:
        if not claim.get("holds", True) and not claim.get("control", False):
            yield f"{claim.get('name', 'a bound')} is broken: {claim.get('lhs')} > {claim.get('rhs')}"


def _overlaps(record: CellRecord) -> Iterator[str]:
    if split_name(record.cell.method)[0] not in ORTHOGONAL:
        return
    largest: dict[tuple[str, int | None, int | None], float] = {}
    for value in record.values:
        if value.metric == "overlap" and value.value is not None:
            pair = (value.layer, value.concept, value.other)
            largest[pair] = max(largest.get(pair, 0.0), value.value)
    for (layer, concept, other), found in largest.items():
        if found > LARGEST_OVERLAP:
            yield f"bases {concept} and {other} overlap by {found:.2g} {layer}".rstrip()


def _frontier(record: CellRecord) -> Iterator[str]:
    for value in record.values:
        if value.metric == "frontier_distance" and value.value is not None and value.value < -FRONTIER_SLACK:
            yield f"a step lies {-value.value:.2g} beyond the frontier {value.layer}".rstrip()


def _ranges(record: CellRecord) -> Iterator[str]:
    named = [(m.metric, n) for m in record.matrices for row in [*m.R, m.S, m.b] for n in row]
    named += [(value.metric, value.value) for value in record.values]
    for name, number in named:
        metric = METRICS[name]
        below = number is not None and metric.lower_bound is not None and number < metric.lower_bound - LARGEST_OVERLAP
        above = number is not None and metric.upper_bound is not None and number > metric.upper_bound + LARGEST_OVERLAP
        if below or above:
            yield f"{name} is {number:.6g}, outside its range"
