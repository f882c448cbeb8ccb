"""Do layer energies predict what people see (claim C9): rank correlations over stored image cells.

For every cell, concept j and later stage t: the mean forgetting energy F[t, j] of the layers against the drop of
identity similarity R[j, j] - R[t, j]. Four readings of one relation, because "methods that forget more have larger
energies" and "the concept that loses more has the larger energy" are different statements:

    overall    Spearman's rho over all points
    within     ranks taken inside each method (and task and T), then pooled
    partial    rho given ‖M_t - M_j‖_F, what a predictor that knows no activations sees
    rival      rho of that predictor itself

Between energies and pictures stands the network. Cells that hold them are read once more by two numbers on the way, and
by F on the same points; the verdict is about F alone:

    fisher        tr(G_j ΔM Σ_j ΔMᵀ), K-FAC's estimate of how much the network's prediction changed
    prediction    how much it did change, on noisy images of concept j

Points of one seed share concepts, noise and often trainings, so intervals resample whole seeds (task, T, order, seed);
where there are fewer than `MIN_SEEDS` of them, whole cells, and the evidence says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from bench.api import Array
from bench.schema import CellRecord
from seqlora.errors import BadInputError
from theory.api import BoundCheck, ClaimResult, Row, Verdict
from theory.claims.images import PREDICTION

RESAMPLES = 1000
MIN_SEEDS = 5
WEAK = 0.3  # |rho| below which a correlation is called weak (Cohen's "medium")
F, DROP, MOVED, FISHER, PREDICTION_CHANGE = range(5)  # columns of a sample


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % percentile interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "not defined"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Prediction:
    """How energies and drops go together.

    Attributes:
        readings: name in `STATISTICS` -> interval.
        permuted: "overall", "within" -> the same with energies shuffled (within: inside each method), the control.
        points: F and drop, shape (n, 2).
        cells: number of cells.
        measured: of them, those that hold Fisher energies and changes of the prediction.
        units: what was resampled, and how many of them: "8 seeds".
    """

    readings: dict[str, Interval]
    permuted: dict[str, Interval]
    points: Array
    cells: int
    measured: int
    units: str

    @property
    def correlation(self) -> float:
        """Over all points; positive if more energy goes with a larger drop."""
        return self.readings["overall"].value

    @property
    def low(self) -> float:
        """Lower end of its interval."""
        return self.readings["overall"].low

    @property
    def high(self) -> float:
        """Upper end of its interval."""
        return self.readings["overall"].high


@dataclass(frozen=True)
class Sample:
    """Points of many cells: numbers (n, 5), columns as above, and the method of each as a number, (n,)."""

    numbers: Array
    method: NDArray[np.int64]


def points_of(record: CellRecord) -> Array:
    """F[t, j], drop, and Fisher energy and change of the prediction or NaN, (n, 4); none where no weight changes."""
    return _numbers(record)[:, [F, DROP, FISHER, PREDICTION_CHANGE]]


def predict(records: Sequence[CellRecord], rng: np.random.Generator) -> Prediction:
    """Correlate energies and drops over the image cells among `records`.

    Raises:
        BadInputError: fewer than two cells have both.
    """
    kept = [record for record in records if len(_numbers(record))]
    if len(kept) < 2:
        raise BadInputError(f"{len(kept)} cells hold forgetting energy and identity; run image cells of two methods")
    strata = [(r.cell.task, r.cell.n_concepts, r.cell.method) for r in kept]
    names = list(dict.fromkeys(strata))
    parts = [
        Sample(numbers := _numbers(record), np.full(len(numbers), names.index(stratum)))
        for record, stratum in zip(kept, strata, strict=True)
    ]
    seeds = [(r.cell.task, r.cell.n_concepts, r.cell.order, r.cell.seed) for r in kept]
    distinct = list(dict.fromkeys(seeds))
    by_seed = len(distinct) >= MIN_SEEDS
    units = [[k for k, seed in enumerate(seeds) if seed == one] for one in distinct] if by_seed else [
        [k] for k in range(len(kept))
    ]  # fmt: skip
    whole, drawn = _join(parts), []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(units), size=len(units))
        drawn.append(_join([parts[k] for u in chosen for k in units[u]]))
    readings = {name: _interval(statistic, whole, drawn) for name, statistic in STATISTICS.items()}
    control = {
        "overall": _interval(overall, None, [_shuffled(one, rng, within=False) for one in drawn]),
        "within": _interval(within, None, [_shuffled(one, rng, within=True) for one in drawn]),
    }
    measured = sum(record.matrix("prediction_change") is not None for record in kept)
    resampled = f"{len(units)} {'seeds' if by_seed else 'cells'}"
    return Prediction(readings, control, whole.numbers[:, :2], len(kept), measured, resampled)


def judge_prediction(records: Sequence[CellRecord], rng: np.random.Generator) -> ClaimResult:
    """Claim C9 as a row of the ledger.

    `holds`: the intervals of overall, within and partial all lie above 0. `holds when …`: only overall does; the
    condition names what is missing. `fails when …`: overall does not, or a control could not be told from a relation.
    """
    found = predict(records, rng)
    names = {
        "overall": "positive rank correlation: all points",
        "within": "positive rank correlation: within methods",
        "partial": "positive rank correlation: given how far the weights moved",
    }
    checks = [_positive(text, found.readings[name]) for name, text in names.items()]
    checks += [
        _positive("positive rank correlation: energies shuffled over all points", found.permuted["overall"], True),
        _positive("positive rank correlation: energies shuffled within methods", found.permuted["within"], True),
    ]
    rows: list[Row] = [
        {"reading": name, "value": _or_none(i.value), "low": _or_none(i.low), "high": _or_none(i.high), "control": c}
        for readings, c in ((found.readings, False), (found.permuted, True))
        for name, i in readings.items()
    ]
    points = [
        {
            **record.cell.model_dump(),
            "energy": e,
            "drop": d,
            "fisher_energy": _or_none(f),
            "prediction_change": _or_none(p),
        }
        for record in records
        for e, d, f, p in points_of(record)
    ]
    return ClaimResult(
        PREDICTION.id, "images", _verdict(checks), _evidence(found), tuple(checks),
        {"correlations": rows, "points": points},
    )  # fmt: skip


def _verdict(checks: Sequence[BoundCheck]) -> Verdict:
    if any(check.control and check.holds for check in checks):
        return Verdict("fails when", "it is told from its controls: shuffled energies predict as well")
    overall_check, *others = (check for check in checks if not check.control)
    if not overall_check.holds:
        return Verdict("fails when", f"asked for a positive rank correlation (lower limit {overall_check.rhs:.2f})")
    missing = [f"{c.name.split(': ')[1]} (lower limit {c.rhs:.2f})" for c in others if not c.holds]
    if missing:
        return Verdict("holds when", f"all points are compared; not {', nor '.join(missing)}")
    return Verdict("holds")


def _evidence(found: Prediction) -> str:
    r = found.readings
    strength = "weak" if abs(found.correlation) < WEAK else "not weak"
    on_the_way = (
        f" On the way, in the {found.measured} cells that measured it: how much the network's prediction changed goes "
        f"with lost identity by {r['prediction']}, within methods {r['prediction within']}, given how far the weights "
        f"moved {r['prediction partial']}; K-FAC's estimate of that change by {r['fisher']} and {r['fisher within']}; "
        f"plain energies, on the same points, by {r['plain']} and {r['plain within']}."
        if found.measured
        else ""
    )
    return (
        f"Spearman's correlation of layer energy and lost identity {r['overall']} over {len(found.points)} points of "
        f"{found.cells} cells ({strength}, the line being {WEAK}); within methods {r['within']}; given how far the "
        f"weights moved {r['partial']}, which alone predicts with {r['rival']}. Intervals resample {found.units}; "
        f"shuffled: {found.permuted['overall']}, within methods {found.permuted['within']}.{on_the_way}"
    )


def _positive(name: str, interval: Interval, control: bool = False) -> BoundCheck:
    """0 <= lower limit; a statistic that is not defined (nothing varies) counts as -1."""
    low = interval.low if np.isfinite(interval.low) else -1.0
    return BoundCheck(name, lhs=0.0, rhs=low, control=control, details={"value": _or_none(interval.value)})


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(record: CellRecord) -> Array:
    """The five columns for every concept and later stage; those after the drop are NaN where they were not stored."""
    energy, identity = record.matrix("forgetting_energy"), record.matrix("identity")
    if energy is None or identity is None:
        return np.empty((0, 5))
    later = np.tril_indices(len(identity.values), k=-1)
    drop = np.diag(identity.values)[later[1]] - identity.values[later]
    others = [record.matrix(name) for name in ("update_change", "fisher_energy", "prediction_change")]
    rest = [np.full(len(drop), np.nan) if matrix is None else matrix.values[later] for matrix in others]
    numbers = np.column_stack([energy.values[later], drop, *rest])
    return numbers[np.isfinite(numbers[:, :2]).all(1)]


# --- statistics -----------------------------------------------------------------------------------------------------


def overall(sample: Sample, predictor: int = F) -> float:
    """Spearman's rho of a predictor (a column) and the drop; NaN where it was not stored for all points."""
    x = sample.numbers[:, predictor]
    return float("nan") if np.isnan(x).any() else _correlation(rankdata(x), rankdata(sample.numbers[:, DROP]))


