"""Is it worse? Paired differences, one-sided t-tests with Holm's correction, and a margin that must be exceeded.

A difference is signed so that + is worse. Over n seeds, with mean d and standard deviation s,

    regression     Holm-adjusted p of  t = d sqrt(n) / s  at most 0.01 over all gates, and d > margin
    unchanged      the 90 % interval  d ± t_{0.95, n-1} s / sqrt(n)  lies within ±margin
    inconclusive   neither

A clean change is called a regression with probability at most 0.01, whatever the number of gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from bench.api import Array
from seqlora.errors import BadInputError

FAMILY_LEVEL = 0.01
LEAST_PAIRS = 8
INTERVAL = 0.90

Verdict = Literal["regression", "unchanged", "inconclusive"]


@dataclass(frozen=True)
class Paired:
    """A one-sided paired t-test.

    Attributes:
        n: pairs.
        mean: of the differences; + is worse.
        sd: of the differences.
        p_value: of "the mean is not positive".
        low: lower end of the two-sided 90 % interval of the mean.
        high: its upper end.
    """

    n: int
    mean: float
    sd: float
    p_value: float
    low: float
    high: float


def paired(differences: Array) -> Paired:
    """Test paired differences, shape (n,), one a seed and order.

    Raises:
        BadInputError: fewer than two.
    """
    n = len(differences)
    if n < 2:
        raise BadInputError(f"a paired test needs at least two pairs, not {n}")
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    error = sd / np.sqrt(n)
    certain = 0.0 if mean > 0 else 1.0  # where all differences are the same number
    p_value = float(stats.t.sf(mean / error, n - 1)) if error > 0 else certain
    half = float(stats.t.ppf((1 + INTERVAL) / 2, n - 1)) * error
    return Paired(n, mean, sd, p_value, mean - half, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values: `max_{j <= i} min(1, (m - j + 1) p_(j))` for the i-th smallest of m."""
    m, largest = len(p_values), 0.0
    adjusted = [0.0] * m
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (m - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(test: Paired, adjusted_p: float, margin: float) -> Verdict:
    """What a gate says, from its test, its adjusted p-value and its practical margin."""
    if adjusted_p <= FAMILY_LEVEL and test.mean > margin:
        return "regression"
    return "unchanged" if -margin <= test.low and test.high <= margin else "inconclusive"
