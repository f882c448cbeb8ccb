"""Do layer energies predict what people see (claim C9): rank correlation over stored image cells.

For every cell, concept j and later stage t: the mean forgetting energy F[t, j] of the layers against the drop of
identity similarity R[j, j] - R[t, j]. Points of one cell share trainings and noise, so the interval comes from
resampling whole cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from bench.api import Array
from bench.schema import CellRecord
from seqlora.errors import BadInputError

RESAMPLES = 2000


@dataclass(frozen=True)
class Prediction:
    """Spearman's correlation with its interval.

    Attributes:
        correlation: over all points; positive if more energy goes with a larger drop.
        low, high: 95 % percentile interval over resampled cells.
        points: F and drop, shape (n, 2).
        cells: number of cells.
    """

    correlation: float
    low: float
    high: float
    points: Array
    cells: int


def points_of(record: CellRecord) -> Array:
    """(F[t, j], drop) of every concept and later stage, shape (n, 2); none where a method changes no weight."""
    energy, identity = record.matrix("forgetting_energy"), record.matrix("identity")
    if energy is None or identity is None:
        return np.empty((0, 2))
    later = np.tril_indices(len(identity.values), k=-1)
    drop = np.diag(identity.values)[later[1]] - identity.values[later]
    return np.column_stack([energy.values[later], drop])


def predict(records: Sequence[CellRecord], rng: np.random.Generator) -> Prediction:
    """Correlate energies and drops over the image cells among `records`.

    Raises:
        BadInputError: fewer than two cells have both.
    """
    parts = [points for record in records if len(points := points_of(record))]
    if len(parts) < 2:
        raise BadInputError(f"{len(parts)} cells hold forgetting energy and identity; run image cells of two methods")
    resampled = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))])
        resampled.append(_rank_correlation(drawn))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    points = np.concatenate(parts)
    return Prediction(_rank_correlation(points), float(low), float(high), points, len(parts))


def _rank_correlation(points: Array) -> float:
    """Spearman's rho; NaN where one of the two does not vary."""
    if np.ptp(points[:, 0]) == 0 or np.ptp(points[:, 1]) == 0:
        return float("nan")
    return float(spearmanr(points[:, 0], points[:, 1]).statistic)
