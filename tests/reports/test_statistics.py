"""Intervals over seeds, against scipy and against what is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.sources import Results
from reports.statistics import intervals, mean_values, paired_difference, replications, t_interval, timings


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_t_interval_is_scipys(values: list[float]) -> None:
    x = np.array(values)
    found = t_interval(x)
    if np.ptp(x) <= 1e-9 * max(1.0, float(np.abs(x).max())):  # scipy warns of lost digits where all values agree
        assert found.low <= found.high
        return
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-9, atol=1e-9)
    assert found.count == len(x)


def test_coverage_of_the_interval(rng: np.random.Generator) -> None:
    draws = rng.standard_normal((2000, 5))
    inside = sum(found.low <= 0 <= found.high for found in map(t_interval, draws))
    assert stats.binomtest(inside, 2000, 0.95).pvalue > 1e-6


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert t_interval(np.array([2.0])).mean == 2.0
    assert np.isnan(t_interval(np.array([2.0])).half)
    assert np.isnan(t_interval(np.array([])).mean)
    assert t_interval(np.array([1.0, np.nan, 3.0])).count == 2


def test_replications_are_cells_not_concepts_or_layers(results: Results) -> None:
    final = replications(results.cells, "relative_error", "final")
    assert final.groupby("method").size().eq(3).all()
    linear = [record for record in results.records if record.cell.task.startswith("linear")]
    for record in linear:
        matrix = record.matrix("relative_error")
        assert matrix is not None
        stored = final[(final.method == record.cell.method) & (final.seed == record.cell.seed)].value
        assert stored.item() == pytest.approx(matrix.values[-1].mean(), rel=1e-12)
    assert mean_values(results.cells, "leak").groupby("method").size().max() == 3
    assert timings(results.cells, "learn_seconds").value.gt(0).all()


def test_pairing_removes_what_the_seeds_share() -> None:
    rows = [
        {"task": "t", "method": name, "pretty_name": name, "role": "method", "n_concepts": 2, "order": 0, "seed": seed,
         "value": 100.0 * seed + shift + 0.01 * seed * (name == "b")}
        for seed in range(5) for name, shift in (("a", 0.0), ("b", 1.0))
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    paired = paired_difference(frame, "a").set_index("method")
    assert paired.loc["b", "mean"] == pytest.approx(1.02)
    assert paired.loc["b", "high"] - paired.loc["b", "low"] < 0.1
    alone = intervals(frame).set_index("method")
    assert alone.loc["b", "high"] - alone.loc["b", "low"] > 100
