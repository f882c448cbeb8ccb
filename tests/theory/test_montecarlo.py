from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from seqlora.errors import BadInputError
from theory.claims.c3_forgetting_bound import autoregressive
from theory.layers.synthetic import FAMILIES, draw
from theory.montecarlo import forgetting_samples, reading_root, symmetric_root
from theory.stattest import FALSE_FAIL_RATE, check_mean, check_rate

N, WIDTH, OUTPUTS = 6, 10, 4


def setting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    H = rng.standard_normal((WIDTH, WIDTH))
    return rng.standard_normal((OUTPUTS, WIDTH)), H @ H.T / WIDTH


def reference(M, S, family, trials, rng, Psi=None, mean=None):  # type: ignore[no-untyped-def]
    """The definition, one trial at a time: R = S^1/2 Z Psi^1/2 + mu 1^T, F = ‖M R‖^2 / N."""
    samples = np.empty(trials)
    root, column = symmetric_root(S), np.eye(N) if Psi is None else symmetric_root(Psi)
    for trial in range(trials):
        R = root @ draw(family, (len(S), N), rng) @ column
        if mean is not None:
            R = R + mean[:, None]
        samples[trial] = np.sum((M @ R) ** 2) / N
    return samples


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("dependent", [False, True])
def test_batched_draws_have_the_law_of_the_plain_loop(family: str, dependent: bool) -> None:
    rng = np.random.default_rng(11)
    M, S = setting(rng)
    Psi = autoregressive(N, 0.7) if dependent else None
    batched = forgetting_samples(M, S, N, family, 4000, rng, column_proxy=Psi)
    plain = reference(M, S, family, 4000, rng, Psi)
    # At 4000 samples each the test sees a shift of the distribution function by sqrt(log(2e6) / 4000) = 0.06.
    assert stats.ks_2samp(batched, plain).pvalue > FALSE_FAIL_RATE


def test_a_mean_is_added_in_the_reading_space() -> None:
    rng = np.random.default_rng(12)
    M, S = setting(rng)
    mean = rng.standard_normal(WIDTH)
    batched = forgetting_samples(M, S, N, "gaussian", 4000, rng, mean=mean)
    assert stats.ks_2samp(batched, reference(M, S, "gaussian", 4000, rng, mean=mean)).pvalue > FALSE_FAIL_RATE
    without = forgetting_samples(M, S, N, "gaussian", 4000, rng)
    assert stats.ks_2samp(batched, without).pvalue < FALSE_FAIL_RATE  # the test can tell


@pytest.mark.parametrize("family", ["gaussian", "rademacher", "uniform"])
def test_expectation_is_the_trace(family: str) -> None:
    rng = np.random.default_rng(13)
    M, S = setting(rng)
    samples = forgetting_samples(M, S, N, family, 20_000, rng)
    assert check_mean(family, samples, float(np.trace(M @ S @ M.T))).holds
    assert not check_mean(family, samples, 1.1 * float(np.trace(M @ S @ M.T))).holds


def test_reading_root_keeps_the_norm_in_rank_many_rows() -> None:
    rng = np.random.default_rng(14)
    M, S = setting(rng)
    M[1] = M[0]
    H = reading_root(M, S)
    assert H.shape == (OUTPUTS - 1, WIDTH)
    Z = rng.standard_normal((WIDTH, 3))
    assert np.linalg.norm(H @ Z) == pytest.approx(np.linalg.norm(M @ symmetric_root(S) @ Z), rel=1e-10)


def test_batches_do_not_change_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(15)
    M, S = setting(rng)
    monkeypatch.setattr("theory.montecarlo._ENTRIES_PER_BATCH", 7 * WIDTH * N)
    small = forgetting_samples(M, S, N, "uniform", 3001, rng)
    assert small.shape == (3001,)
    assert stats.ks_2samp(small, reference(M, S, "uniform", 3000, rng)).pvalue > FALSE_FAIL_RATE


def test_exact_tail_agrees_with_monte_carlo() -> None:
    from theory.bounds import forgetting_weights, gaussian_quantile

    rng = np.random.default_rng(16)
    M, S = setting(rng)
    Psi = autoregressive(N, 0.5)
    threshold = gaussian_quantile(forgetting_weights(np.linalg.eigvalsh(M @ S @ M.T), N, Psi), 0.05)
    samples = forgetting_samples(M, S, N, "gaussian", 20_000, rng, column_proxy=Psi)
    exceeded = int(np.sum(samples > threshold))
    assert check_rate("above", exceeded, 20_000, 0.05).holds
    assert check_rate("below", 20_000 - exceeded, 20_000, 0.95).holds


def test_unknown_family_and_unspanned_mean_get_one_line() -> None:
    rng = np.random.default_rng(17)
    M, S = setting(rng)
    with pytest.raises(BadInputError, match="family"):
        forgetting_samples(M, S, N, "cauchy", 10, rng, mean=np.zeros(WIDTH))
    flat = np.zeros((WIDTH, WIDTH))
    flat[0, 0] = 1.0
    with pytest.raises(BadInputError, match="mean"):
        forgetting_samples(M, flat, N, "uniform", 10, rng, mean=np.ones(WIDTH))
