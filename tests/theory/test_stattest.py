from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlora.errors import BadInputError
from theory import stattest


def tail(trials: int, rate: float, count: int) -> float:
    """P(Bin(trials, rate) > count), by adding up the terms from their logarithms."""
    from math import exp, lgamma, log

    return sum(
        exp(lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) + k * log(rate) + (trials - k) * log(1 - rate))
        for k in range(count + 1, trials + 1)
    )


@pytest.mark.parametrize(
    ("trials", "delta", "allowed", "caught"),
    [(1000, 0.01, 28, 0.048), (2000, 0.05, 149, 0.094), (10_000, 0.1, 1145, 0.125)],
)
def test_acceptance_agrees_with_the_published_table(trials: int, delta: float, allowed: int, caught: float) -> None:
    assert stattest.allowed_violations(trials, delta) == allowed
    assert stattest.detectable_rate(trials, delta) == pytest.approx(caught, abs=6e-4)  # table has two digits


@given(trials=st.integers(1, 300), delta=st.floats(1e-4, 0.5))
@settings(max_examples=60, deadline=None)
def test_allowed_count_is_the_least_that_keeps_the_false_fail_rate(trials: int, delta: float) -> None:
    allowed = stattest.allowed_violations(trials, delta, 1e-4)
    slack = 1 + 1e-9  # lgamma sums of at most 300 terms
    assert tail(trials, delta, allowed) <= 1e-4 * slack
    assert allowed == 0 or tail(trials, delta, allowed - 1) > 1e-4 / slack


@given(trials=st.integers(1, 300), fraction=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_exact_limits_invert_the_binomial_tail(trials: int, fraction: float) -> None:
    violations = round(fraction * trials)
    lower, upper = stattest.rate_interval(violations, trials, 0.9)
    assert 0 <= lower <= violations / trials <= upper <= 1
    if violations < trials:
        assert 1 - tail(trials, upper, violations) == pytest.approx(0.05, rel=1e-6)
    if violations > 0:
        assert tail(trials, lower, violations - 1) == pytest.approx(0.05, rel=1e-6)


def test_detectable_rate_is_caught_as_often_as_it_says() -> None:
    trials, delta = 400, 0.05
    rate = stattest.detectable_rate(trials, delta)
    assert tail(trials, rate, stattest.allowed_violations(trials, delta)) == pytest.approx(0.999, abs=1e-9)


def test_too_few_trials_catch_nothing_and_say_so() -> None:
    assert stattest.allowed_violations(3, 0.1) == 3
    assert stattest.detectable_rate(3, 0.1) == 1.0


def test_a_true_rate_passes_and_a_doubled_one_fails() -> None:
    rng = np.random.default_rng(7)
    trials = 20_000
    good, bad = rng.binomial(trials, 0.01), rng.binomial(trials, 0.02)
    assert stattest.check_rate("true", good, trials, 0.01).holds
    broken = stattest.check_rate("doubled", bad, trials, 0.01, layer="x", tightness=1.5)
    assert not broken.holds
    assert broken.details["tightness"] == 1.5
    assert broken.detectable_rate is not None
    assert broken.detectable_rate < 0.02  # the design resolves what the test looks for


def test_mean_checks_tell_a_wrong_mean_from_a_right_one() -> None:
    samples = np.random.default_rng(3).uniform(size=50_000)
    for width in (None, 1.0):
        assert stattest.check_mean("right", samples, 0.5, range_width=width).holds
        wrong = stattest.check_mean("wrong", samples, 0.53, range_width=width)
        assert wrong.rhs < 0.03
        assert not wrong.holds


def test_hoeffding_sizes_agree_with_the_published_table() -> None:
    for half_width, size in ((0.10, 726), (0.05, 2902), (0.01, 72_544)):
        assert stattest.hoeffding_half_width(size, 1.0) <= half_width < stattest.hoeffding_half_width(size - 1, 1.0)


@pytest.mark.parametrize("arguments", [(0, 0.1), (10, 0.0), (10, 1.0)])
def test_impossible_arguments_get_one_line(arguments: tuple[int, float]) -> None:
    with pytest.raises(BadInputError):
        stattest.allowed_violations(*arguments)
    with pytest.raises(BadInputError, match="impossible"):
        stattest.rate_upper_limit(5, 4)
