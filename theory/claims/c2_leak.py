"""C2: do learned bases also leak less into later concepts? Only past a boundary, which is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from theory import energy
from theory.api import BoundCheck, Claim, ClaimResult, Suite, Verdict, register
from theory.haar import haar_reads
from theory.layers.base import Array, Layer
from theory.layers.synthetic import frames, spectrum
from theory.learned import as_columns, split_windows
from theory.stattest import check_mean
from theory.task import within
from theory.tolerance import eigenvalue
from theory.verdicts import judge

Tables = dict[str, list[dict[str, Any]]]

RANK = 8  # in layers of at least WIDE inputs, half of it below
WIDE = 256
DENSE_WIDTH = 768  # wider layers are measured on fewer concepts and take no part in the dense spectral checks
CONCEPTS = 8
WIDEST_CONCEPTS = 4
DECAYS = (0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
ANGLES = (0.0, np.pi / 8, np.pi / 4, np.pi / 2)
SHAPES = {  # (n, r, T) of the phase diagram
    "smoke": ((64, 4, 4),),
    "ci": ((64, 4, 4), (64, 2, 8), (64, 8, 4), (768, 4, 16)),
    "full": ((64, 4, 4), (64, 2, 8), (64, 8, 4), (256, 4, 16), (320, 4, 16), (768, 4, 16), (768, 8, 16), (768, 4, 64)),
}
MEASURED_WIDTH = 64  # bases are built, not only counted, up to this width of the phase diagram
ENTRIES = {"smoke": 2 * 384**2, "ci": 16 * 1536**2, "full": 100 * 4096**2}  # n^2 of all layers together
TRIALS = {"smoke": 400, "ci": 1_000, "full": 20_000}
SLOW_DECAY = 1.0  # of the control: the slowest decay that trained layers show
LEAKS_LESS = "learned leak below frozen"


@register
class Leak(Claim):
    """Learned bases leak less than frozen ones iff the next q eigenvalues average below the mean eigenvalue."""

    id = "C2"
    title = "Learned bases leak less into later concepts"
    statement = (
        r"\operatorname{leak}_{\rm learned} \le \sum_{r<k\le r+q}\lambda_k(\Sigma_j), \qquad"
        r"\mathbb{E}\operatorname{leak}_{\rm frozen} = \tfrac{q}{n-r}\,\mathbb{E}\rho_j = \tfrac{q}{n}"
        r"\operatorname{tr}\Sigma_j, \qquad \operatorname{leak}_{\rm learned} \le \operatorname{leak}_{\rm frozen}"
    )
    assumptions = (
        r"worst case: the later concepts want exactly the directions that \Sigma_j has next",
        r"\lambda_{r+1}, \dots, \lambda_{r+q} average below the mean eigenvalue (the boundary r^*)",
    )
    source = "ours"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Draw the phase diagram, place the layers on it, and compare learned with frozen leaks on held-out halves."""
        tables: Tables = {"phase": [], "layers": []}
        checks = _phase(SHAPES[suite], tables, rng)
        chosen = within(layers, ENTRIES[suite])
        for layer in chosen:
            checks += _layer(layer, TRIALS[suite], tables, rng)
        evidence = f"{len(chosen)} of {len(layers)} layers. {_evidence(tables)}"
        return ClaimResult(self.id, source, _verdict(checks, tables), evidence, tuple(checks), tables)


def worst_ratio(eigenvalues: Array, rank: int, concepts: int) -> float:
    """Worst-case leak of a learned basis over the expected leak of a frozen one, for the first of T concepts.

    `sum_{r<k<=rT} λ_k / ((T-1) r tr Σ / n)`: below 1 iff the next q = (T-1) r eigenvalues average below the mean.
    """
    directions = (concepts - 1) * rank
    return energy.worst_leak(eigenvalues, rank, directions) / (directions * float(np.mean(eigenvalues)))


def smallest_rank(eigenvalues: Array, concepts: int) -> int | None:
    """Smallest r* from which on every rank that T concepts can have puts the worst-case ratio at or below 1.

    Returns:
        r*, or None if even the largest rank, floor(n / T), does not. (At n = T r it always does.)
    """
    largest = len(eigenvalues) // concepts
    above = [rank for rank in range(1, largest + 1) if worst_ratio(eigenvalues, rank, concepts) > 1 + 1e-12]
    first = above[-1] + 1 if above else 1
    return first if first <= largest else None


