"""What is derived from R[t, j] when reporting: the definitions may change, the stored matrices need not.

All differences are signed so that + is worse, whichever way the metric is oriented. R has T rows and columns; entries
above the diagonal (concepts not yet learnt) are needed by forward transfer only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.api import Array, Metric, MetricMatrix
from bench.metrics import METRICS
from seqlora.errors import BadInputError


def forgetting(R: Array, metric: Metric) -> Array:
    """Just trained - last: `R[j, j] - R[T, j]` for every concept but the last, shape (T - 1,). The headline.

    Avalanche's `Forgetting` (first recorded - last) is the same where a concept is trained in one stage only.
    """
    return _sign(metric) * (np.diag(R) - R[-1])[:-1]


def chaudhry_forgetting(R: Array, metric: Metric) -> Array:
    """Best past - last: `max_{j<=t<T} R[t, j] - R[T, j]`, shape (T - 1,) (Chaudhry et al. 2018, eq. 3).

    The maximum is over the stages from the concept's own to the last but one, so it is at least `forgetting`; stages
    before the concept was learnt, which the paper's index set also covers, do not count.
    """
    signed = _sign(metric) * R
    last = len(R) - 1
    best = np.array([signed[j:last, j].max() for j in range(last)])
    return best - signed[-1, :-1]


def backward_transfer(R: Array, metric: Metric) -> float:
    """BWT: `mean_{j<T} (R[T, j] - R[j, j])` (Lopez-Paz & Ranzato 2017), the negative of mean `forgetting`.

    Signed by the metric's orientation, so that + is an improvement of old concepts, as in the paper. NaN for T = 1.
    """
    return -_mean(forgetting(R, metric))


def forward_transfer(R: Array, base: Array, metric: Metric) -> float:
    """FWT: `mean_{j>1} (R[j-1, j] - b[j])` (Lopez-Paz & Ranzato 2017); + means that earlier concepts help.

    Needs the entries next to the diagonal from above; NaN if they were not measured, or for T = 1.
    """
    return _mean(_sign(metric) * (np.diag(R, k=1) - base[1:]))


def average(R: Array) -> float:
    """Mean over all concepts after the last stage, in the metric's own units and orientation."""
    return _mean(R[-1])


def identity_drop(R: Array, single: Array, metric: Metric) -> Array:
    """Single - merged: `S[j] - R[T, j]`, shape (T,): what merging costs against a model of one concept."""
    return _sign(metric) * (single - R[-1])


def summary(matrix: MetricMatrix) -> Mapping[str, float]:
    """Every derived number of one matrix; means over concepts, NaN where not defined or not measured."""
    metric = METRICS[matrix.metric]
    R = matrix.values
    return {
        "final": average(R),
        "just_trained": _mean(np.diag(R)),
        "single": _mean(matrix.single),
        "base": _mean(matrix.base),
        "forgetting": _mean(forgetting(R, metric)),
        "chaudhry_forgetting": _mean(chaudhry_forgetting(R, metric)),
        "backward_transfer": backward_transfer(R, metric),
        "forward_transfer": forward_transfer(R, matrix.base, metric),
        "identity_drop": _mean(identity_drop(R, matrix.single, metric)),
    }


def after(matrix: MetricMatrix, stage: int) -> MetricMatrix:
    """The matrix as it was after `stage` (counted from 0): the first stage + 1 rows and columns.

    Raises:
        BadInputError: there was no such stage.
    """
    if not 0 <= stage < len(matrix.values):
        raise BadInputError(f"stage {stage} is not one of 0..{len(matrix.values) - 1}")
    kept = slice(stage + 1)
    return MetricMatrix(matrix.metric, matrix.values[kept, kept], matrix.single[kept], matrix.base[kept], matrix.layer)


def _sign(metric: Metric) -> float:
    return 1.0 if metric.orientation == "higher" else -1.0


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
