"""Statistical tests that do not flake: every one states how often it may fail although nothing is wrong.

A claim "the violation rate is at most delta" is judged by exact binomial acceptance, a claim about a mean by an
exact or self-normalised interval, all at one false-fail rate. Beside each verdict stands the smallest violation
rate that the test would have caught, so that "holds" cannot come from too few trials.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from seqlora.errors import BadInputError
from theory.api import BoundCheck

FALSE_FAIL_RATE = 1e-6
"""Probability that one statistical check fails although the claim is true. Stated here and nowhere else."""

CATCH_PROBABILITY = 0.999
"""Probability with which `detectable_rate` is caught."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadInputError(message)


def allowed_violations(trials: int, delta: float, false_fail_rate: float = FALSE_FAIL_RATE) -> int:
    """Largest violation count that still agrees with "rate <= delta".

    The least k with P(Bin(trials, delta) > k) <= false_fail_rate; a sum of independent indicators whose rates are
    at most delta, equal or not, is stochastically below that binomial, so pooling is allowed.

    Args:
        trials: independent trials, >= 1.
        delta: claimed violation rate, in (0, 1).
        false_fail_rate: how often the test may reject a true claim.

    Returns:
        The count k; the claim fails iff more than k violations are seen.

    Raises:
        BadInputError: an argument outside its range.
    """
    _require(trials >= 1, f"trials={trials}: at least one trial is needed")
    _require(
        0 < delta < 1 and 0 < false_fail_rate < 1, f"delta={delta} and false_fail_rate={false_fail_rate}: use (0, 1)"
    )
    return int(stats.binom.isf(false_fail_rate, trials, delta))


def rate_upper_limit(violations: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided exact (Clopper-Pearson) upper limit of the violation rate."""
    _require(0 <= violations <= trials and trials >= 1, f"{violations} violations in {trials} trials is impossible")
    return 1.0 if violations == trials else float(stats.beta.ppf(confidence, violations + 1, trials - violations))


def rate_lower_limit(violations: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided exact (Clopper-Pearson) lower limit of the violation rate."""
    _require(0 <= violations <= trials and trials >= 1, f"{violations} violations in {trials} trials is impossible")
    return 0.0 if violations == 0 else float(stats.beta.ppf(1 - confidence, violations, trials - violations + 1))


def rate_interval(violations: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact (Clopper-Pearson) interval of the violation rate."""
    side = (1 + confidence) / 2
    return rate_lower_limit(violations, trials, side), rate_upper_limit(violations, trials, side)


def detectable_rate(trials: int, delta: float, false_fail_rate: float = FALSE_FAIL_RATE) -> float:
    """Smallest true violation rate that `trials` trials catch with probability `CATCH_PROBABILITY`.

    P(Bin(trials, p) > k) = I_p(k + 1, trials - k), so the rate is a beta quantile; 1.0 if no rate is caught.
    """
    allowed = allowed_violations(trials, delta, false_fail_rate)
    return 1.0 if allowed >= trials else float(stats.beta.ppf(CATCH_PROBABILITY, allowed + 1, trials - allowed))


def check_rate(
    name: str,
    violations: int,
    trials: int,
    delta: float,
    *,
    layer: str = "",
    control: bool = False,
    **details: float | int | str | bool | None,
) -> BoundCheck:
    """Judge "the violation rate is at most delta" from a count.

    Args:
        name: what was checked, for the ledger.
        violations: violations seen.
        trials: independent trials made.
        delta: claimed rate.
        layer: the layer it was checked on.
        control: outside the assumptions, expected to be broken.
        details: further numbers to keep beside the result.

    Returns:
        A probabilistic `BoundCheck` with exact limits; `lhs` is the observed rate, `rhs` is delta.
    """
    return BoundCheck(
        name=name,
        lhs=violations / trials,
        rhs=delta,
        layer=layer,
        control=control,
        delta=delta,
        trials=trials,
        violations=int(violations),
        allowed_violations=allowed_violations(trials, delta),
        rate_upper_limit=rate_upper_limit(int(violations), trials),
        detectable_rate=detectable_rate(trials, delta),
        details=details,
    )


def mean_half_width(samples: NDArray[np.float64], false_fail_rate: float = FALSE_FAIL_RATE) -> float:
    """Half width of Student's interval for the mean of i.i.d. samples of finite variance.

    Exact for Gaussian samples, asymptotic otherwise: use it for averages of many light-tailed trials, and
    `hoeffding_half_width` where the samples are bounded and few.
    """
    size = len(samples)
    _require(size >= 2, "a mean needs at least two samples")
    return float(stats.t.isf(false_fail_rate / 2, size - 1) * np.std(samples, ddof=1) / np.sqrt(size))


def hoeffding_half_width(size: int, width: float, false_fail_rate: float = FALSE_FAIL_RATE) -> float:
    """Half width of Hoeffding's interval for the mean of `size` independent samples in a range of length `width`."""
    _require(size >= 1 and width >= 0, f"size={size}, width={width}: needs size >= 1 and width >= 0")
    return float(width * np.sqrt(np.log(2 / false_fail_rate) / (2 * size)))


def check_mean(
    name: str,
    samples: NDArray[np.float64],
    expected: float,
    *,
    range_width: float | None = None,
    layer: str = "",
    control: bool = False,
    **details: Any,
) -> BoundCheck:
    """Judge "the mean is `expected`": |average - expected| against the half width of an exact interval.

    Args:
        name: what was checked, for the ledger.
        samples: i.i.d. samples, shape (trials,).
        expected: claimed mean.
        range_width: length of the range that contains every sample; Hoeffding is used if given, Student if not.
        layer: the layer it was checked on.
        control: outside the assumptions, expected to be broken.
        details: further numbers to keep beside the result.

    Returns:
        A `BoundCheck` whose `rhs` is the half width at the false-fail rate: also the smallest discrepancy that
        the check can tell from chance.
    """
    average = float(np.mean(samples))
    half_width = mean_half_width(samples) if range_width is None else hoeffding_half_width(len(samples), range_width)
    return BoundCheck(
        name=name,
        lhs=abs(average - expected),
        rhs=half_width,
        layer=layer,
        control=control,
        trials=len(samples),
        details={"mean": average, "expected": expected, **details},
    )
