"""C1 and C2 can come out either way: each is broken on purpose and its check is seen to fail."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from theory import energy, sample_size
from theory.api import BoundCheck, ClaimResult
from theory.claims import c1_residual_energy as c1
from theory.claims import c2_leak as c2
from theory.layers.base import Layer
from theory.layers.synthetic import frames, layer, spectrum
from theory.verdicts import kind


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def check(claim: type, layers: list[Layer], seed: int = 0) -> ClaimResult:
    return claim().check(layers, "synthetic", "smoke", rng(seed))


def broken(result: ClaimResult) -> set[str]:
    return {kind(part) for part in result.checks if not part.control and not part.holds}


@pytest.fixture(scope="module")
def steep() -> Layer:
    return layer(64, 4, 2048, 1.5, rng())


# C1 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_c1_holds_where_there_is_a_spectrum_to_learn(steep: Layer, seed: int) -> None:
    result = check(c1.ResidualEnergy, [steep], seed)
    assert str(result.verdict) == "holds"
    assert result.controls_broken
    rows = result.tables["residual_energy"]
    assert all(row["optimal"] <= row["learned"] + 1e-9 for row in rows)
    assert sum(row["frozen_measured"] is not None for row in rows) == 1


def test_c1_fails_on_an_isotropic_layer() -> None:
    result = check(c1.ResidualEnergy, [layer(64, 3, 2048, 0.0, rng())])
    assert result.verdict.kind == "fails when"
    assert broken(result) == {"learned below frozen"}
    assert "learned below frozen (1 of 2 layers" in result.verdict.condition  # the controls are a layer of their own


def test_c1_sees_a_basis_that_is_not_the_top_of_the_spectrum(steep: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    right = energy.optimal_basis

    def second_best(S: np.ndarray, rank: int, past: np.ndarray | None = None) -> np.ndarray:
        return right(S, rank + 1, past)[1:]  # leaves the first direction out

    monkeypatch.setattr(energy, "optimal_basis", second_best)
    assert {"optimum", "optimum formula"} <= broken(check(c1.ResidualEnergy, [steep]))


def test_c1_sees_a_missing_projection(steep: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    right = energy.optimal_basis
    monkeypatch.setattr(energy, "optimal_basis", lambda S, rank, past=None: right(S, rank))
    assert "optimum formula" in broken(check(c1.ResidualEnergy, [layer(64, 4, 2048, 1.5, rng(), angle=0.0)]))


@pytest.mark.parametrize(
    ("moments", "failing"),
    [
        (lambda mean, variance: (mean * 1.05, variance), "frozen mean"),
        (lambda mean, variance: (mean, variance * 1.5), "frozen variance"),
        (lambda mean, variance: (mean, variance / 1.5), "frozen variance"),
    ],
)
def test_c1_sees_a_wrong_constant_in_the_frozen_law(
    steep: Layer, monkeypatch: pytest.MonkeyPatch, moments, failing: str
) -> None:
    right = energy.frozen_residual_energy
    monkeypatch.setattr(energy, "frozen_residual_energy", lambda S, rank, past=None: moments(*right(S, rank, past)))
    assert failing in broken(check(c1.ResidualEnergy, [steep]))


def test_c1_sees_a_constant_too_small_in_the_excess_bound() -> None:
    # S = diag(1, 1 - e), learned from diag(1 - e, 1): excess e, ‖difference‖ = e, so 2 r is at most twice too much
    e = 0.1
    S, estimate = np.diag([1.0, 1 - e]), np.diag([1 - e, 1.0])
    excess = energy.residual_energy(S, energy.optimal_basis(estimate, 1)) - energy.optimal_residual_energy(S, 1)
    norm = float(np.linalg.norm(estimate - S, 2))
    assert excess == pytest.approx(e)
    assert excess <= 2 * norm
    assert excess > 0.9 * norm  # r ‖·‖ / 1.2 would be broken


@pytest.mark.parametrize("seed", range(5))
def test_the_excess_bound_holds_for_any_two_second_moments(seed: int) -> None:
    stream = rng(seed)
    S, estimate = ((lambda X: X @ X.T)(stream.standard_normal((10, 12))) for _ in range(2))
    for rank in (1, 3, 9):
        excess = energy.residual_energy(S, energy.optimal_basis(estimate, rank))
        excess -= energy.optimal_residual_energy(S, rank)
        assert -1e-9 <= excess <= 2 * rank * np.linalg.norm(estimate - S, 2)


def test_sample_sizes_shrink_the_excess_and_theory_asks_for_more_than_is_needed() -> None:
    X = layer(64, 1, 400, 1.5, rng()).activations["concept0"]
    windows = X.T[:, :, None]
    S = X @ X.T / X.shape[1]
    rows = sample_size.measure(windows, S, 4, draws=200, bounded=20, rng=rng(1))
    assert [row.n_windows for row in rows] == [4, 8, 16, 32]
    assert rows[-1].excess < rows[0].excess
    assert all(row.worst_ratio <= 1 for row in rows)
    needed = sample_size.windows_needed(rows)
    assert needed is not None
    assert needed <= sample_size.sufficient_windows(windows, S, 4) < np.inf


def test_no_number_of_samples_suffices_without_a_gap() -> None:
    windows = np.sqrt(4) * np.eye(4)[:, :, None]  # the axes: their second moment is the identity
    assert sample_size.sufficient_windows(windows, np.eye(4), 2) == np.inf


def test_windows_needed_counts_from_the_last_loss() -> None:
    def row(count: int, probability: float) -> sample_size.SampleSize:
        return sample_size.SampleSize(count, probability, 0.0, 1.0, 0.0)

    assert sample_size.windows_needed([row(1, 1.0), row(2, 0.9), row(4, 0.99)]) == 4
    assert sample_size.windows_needed([row(1, 1.0), row(2, 0.9)]) is None


# C2 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "concepts", "decay", "printed"),
    [
        (64, 4, 1.0, "1.46"),
        (64, 4, 1.5, "1.01"),
        (64, 4, 2.0, "0.53"),
        (768, 16, 1.0, "4.7"),
        (768, 16, 2.25, "1.03"),
    ],
)
def test_c2_phase_diagram_of_power_laws(width: int, concepts: int, decay: float, printed: str) -> None:
    ratio = c2.worst_ratio(spectrum(width, decay), 4, concepts)
    assert f"{ratio:.{len(printed.partition('.')[2])}f}" == printed
    # independent: by harmonic sums
    k = np.arange(1, width + 1.0) ** -decay
    assert ratio == pytest.approx(width * k[4 : 4 * concepts].mean() / k.sum())


def test_c2_worst_case_is_attained_by_bases_of_equal_moments() -> None:
    w = spectrum(64, 1.0)
    moments = [(U * w) @ U.T for U in frames(64, 4, 0.0, rng())]
    assert c2._leak_ratio(moments, 4) == pytest.approx(1.4586, abs=1e-4)


def test_c2_smallest_rank_is_where_the_ratio_crosses_one() -> None:
    w = spectrum(64, 1.0)
    star = c2.smallest_rank(w, 4)
    ratios = [c2.worst_ratio(w, rank, 4) for rank in range(1, 17)]
    assert star is not None
    assert all(ratio <= 1 for ratio in ratios[star - 1 :])
    assert ratios[star - 2] > 1
    assert c2.smallest_rank(np.ones(8), 4) == 1  # a tie is no loss
    # two concepts in three dimensions: only rank 1 fits, and it loses
    assert c2.smallest_rank(np.array([1.0, 1.0, 0.0]), 2) is None


def test_c2_boundary_lies_just_above_one_and_a_half() -> None:
    boundary = brentq(lambda decay: c2.worst_ratio(spectrum(64, decay), 4, 4) - 1, 1, 2)
    assert 1.5 < boundary < 1.55


def equal_moments(decay: float, concepts: int = 4) -> Layer:
    return layer(64, concepts, 4096, decay, rng(), angle=0.0)


def test_c2_fails_where_concepts_want_the_same_directions_and_says_below_which_rank() -> None:
    result = check(c2.Leak, [equal_moments(1.0)])
    assert result.verdict.kind == "fails when"
    assert broken(result) == {c2.LEAKS_LESS}
    star = result.tables["layers"][0]["rank_star"]
    assert f"the rank is below r* = {star} to {star} (1 of 1 layers at rank 4)" in result.verdict.condition


def test_c2_holds_when_the_spectrum_is_steep_or_concepts_differ(steep: Layer) -> None:
    result = check(c2.Leak, [steep, equal_moments(2.0)])
    assert result.verdict.kind == "holds when"
    assert "on all 2 layers" in result.verdict.condition
    mixed = check(c2.Leak, [steep, equal_moments(1.0)])
    assert mixed.verdict.kind == "holds when"
    assert "1 of 2 layers" in mixed.verdict.condition


def test_c2_sees_a_reused_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    right = energy.learned_bases

    def reused(moments: list[np.ndarray], rank: int) -> np.ndarray:
        return np.repeat(right(moments[:1], rank), len(moments), axis=0)  # every concept takes the first one's basis

    monkeypatch.setattr(energy, "learned_bases", reused)
    result = check(c2.Leak, [equal_moments(2.0)])
    assert result.verdict.kind == "fails when"
    assert "worst case" in broken(result)


def test_c2_sees_wrong_constants(monkeypatch: pytest.MonkeyPatch, steep: Layer) -> None:
    right = energy.frozen_leak
    monkeypatch.setattr(energy, "frozen_leak", lambda S, directions: 1.05 * right(S, directions))
    assert "frozen leak" in broken(check(c2.Leak, [steep]))
    monkeypatch.setattr(energy, "frozen_leak", right)
    worst = energy.worst_leak
    monkeypatch.setattr(energy, "worst_leak", lambda w, rank, directions: worst(w, rank + 1, directions - 1))
    assert "worst case" in broken(check(c2.Leak, [steep]))


def test_c2_without_two_concepts_draws_the_diagram_only() -> None:
    result = check(c2.Leak, [layer(16, 1, 64, 1.0, rng())])
    assert result.tables["layers"] == []
    assert result.tables["phase"]
    assert isinstance(result.checks[0], BoundCheck)
