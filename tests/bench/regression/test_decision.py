"""The statistics of a gate: exact where there is an exact answer, and at most as many false alarms as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.regression.decision import FAMILY_LEVEL, Paired, holm, paired, verdict
from seqlora.errors import BadInputError
from theory.stattest import check_rate

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=3, max_size=20))
def test_the_test_is_scipys_paired_one_sided_t(differences: list[float]) -> None:
    worse = np.array(differences)
    if np.ptp(worse) == 0:
        return
    mine = paired(worse)
    reference = stats.ttest_rel(worse, np.zeros_like(worse), alternative="greater")
    interval = stats.ttest_rel(worse, np.zeros_like(worse)).confidence_interval(0.90)
    assert mine.p_value == pytest.approx(float(reference.pvalue), rel=1e-9, abs=1e-12)
    assert (mine.low, mine.high) == pytest.approx((float(interval.low), float(interval.high)), rel=1e-9, abs=1e-12)


def test_the_same_shift_in_every_seed_is_certain() -> None:
    assert paired(np.full(8, 0.5)).p_value == 0
    assert paired(np.zeros(8)).p_value == 1
    assert paired(np.full(8, -0.5)).p_value == 1
    with pytest.raises(BadInputError, match="at least two pairs"):
        paired(np.ones(1))


def rejected_one_by_one(values: list[float], level: float) -> set[int]:
    """Holm (1979) as stated: the smallest against level / m, the next against level / (m - 1), until one fails."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    rejected: set[int] = set()
    for step, index in enumerate(order):
        if values[index] * (len(values) - step) > level:
            break
        rejected.add(index)
    return rejected


@given(p_values, st.floats(0.001, 0.2))
def test_adjusted_p_values_reject_what_the_sequential_procedure_rejects(values: list[float], level: float) -> None:
    adjusted = holm(values)
    assert {i for i, p in enumerate(adjusted) if p <= level} == rejected_one_by_one(values, level)
    assert all(new >= old for new, old in zip(adjusted, values, strict=True))


@pytest.mark.parametrize(
    ("mean", "low", "high", "p_value", "expected"),
    [
        (0.05, 0.04, 0.06, 0.001, "regression"),
        (0.015, 0.014, 0.016, 0.0001, "unchanged"),  # significant, and too small to matter
        (0.05, -0.01, 0.11, 0.2, "inconclusive"),  # large, and not significant
        (0.0, -0.01, 0.01, 0.5, "unchanged"),
        (-0.05, -0.06, -0.04, 1.0, "inconclusive"),  # better
        (0.05, 0.04, 0.06, 0.011, "inconclusive"),
    ],
)
def test_a_regression_is_significant_and_matters(
    mean: float, low: float, high: float, p_value: float, expected: str
) -> None:
    assert verdict(Paired(8, mean, 0.01, p_value, low, high), p_value, margin=0.02) == expected


@pytest.mark.parametrize("gates", [1, 15])
def test_false_alarms_are_as_rare_as_promised_however_many_gates_there_are(gates: int) -> None:
    trials, pairs = 4000, 8
    worse = np.random.default_rng(11).standard_normal((trials, gates, pairs))
    error = worse.std(axis=2, ddof=1) / np.sqrt(pairs)
    smallest = stats.t.sf(worse.mean(axis=2) / error, pairs - 1).min(axis=1)
    # Some gate is rejected iff the smallest p-value is, against level / gates; no margin helps here.
    check = check_rate("some gate is rejected", int((smallest * gates <= FAMILY_LEVEL).sum()), trials, FAMILY_LEVEL)
    assert check.holds
    for trial in range(20):  # and that is what the functions do
        values = [paired(row).p_value for row in worse[trial]]
        assert (min(holm(values)) <= FAMILY_LEVEL) == (smallest[trial] * gates <= FAMILY_LEVEL)
    if gates > 1:  # control: without Holm the promise is broken
        assert not check_rate("uncorrected", int((smallest <= FAMILY_LEVEL).sum()), trials, FAMILY_LEVEL).holds