def within(sample: Sample, predictor: int = F) -> float:
    """Pearson's correlation of ranks taken, and centred, inside each method."""
    _, group, counts = np.unique(sample.method, return_inverse=True, return_counts=True)
    size = counts[group][:, None]
    earlier = (np.cumsum(counts) - counts)[group]  # points of the methods before: what a rank over all is too high by
    dense = rankdata(sample.numbers[:, [predictor, DROP]], method="dense", axis=0)
    ranks = rankdata(group[:, None] * (len(group) + 1) + dense, axis=0) - earlier[:, None]
    # a share of the ranks: methods with more points rank no higher
    pooled = (ranks - (size + 1) / 2) / size
    return _correlation(pooled[:, 0], pooled[:, 1])


def partial(sample: Sample, predictor: int = F) -> float:
    """rho_ed.c = (rho_ed - rho_ec rho_dc) / sqrt((1 - rho_ec²)(1 - rho_dc²)), c how far the weights moved."""
    if np.isnan(sample.numbers[:, MOVED]).any():
        return float("nan")
    e, d, c = rankdata(sample.numbers[:, [predictor, DROP, MOVED]], axis=0).T
    ed, ec, dc = _correlation(e, d), _correlation(e, c), _correlation(d, c)
    spread = (1 - ec**2) * (1 - dc**2)
    return float((ed - ec * dc) / np.sqrt(spread)) if spread > 1e-12 else float("nan")


