"""Forgetting and its relatives, against numbers computed by hand and against Avalanche's definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.api import Metric, MetricMatrix
from bench.metrics import METRICS
from bench.metrics.forgetting import (
    after,
    average,
    backward_transfer,
    chaudhry_forgetting,
    forgetting,
    forward_transfer,
    identity_drop,
    summary,
)
from seqlora.errors import BadInputError

ACCURACY = Metric("accuracy", "accuracy", "higher")
ERROR = Metric("error", "error", "lower")
NAN = float("nan")

# Two concepts; the first falls from .9 to .6 while the second is learnt.
R2 = np.array([[0.9, 0.2], [0.6, 0.8]])
# Three; the first recovers from .5 to .7, having been .9; the second rises from .6 to .7.
R3 = np.array([[0.9, 0.3, 0.1], [0.5, 0.6, 0.2], [0.7, 0.7, 0.8]])
# The second concept's best value is not its first: .6, .9, then .4 (needs four stages).
R4 = np.array([[0.8, NAN, NAN, NAN], [0.7, 0.6, NAN, NAN], [0.7, 0.9, 0.5, NAN], [0.9, 0.4, 0.5, 0.3]])


def test_two_concepts_by_hand() -> None:
    assert forgetting(R2, ACCURACY) == pytest.approx([0.9 - 0.6])
    assert chaudhry_forgetting(R2, ACCURACY) == pytest.approx([0.9 - 0.6])
    assert backward_transfer(R2, ACCURACY) == pytest.approx(-0.3)
    assert forward_transfer(R2, np.array([0.1, 0.1]), ACCURACY) == pytest.approx(0.2 - 0.1)
    assert average(R2) == pytest.approx((0.6 + 0.8) / 2)
    assert identity_drop(R2, np.array([0.95, 0.85]), ACCURACY) == pytest.approx([0.35, 0.05])


def test_three_concepts_by_hand() -> None:
    assert forgetting(R3, ACCURACY) == pytest.approx([0.9 - 0.7, 0.6 - 0.7])
    assert chaudhry_forgetting(R3, ACCURACY) == pytest.approx([0.9 - 0.7, 0.6 - 0.7])
    assert backward_transfer(R3, ACCURACY) == pytest.approx(((0.7 - 0.9) + (0.7 - 0.6)) / 2)
    assert forward_transfer(R3, np.array([0.0, 0.1, 0.1]), ACCURACY) == pytest.approx(((0.3 - 0.1) + (0.2 - 0.1)) / 2)
    assert average(R3) == pytest.approx((0.7 + 0.7 + 0.8) / 3)
    assert identity_drop(R3, np.array([0.9, 0.9, 0.9]), ACCURACY) == pytest.approx([0.2, 0.2, 0.1])


def test_the_two_definitions_of_forgetting_differ_where_a_later_stage_was_best() -> None:
    assert forgetting(R4, ACCURACY) == pytest.approx([0.8 - 0.9, 0.6 - 0.4, 0.5 - 0.5])
    # the maximum leaves the last stage out (Chaudhry et al. 2018, eq. 3), so concept 0 has forgetting -.1 in both
    assert chaudhry_forgetting(R4, ACCURACY) == pytest.approx([0.8 - 0.9, 0.9 - 0.4, 0.5 - 0.5])


def test_errors_are_signed_so_that_plus_is_worse() -> None:
    errors = 1 - R3
    for derived in (forgetting, chaudhry_forgetting):
        assert derived(errors, ERROR) == pytest.approx(derived(R3, ACCURACY))
    assert backward_transfer(errors, ERROR) == pytest.approx(backward_transfer(R3, ACCURACY))
    assert identity_drop(errors, np.full(3, 0.1), ERROR) == pytest.approx(identity_drop(R3, np.full(3, 0.9), ACCURACY))


class AvalancheForgetting:
    """Avalanche's rule, restated: the first value of an experience is its initial value, every other updates the last.

    `GenericExperienceForgetting` (avalanche/evaluation/metrics/forgetting_bwt.py): `forgetting = initial - last` for
    experiences that have both; the stream metric is their mean; BWT is its negative.
    """

    def __init__(self) -> None:
        self.initial: dict[int, float] = {}
        self.last: dict[int, float] = {}

    def update(self, trained: int, evaluated: int, value: float) -> None:
        if trained == evaluated:
            self.initial[evaluated] = value
        else:
            self.last[evaluated] = value

    def result(self) -> dict[int, float]:
        return {k: self.initial[k] - self.last[k] for k in self.initial if k in self.last}


matrices = st.integers(2, 6).flatmap(lambda t: arrays(np.float64, (t, t), elements=st.floats(0, 1)))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(matrices)
def test_forgetting_is_avalanches(R: np.ndarray) -> None:
    reference = AvalancheForgetting()
    for t in range(len(R)):
        for j in range(t + 1):
            reference.update(t, j, R[t, j])
    expected = reference.result()
    assert forgetting(R, ACCURACY) == pytest.approx([expected[j] for j in range(len(R) - 1)])
    assert backward_transfer(R, ACCURACY) == pytest.approx(-np.mean(list(expected.values())))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(matrices)
def test_best_past_forgets_at_least_as_much_as_just_trained(R: np.ndarray) -> None:
    assert (chaudhry_forgetting(R, ACCURACY) >= forgetting(R, ACCURACY)).all()


def test_one_concept_has_nothing_to_forget() -> None:
    single = summary(MetricMatrix("relative_error", np.array([[0.4]]), np.array([0.4]), np.array([1.0])))
    assert single["final"] == single["just_trained"] == 0.4
    assert single["identity_drop"] == 0
    for name in ("forgetting", "chaudhry_forgetting", "backward_transfer", "forward_transfer"):
        assert np.isnan(single[name])


def test_what_was_not_measured_stays_unknown() -> None:
    matrix = MetricMatrix("relative_error", np.tril(R2) + np.triu(np.full((2, 2), NAN), 1), R2[0], R2[0])
    assert np.isnan(summary(matrix)["forward_transfer"])
    assert summary(matrix)["forgetting"] == pytest.approx(-0.3)  # an error that falls is no forgetting


def test_the_matrix_after_an_earlier_stage() -> None:
    matrix = MetricMatrix("relative_error", R3, R3[0], R3[0])
    assert after(matrix, 1).values == pytest.approx(R3[:2, :2])
    with pytest.raises(BadInputError, match="stage 3"):
        after(matrix, 3)


def test_every_metric_says_how_to_read_it() -> None:
    for name in METRICS:
        metric = METRICS[name]
        assert metric.name == name
        assert metric.description
        assert metric.margin is None or metric.margin > 0