def _phase(shapes: Sequence[tuple[int, int, int]], tables: Tables, rng: np.random.Generator) -> list[BoundCheck]:
    """Ratio over decay and overlap angle; the worst case bounds every angle and is attained where angle is 0.

    Control: equal second moments that decay slowly, where the learned bases must be seen to leak more.
    """
    checks = [_control(*shapes[0], rng)]
    for width, rank, concepts in shapes:
        name = f"power law n={width} r={rank} T={concepts}"
        for decay in DECAYS:
            eigenvalues = spectrum(width, decay)
            ratio = worst_ratio(eigenvalues, rank, concepts)
            for angle in ANGLES if width <= MEASURED_WIDTH else (0.0,):
                measured = None
                if width <= MEASURED_WIDTH:
                    moments = [(U * eigenvalues) @ U.T for U in frames(width, concepts, angle, rng)]
                    measured = _leak_ratio(moments, rank)
                    tolerance = eigenvalue(width, float(eigenvalues[0])) / float(np.mean(eigenvalues))
                    at = f"a={decay:g}, angle={np.degrees(angle):.0f}°"
                    checks.append(BoundCheck(f"worst case: {at}", measured, ratio, tolerance, name))
                    if angle == 0:
                        checks.append(BoundCheck(f"worst case attained: {at}", ratio, measured, tolerance, name))
                row = {"width": width, "rank": rank, "concepts": concepts, "decay": decay, "angle": float(angle)}
                tables["phase"].append({"layer": name, **row, "ratio": ratio, "ratio_measured": measured})
    return checks


def _leak_ratio(moments: Sequence[Array], rank: int) -> float:
    """Leak of the first concept into the bases learned after it, over its expected leak into frozen ones."""
    bases = energy.learned_bases(moments, rank)
    return energy.leak(moments[0], bases[1:]) / energy.frozen_leak(moments[0], rank * (len(moments) - 1))


def _control(width: int, rank: int, concepts: int, rng: np.random.Generator) -> BoundCheck:
    moments = [(U * spectrum(width, SLOW_DECAY)) @ U.T for U in frames(width, concepts, 0.0, rng)]
    name = f"{LEAKS_LESS}: a={SLOW_DECAY:g}, equal moments"
    return BoundCheck(name, _leak_ratio(moments, rank), 1.0, 0.0, f"power law n={width} r={rank} T={concepts}", True)