def _where_measured(statistic: Callable[[Sample, int], float], predictor: int) -> Callable[[Sample], float]:
    """A statistic of the points where a change of the prediction was measured; NaN where there are none."""

    def of_some(sample: Sample) -> float:
        known = np.isfinite(sample.numbers[:, PREDICTION_CHANGE])
        return statistic(Sample(sample.numbers[known], sample.method[known]), predictor) if known.any() else np.nan

    return of_some


STATISTICS: dict[str, Callable[[Sample], float]] = {
    "overall": overall,
    "within": within,
    "partial": partial,
    "rival": functools.partial(overall, predictor=MOVED),
    "prediction": _where_measured(overall, PREDICTION_CHANGE),
    "prediction within": _where_measured(within, PREDICTION_CHANGE),
    "prediction partial": _where_measured(partial, PREDICTION_CHANGE),
    "fisher": _where_measured(overall, FISHER),
    "fisher within": _where_measured(within, FISHER),
    "plain": _where_measured(overall, F),
    "plain within": _where_measured(within, F),
}


def _correlation(x: Array, y: Array) -> float:
    """Pearson's r; NaN where one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def _interval(statistic: Callable[[Sample], float], whole: Sample | None, drawn: Sequence[Sample]) -> Interval:
    """Percentile interval; the value is that of the whole sample, or the median where there is none (shuffled)."""
    resampled = np.array([statistic(one) for one in drawn])
    if np.isnan(resampled).all():
        return Interval(statistic(whole) if whole else float("nan"), float("nan"), float("nan"))
    low, median, high = np.nanquantile(resampled, [0.025, 0.5, 0.975])
    return Interval(statistic(whole) if whole else float(median), float(low), float(high))


def _join(parts: Sequence[Sample]) -> Sample:
    return Sample(np.concatenate([p.numbers for p in parts]), np.concatenate([p.method for p in parts]))


def _shuffled(sample: Sample, rng: np.random.Generator, within: bool) -> Sample:
    """Energies dealt out anew, over all points or inside each method: no relation is left, all else is."""
    order = rng.permutation(len(sample.method))
    if within:
        mixed = order[np.argsort(sample.method[order], kind="stable")]
        order = np.empty_like(mixed)
        order[np.argsort(sample.method, kind="stable")] = mixed
    numbers = sample.numbers.copy()
    numbers[:, F] = sample.numbers[order, F]
    return Sample(numbers, sample.method)
