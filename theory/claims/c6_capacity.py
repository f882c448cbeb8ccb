"""C6: orthogonal concepts run out at n / r; past that the overlap has a floor, and spread bases reach it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from seqlora.subspace import capacity, spread, welch_floor
from theory.api import BoundCheck, Claim, ClaimResult, Row, Suite, register
from theory.capacity import (
    STABLE_DIFFUSION_1,
    account,
    expected_random_overlap,
    random_bases,
    tight_frame_exists,
    total_overlap,
)
from theory.layers.base import Layer
from theory.stattest import check_mean
from theory.tolerance import matmul
from theory.verdicts import judge

RANK = 4
REFERENCE_WIDTH = 32
ABSTRACT_CONCEPTS = 101  # the number of concepts that the abstract reports
CONVERGED = 1e-13  # relative distance to the floor at which `spread` stops
SIZES: dict[str, tuple[int, int]] = {  # widest layer on which bases are spread, random draws for the mean
    "smoke": (64, 200),
    "ci": (384, 1000),
    "full": (768, 10_000),
}


@register
class Capacity(Claim):
    """Capacity is floor(n / r); beyond it the Welch floor binds every choice of bases and spreading attains it."""

    id = "C6"
    title = "Capacity and least overlap"
    statement = (
        r"T r \le n \iff \min \sum_{i\ne j}\|A_iA_j^\top\|_F^2 = 0,\qquad "
        r"\sum_{i\ne j}\|A_iA_j^\top\|_F^2 \ge \frac{(Tr)^2}{n} - Tr"
    )
    assumptions = (
        "all concepts have the same rank",
        "equality past capacity: a tight fusion frame of this shape exists (always if r divides n)",
    )
    source = "ours"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Spread, frozen orthogonal and random bases at the widths of the layers, below, at and past capacity."""
        widest, draws = SIZES[suite]
        widths = Counter(layer.width for layer in layers)
        shapes = [(REFERENCE_WIDTH, concepts) for concepts in (2, 4, 8, 9, 12, 16, 24, 32)]
        for width in sorted(widths):
            if width <= widest:
                # Not one concept past capacity, where the descent is slow in wide layers.
                shapes += [(width, capacity(width, RANK)), (width, capacity(width, RANK) * 4 // 3)]
        checks: list[BoundCheck] = []
        rows: list[Row] = []
        for width, concepts in shapes:
            checks += _shape(width, concepts, rows, rng)
        checks += _random_mean(draws, rng) + _controls(rng)
        accounts = [*account(STABLE_DIFFUSION_1, RANK, ABSTRACT_CONCEPTS), *account(widths, RANK, ABSTRACT_CONCEPTS)]
        origins = ["Stable Diffusion 1.x"] * len(STABLE_DIFFUSION_1) + [source] * len(widths)
        tables: dict[str, list[Row]] = {
            "capacity": rows,
            "accounts": [
                {"layer": origin, **asdict(entry), "fits": entry.fits}
                for origin, entry in zip(origins, accounts, strict=True)
            ],
        }
        return ClaimResult(self.id, source, judge(checks), _evidence(rows), tuple(checks), tables)


def _shape(width: int, concepts: int, rows: list[Row], rng: np.random.Generator) -> list[BoundCheck]:
    """Random and spread bases of one shape against the floor."""
    floor = welch_floor(width, RANK, concepts)
    random = total_overlap(random_bases(width, RANK, concepts, rng))
    least = total_overlap(spread(width, RANK, concepts, rng))
    label, on = f"n={width}, r={RANK}, T={concepts}", f"width {width}"
    rows.append(
        {
            "layer": on,
            "width": width,
            "rank": RANK,
            "concepts": concepts,
            "random_overlap": random,
            "spread_overlap": least,
            "welch_floor": floor,
        }
    )
    # Rounding of ‖sum P‖_F^2 = (T r)^2 / n at the least, and where the descent stops.
    directions = concepts * RANK
    potential = max(directions**2 / width, directions)
    tolerance = matmul(width + directions, potential)
    return [
        BoundCheck(f"floor: random bases, {label}", floor, random, tolerance, layer=on),
        BoundCheck(f"floor: spread bases, {label}", floor, least, tolerance, layer=on),
        BoundCheck(f"floor reached: {label}", least, floor, tolerance + CONVERGED * potential, layer=on),
    ]


def _random_mean(draws: int, rng: np.random.Generator) -> list[BoundCheck]:
    """Expected overlap of independent Haar bases; what frozen bases cost when nobody coordinates them."""
    concepts = 12
    samples = np.array([total_overlap(random_bases(REFERENCE_WIDTH, RANK, concepts, rng)) for _ in range(draws)])
    expected = expected_random_overlap(REFERENCE_WIDTH, RANK, concepts)
    return [check_mean("random mean: T (T - 1) r^2 / n", samples, expected, layer=f"width {REFERENCE_WIDTH}")]


def _controls(rng: np.random.Generator) -> list[BoundCheck]:
    """No overlap one concept past capacity; the floor by chance; the floor where no tight fusion frame exists."""
    on, past = f"width {REFERENCE_WIDTH}", capacity(REFERENCE_WIDTH, RANK) + 1
    potential = float((past * RANK) ** 2 / REFERENCE_WIDTH)
    tolerance = matmul(2 * REFERENCE_WIDTH, potential) + CONVERGED * potential
    least = total_overlap(spread(REFERENCE_WIDTH, RANK, past, rng))
    random = total_overlap(random_bases(REFERENCE_WIDTH, RANK, past, rng))
    planes = total_overlap(spread(3, 2, 2, rng))
    name = f"floor reached: two planes in space, tight frame exists={tight_frame_exists(3, 2, 2)}"
    return [
        BoundCheck(f"capacity: T={past} without overlap", least, 0.0, tolerance, layer=on, control=True),
        BoundCheck(
            f"floor reached: random, T={past}", random, welch_floor(REFERENCE_WIDTH, RANK, past), tolerance, on, True
        ),
        BoundCheck(name, planes, welch_floor(3, 2, 2), tolerance, layer="width 3", control=True),
    ]


def _evidence(rows: Sequence[Row]) -> str:
    narrowest = account(STABLE_DIFFUSION_1, RANK, ABSTRACT_CONCEPTS)[0]
    past = [row for row in rows if float(row["welch_floor"] or 0) > 0]
    spread_ratio, random_ratio = (
        [float(row[key] or 0) / float(row["welch_floor"] or 1) for row in past]
        for key in ("spread_overlap", "random_overlap")
    )
    return (
        f"At {len(past)} shapes past capacity, spread bases overlap at most {max(spread_ratio) - 1:.0e} above the "
        f"floor, random ones {min(random_ratio):.2f} to {max(random_ratio):.1f} times as much. Stable Diffusion 1.x at "
        f"rank {RANK}: its {narrowest.layers} layers of width {narrowest.width} hold {narrowest.capacity} concepts, "
        f"the abstract reports {ABSTRACT_CONCEPTS}; all fit at rank {narrowest.shrunk_rank}, or overlap by at least "
        f"{narrowest.least_overlap:.0f} in total (independent random bases: {narrowest.random_overlap:.0f})."
    )