def _layer(layer: Layer, trials: int, tables: Tables, rng: np.random.Generator) -> list[BoundCheck]:
    """One layer: learn in sequence on half of the windows, measure every concept's leak on the other half."""
    most = CONCEPTS if layer.width <= DENSE_WIDTH else WIDEST_CONCEPTS
    names = layer.concepts[:most]
    if len(names) < 2:
        return []
    rank = max(1, min(RANK if layer.width >= WIDE else RANK // 2, layer.width // len(names)))
    halves = split_windows(
        Layer(layer.name, layer.weight, {name: layer.activations[name] for name in names}, layer.window), rng
    )
    fitted, held = ([_moment(as_columns(windows)) for windows in half.values()] for half in halves)
    eigenvalues = np.clip(np.linalg.eigvalsh(fitted[0])[::-1], 0, None)
    rank_star = smallest_rank(eigenvalues, len(names))
    checks = [_frozen(layer.name, held[0], rank * (len(names) - 1), trials, rng)]
    # r* is worth a second sequence of bases except in the widest layers, where one already costs seconds
    also = [] if rank_star is None or layer.width > DENSE_WIDTH else [rank_star]
    bases = {tried: energy.learned_bases(fitted, tried) for tried in dict.fromkeys([rank, *also])}
    for tried, learned in bases.items():
        checks += _worst_case(layer.name, fitted[0], eigenvalues, learned, boundary=tried in also)
    ratio, share = _held_out(held, bases[rank])
    checks.append(BoundCheck(f"{LEAKS_LESS}: rank {rank}", ratio, 1.0, 0.0, layer.name))
    tables["layers"].append(
        {
            "layer": layer.name,
            "decay": _decay(eigenvalues),
            "rank": rank,
            "concepts": len(names),
            "width": layer.width,
            "ratio": worst_ratio(eigenvalues, rank, len(names)),
            "ratio_measured": ratio,
            "rank_star": rank_star,
            "ratio_measured_at_rank_star": _held_out(held, bases[also[0]])[0] if also else None,
            "leak_share": share,
            "frozen_share": share / ratio,
        }
    )
    return checks


def _frozen(layer: str, S: Array, directions: int, trials: int, rng: np.random.Generator) -> BoundCheck:
    """Expected leak into q Haar directions, by Monte Carlo."""
    reads = haar_reads(np.clip(np.linalg.eigvalsh(S), 0, None), directions, trials, rng)
    return check_mean(f"frozen leak: q={directions}", reads, energy.frozen_leak(S, directions), layer=layer)


def _worst_case(layer: str, S: Array, eigenvalues: Array, bases: Array, boundary: bool) -> list[BoundCheck]:
    """First concept, on the half that was learned from: Ky Fan's bound on the tail, and the promise at r*."""
    concepts, rank, n = bases.shape
    mean = float(np.mean(eigenvalues))
    leak = energy.leak(S, bases[1:]) / ((concepts - 1) * rank * mean)
    # an eigenvalue of error n u λ_1, counted q times, over q mean eigenvalues
    tolerance = eigenvalue(n, float(eigenvalues[0])) / mean
    bound = worst_ratio(eigenvalues, rank, concepts)
    checks = [BoundCheck(f"worst case: rank {rank}", leak, bound, tolerance, layer)]
    return [*checks, BoundCheck(f"boundary: leak at r* = {rank}", leak, 1.0, tolerance, layer)] if boundary else checks


def _held_out(held: Sequence[Array], bases: Array) -> tuple[float, float]:
    """Learned leak over expected frozen leak, averaged over concepts, and the learned share of a concept's energy."""
    concepts, rank, n = bases.shape
    leaks = [energy.leak(held[j], bases[j + 1 :]) / float(np.trace(held[j])) for j in range(concepts - 1)]
    frozen = [rank * (concepts - 1 - j) / n for j in range(concepts - 1)]
    return float(np.sum(leaks) / np.sum(frozen)), float(np.mean(leaks))


def _moment(X: Array) -> Array:
    return X @ X.T / X.shape[1]


def _decay(eigenvalues: Array) -> float:
    """Exponent a of `λ_k ∝ k^-a`, by least squares on the logarithms of the first half of the spectrum."""
    half = np.maximum(eigenvalues[: max(2, len(eigenvalues) // 2)], np.finfo(float).tiny)
    k = np.log(np.arange(1, len(half) + 1))
    return -float(np.polyfit(k, np.log(half), 1)[0])


def _verdict(checks: Sequence[BoundCheck], tables: Tables) -> Verdict:
    """The algebra has to hold everywhere; who leaks less is then a matter of where a layer lies on the diagram."""
    compared = [check for check in checks if check.name.startswith(LEAKS_LESS) and not check.control]
    algebra = judge([check for check in checks if check not in compared])
    rows = tables["layers"]
    if algebra.kind != "holds" or not rows:
        return algebra
    stars = [row["rank_star"] for row in rows if row["rank_star"] is not None]
    star = f"{min(stars)} to {max(stars)}" if stars else "beyond the capacity"
    won = [check.layer for check in compared if check.holds]
    ranks = " or ".join(str(rank) for rank in sorted({row["rank"] for row in rows}))
    if not won:
        return Verdict(
            "fails when", f"the rank is below r* = {star} ({len(rows)} of {len(rows)} layers at rank {ranks})"
        )
    if len(won) == len(rows):
        return Verdict("holds when", f"the rank is at least r* = {star}, and on all {len(rows)} layers at rank {ranks}")
    worst = {row["layer"]: row["ratio"] for row in rows}
    most = max(worst[layer] for layer in won)
    return Verdict(
        "holds when",
        f"the worst-case ratio is small ({len(won)} of {len(rows)} layers at rank {ranks}, ratio up to {most:.2f}) "
        f"or the rank is at least r* = {star}",
    )


def _evidence(tables: Tables) -> str:
    rows = tables["layers"]
    if not rows:
        return "No layer has two concepts; only the phase diagram was drawn."
    columns = ("ratio_measured", "ratio", "leak_share", "frozen_share", "decay")
    ratio, worst, leak, frozen, decay = (np.array([row[key] for row in rows], dtype=float) for key in columns)
    return (
        f"Held-out leak is {leak.min():.3f}-{leak.max():.3f} of a concept's energy into learned bases and "
        f"{frozen.min():.3f}-{frozen.max():.3f} into frozen ones: ratio {ratio.min():.2f}-{ratio.max():.2f}, "
        f"worst case {worst.min():.2f}-{worst.max():.2f}, spectra with a = {decay.min():.2f}-{decay.max():.2f}."
    )
