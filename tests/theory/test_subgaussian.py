from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from seqlora.errors import BadInputError
from theory.claims.c3_forgetting_bound import autoregressive
from theory.layers.base import Layer
from theory.layers.synthetic import draw
from theory.montecarlo import symmetric_root
from theory.subgaussian import diagnose, directional_kappa2, estimate_proxy, flip_flop, spectral_decay

ROWS, COLUMNS = 5, 8


def windows(count: int, rng: np.random.Generator, family: str = "gaussian", correlation: float = 0.7) -> np.ndarray:
    S = np.diag(np.arange(1, ROWS + 1, dtype=float))
    Z = draw(family, (count, ROWS, COLUMNS), rng)
    return np.sqrt(S) @ Z @ symmetric_root(autoregressive(COLUMNS, correlation))


def test_flip_flop_satisfies_both_likelihood_equations() -> None:
    R = windows(200, np.random.default_rng(0))
    fit = flip_flop(R, tolerance=1e-12)
    assert fit.converged
    row = np.mean([r @ np.linalg.inv(fit.column) @ r.T for r in R], axis=0) / COLUMNS
    column = np.mean([r.T @ np.linalg.inv(fit.row) @ r for r in R], axis=0) / ROWS
    scale = 1e-9  # two orders above the tolerance times the condition of Psi
    assert np.linalg.norm(row - fit.row, 2) <= scale * np.linalg.norm(fit.row, 2)
    assert np.linalg.norm(column - fit.column, 2) <= scale * np.linalg.norm(fit.column, 2)
    assert np.trace(fit.column) == pytest.approx(COLUMNS, rel=1e-12)


def test_flip_flop_recovers_planted_factors_at_the_parametric_rate() -> None:
    errors = []
    for count in (100, 6400):
        fit = flip_flop(windows(count, np.random.default_rng(1)))
        errors.append(np.linalg.norm(fit.column - autoregressive(COLUMNS, 0.7)))
    assert errors[1] < errors[0] / 3  # 64 times the windows: 8 times less error on average
    independent = flip_flop(windows(6400, np.random.default_rng(2), correlation=0.0))
    assert np.linalg.norm(independent.column - np.eye(COLUMNS), 2) < 0.1


def test_flip_flop_says_when_it_has_not_converged() -> None:
    R = windows(50, np.random.default_rng(3))
    assert not flip_flop(R, most=1).converged
    assert flip_flop(R, most=1).iterations == 1
    with pytest.raises(BadInputError, match="too few"):
        flip_flop(R[:1, :, :1])


def test_likelihood_never_falls() -> None:
    R = windows(30, np.random.default_rng(4), correlation=0.9)

    def log_likelihood(steps: int) -> float:
        fit = flip_flop(R, tolerance=0.0, most=steps)
        _, row = np.linalg.slogdet(fit.row)
        _, column = np.linalg.slogdet(fit.column)
        quadratic = np.mean([np.trace(np.linalg.inv(fit.row) @ r @ np.linalg.inv(fit.column) @ r.T) for r in R])
        return float(-(COLUMNS * row + ROWS * column + quadratic) / 2)

    values = [log_likelihood(steps) for steps in range(1, 8)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(values))


@pytest.mark.parametrize("family", ["gaussian", "rademacher", "uniform"])
def test_strictly_sub_gaussian_entries_have_proxy_one(family: str) -> None:
    z = draw(family, (4000, 4, 3), np.random.default_rng(5))
    kappa2 = directional_kappa2(z)
    assert np.all(kappa2 < 1.1)  # confidence margin at 16,000 samples
    # Variance 1 is a lower bound of every proxy; the sample variance of 16,000 entries is off by 5 sigma < 0.06.
    assert np.all(kappa2 > 0.94)
    assert np.mean(directional_kappa2(draw(family, (4000, 4, 200), np.random.default_rng(6))) >= 1) > 0.9


def test_heavy_tails_need_a_larger_proxy() -> None:
    rng = np.random.default_rng(6)
    for family in ("student", "sparse"):
        assert directional_kappa2(draw(family, (4000, 4, 3), rng)).min() > 1.3
    scaled = directional_kappa2(1.5 * draw("gaussian", (4000, 4, 3), rng))
    assert np.all(scaled > 1.5**2)


def test_upper_limit_covers_a_known_proxy() -> None:
    rng = np.random.default_rng(7)
    covered = sum(directional_kappa2(rng.standard_normal((100, 4, 1)))[0] >= 1 for _ in range(200))
    # 99 % one-sided limits maximised over s: a true coverage below 0.9 would show 180 or fewer of 200.
    assert covered > 180


def test_estimated_proxy_is_the_covariance_for_gaussians_and_wider_for_spikes() -> None:
    rng = np.random.default_rng(8)
    gaussian = estimate_proxy(windows(3000, rng) + 2.0, rng)
    assert gaussian.converged
    assert np.allclose(gaussian.mean, 2.0, atol=0.3)
    truth = np.diag(np.arange(1, ROWS + 1, dtype=float))
    assert np.linalg.norm(gaussian.row - truth, 2) < 0.25 * np.linalg.norm(truth, 2)
    assert gaussian.kappa2 < 1.1
    spikes = estimate_proxy(windows(3000, rng, "sparse", correlation=0.0), rng)
    assert spikes.directional.min() > 1.3
    assert np.linalg.eigvalsh(spikes.row - spikes.covariance)[0] > 0


def test_diagnosis_finds_what_was_planted() -> None:
    rng = np.random.default_rng(9)
    n, count = 12, 800
    spectrum = np.arange(1, n + 1) ** -1.5
    Z = rng.standard_normal((count, n, COLUMNS)) @ symmetric_root(autoregressive(COLUMNS, 0.8))
    X = (np.sqrt(spectrum)[:, None] * Z).transpose(1, 0, 2).reshape(n, -1)
    mean = np.zeros(n)
    mean[3] = np.sqrt(spectrum.sum())  # half of the energy
    layer = Layer("planted", np.eye(n), {"a": X + mean[:, None]}, window=COLUMNS)
    found = diagnose(layer, "a", rng)
    assert found.psi_converged
    assert found.psi_norm == pytest.approx(np.linalg.norm(autoregressive(COLUMNS, 0.8), 2), rel=0.1)
    assert found.mean_share == pytest.approx(0.5, abs=0.05)
    assert found.decay == pytest.approx(1.5, abs=0.15)
    assert found.effective_rank == pytest.approx(spectrum.sum() ** 2 / np.sum(spectrum**2), rel=0.1)
    assert abs(found.kurtosis) < 0.5
    assert found.kappa2 < 1.4
    alone = diagnose(layer, "a", rng, window=1)
    assert alone.psi_norm == pytest.approx(1.0)


def test_decay_of_an_exact_power_law() -> None:
    assert spectral_decay(np.arange(1, 40) ** -2.0) == pytest.approx(2.0, abs=1e-10)
    assert spectral_decay(np.array([1.0])) == 0.0
