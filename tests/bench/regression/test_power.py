"""Detection probabilities: the noncentral t where it applies, simulation elsewhere; and the committed pilot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.regression.decision import FAMILY_LEVEL
from bench.regression.margins import load_margins, practical_margin
from bench.regression.numbers import GATED
from bench.regression.pilot import DISTURBED
from bench.regression.power import detection_probability, markdown, power_row
from bench.suites import SUITES
from theory.stattest import hoeffding_half_width


@pytest.mark.parametrize(
    ("shift", "margin", "pairs", "gates"), [(0.8, 0.0, 8, 1), (1.5, 0.5, 8, 15), (0.6, 0.5, 16, 3), (0.2, 0.5, 8, 1)]
)
def test_the_probability_is_what_simulation_gives(shift: float, margin: float, pairs: int, gates: int) -> None:
    trials = 20_000
    worse = shift + np.random.default_rng(5).standard_normal((trials, pairs))
    mean, error = worse.mean(axis=1), worse.std(axis=1, ddof=1) / np.sqrt(pairs)
    called = (stats.t.sf(mean / error, pairs - 1) <= FAMILY_LEVEL / gates) & (mean > margin)
    exact = detection_probability(shift, 1.0, margin, pairs, gates)
    assert abs(called.mean() - exact) <= hoeffding_half_width(trials, 1.0)


def test_without_a_margin_it_is_the_noncentral_t() -> None:
    critical = stats.t.isf(FAMILY_LEVEL / 4, 7)
    expected = stats.nct.sf(critical, 7, 1.5 * np.sqrt(8))
    assert detection_probability(1.5, 1.0, 0.0, 8, 4) == pytest.approx(expected, rel=1e-12)
    # the integral tends to it as the margin goes
    assert detection_probability(1.5, 1.0, 1e-6, 8, 4) == pytest.approx(expected, abs=1e-6)


def test_eight_seeds_see_1_4_and_20_seeds_0_76_standard_deviations() -> None:
    # 80 % power at level 0.01, one-sided: published tables of the noncentral t
    for pairs, shift in ((8, 1.4), (10, 1.2), (20, 0.76)):
        assert detection_probability(shift, 1.0, 0.0, pairs, 1) == pytest.approx(0.8, abs=0.03)


def test_certainty_and_monotony() -> None:
    assert detection_probability(0.1, 0.0, 0.05, 8, 3) == 1
    assert detection_probability(0.04, 0.0, 0.05, 8, 3) == 0
    shares = [detection_probability(shift, 1.0, 0.3, 8, 5) for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert shares == sorted(shares)
    assert shares[0] < FAMILY_LEVEL / 5
    assert shares[-1] > 0.99


def test_margins_are_a_quarter_of_a_standard_deviation_rounded_up() -> None:
    assert practical_margin(0.0) == 0
    assert practical_margin(0.28) == 0.07
    assert practical_margin(0.2804) == 0.071
    assert practical_margin(0.0213) == 0.0054


def test_the_committed_pilot_covers_the_gated_cells_and_its_margins_follow_from_it() -> None:
    file = load_margins()
    assert file.seeds >= 20
    assert file.disturbed >= DISTURBED
    known = {(gate.task, gate.method, gate.n_concepts) for gate in file.gates}
    linear = {(c.task, c.method, c.n_concepts) for c in SUITES["gate"].cells() if c.task.startswith("linear")}
    assert linear <= known
    for gate in file.gates:
        assert gate.number in GATED
        assert gate.margin == practical_margin(gate.sd)
        assert file.margin((gate.task, gate.method, gate.n_concepts), gate.number) == gate.margin


def test_the_power_table_states_what_the_functions_compute() -> None:
    file = load_margins()
    gate = next(gate for gate in file.gates if gate.margin > 0)
    shares = power_row(gate, gate.pairs, len(file.gates), np.sqrt(2) * gate.sd)
    assert " | ".join(f"{share:.2f}" for share in shares) in markdown(file)
    assert shares == sorted(shares)
