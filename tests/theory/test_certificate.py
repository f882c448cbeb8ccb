from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from seqlora.errors import BadInputError, StoredFileError
from theory.betting import betting_upper_limit
from theory.certificate import Certificate, load, save, verify
from theory.certify import certify_distribution_free, certify_sub_gaussian, residual, worst_case
from theory.stattest import check_rate

N, WIDTH, RANK, Q = 4, 12, 2, 4


def data(count: int, rng: np.random.Generator) -> np.ndarray:
    scale = np.sqrt(np.arange(1, WIDTH + 1) ** -1.0)
    return scale[:, None] * rng.uniform(-1, 1, (count, WIDTH, N))


def setting(seed: int = 0):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    frame = ortho_group.rvs(WIDTH, random_state=rng)
    basis, later = frame[:RANK], frame[RANK : RANK + Q]
    B = rng.standard_normal((5, Q))
    return rng, basis, later, B / np.linalg.norm(B, 2)


def both(windows: np.ndarray, basis: np.ndarray, delta: float, rng: np.random.Generator) -> list[Certificate]:
    return [
        certify_sub_gaussian(windows, basis, Q, 1.0, delta, rng, "layer", "a"),
        certify_distribution_free(windows, basis, Q, 1.0, delta, norm_bound=4.0, layer="layer", concept="a"),
    ]


def test_a_saved_certificate_comes_back_and_verifies(tmp_path: Path) -> None:
    rng, basis, later, B = setting()
    for certificate in both(data(300, rng), basis, 0.05, rng):
        path = save(certificate, tmp_path)
        assert load(path) == certificate
        check = verify(load(path), later, B, data(400, rng))
        assert check.holds
        assert check.trials == 400
    assert len(list(tmp_path.iterdir())) == 2


def test_a_certificate_that_promises_too_much_is_caught() -> None:
    rng, basis, later, B = setting(1)
    fresh = data(400, rng)
    for certificate in both(data(300, rng), basis, 0.05, rng):
        realised = np.square(B @ (later @ fresh)).sum((1, 2)) / N
        too_low = replace(certificate, bound=float(np.median(realised)))
        assert not verify(too_low, later, B, fresh).holds


def test_broken_terms_void_the_certificate() -> None:
    rng, basis, later, B = setting(2)
    certificate = both(data(100, rng), basis, 0.1, rng)[1]
    fresh = data(50, rng)
    with pytest.raises(BadInputError, match="budget"):
        verify(certificate, later, 1.1 * B, fresh)
    with pytest.raises(BadInputError, match="overlap"):
        verify(certificate, basis, B[:, :RANK], fresh)
    with pytest.raises(BadInputError, match="not orthonormal"):
        verify(certificate, 0.5 * later, B, fresh)
    with pytest.raises(BadInputError, match="later directions"):
        verify(replace(certificate, directions=Q - 1), later, B, fresh)
    with pytest.raises(BadInputError, match="declared"):
        verify(certificate, later, B, 10 * fresh)
    with pytest.raises(BadInputError, match="shape"):
        verify(certificate, later, B, fresh[:, :, :2])
    with pytest.raises(BadInputError, match="fit together"):
        verify(certificate, later, B[:, :1], fresh)


@pytest.mark.parametrize("damage", ["truncated", "schema", "field", "value", "missing"])
def test_a_damaged_file_gets_one_line(tmp_path: Path, damage: str) -> None:
    rng, basis, _, _ = setting(3)
    path = save(both(data(50, rng), basis, 0.1, rng)[0], tmp_path)
    stored = json.loads(path.read_text())
    if damage == "truncated":
        path.write_text(path.read_text()[:100])
    elif damage == "missing":
        path.unlink()
    else:
        change = {"schema": {"schema": 99}, "field": {"extra": 1}, "value": {"bound": "big"}}[damage]
        path.write_text(json.dumps({**stored, **change}))
    with pytest.raises(StoredFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@given(seed=st.integers(0, 10**6), directions=st.integers(1, WIDTH))
@settings(max_examples=30, deadline=None)
def test_worst_case_is_an_upper_end_that_is_attained(seed: int, directions: int) -> None:
    rng, basis, _, _ = setting(seed)
    windows = data(3, rng)
    w = worst_case(windows, basis, directions)
    R = residual(windows, basis)
    for window, value in zip(R, w, strict=True):
        U = np.linalg.svd(window)[0][:, :directions]
        assert np.sum((U.T @ window) ** 2) / N == pytest.approx(value, rel=1e-9)
        haar = ortho_group.rvs(WIDTH, random_state=rng)[:directions]
        assert np.sum((haar @ window) ** 2) / N <= value * (1 + 1e-9)


def test_order_statistic_covers_even_updates_chosen_after_the_fact() -> None:
    """The distribution-free bound is held against the worst admissible update of each fresh window."""
    rng, basis, _, _ = setting(4)
    delta, exceeded, repeats = 0.1, 0, 3000
    for _ in range(repeats):
        windows = data(20, rng)
        certificate = certify_distribution_free(windows[:19], basis, Q, 1.0, delta)
        exceeded += int(worst_case(windows[19:], basis, Q)[0] > certificate.bound)
    # Exchangeability makes the rate (K + 1 - k) / (K + 1) = 2/20 exactly, for a continuous law.
    assert check_rate("coverage", exceeded, repeats, delta).holds
    assert check_rate("not wasteful", repeats - exceeded, repeats, 1 - delta).holds


def test_few_windows_need_a_norm_bound() -> None:
    rng, basis, _, _ = setting(5)
    windows = data(10, rng)
    with pytest.raises(BadInputError, match="record 99 or declare"):
        certify_distribution_free(windows, basis, Q, 1.0, 0.01)
    bounded = certify_distribution_free(windows, basis, Q, 0.5, 0.01, norm_bound=4.0)
    assert bounded.bound == 0.5**2 * 4.0**2
    assert bounded.rank_statistic == 0
    with pytest.raises(BadInputError, match="below a calibration column"):
        certify_distribution_free(windows, basis, Q, 1.0, 0.01, norm_bound=0.1)


def test_bad_terms_get_one_line() -> None:
    rng, basis, _, _ = setting(6)
    windows = data(30, rng)
    for arguments in (
        (windows, 2 * basis, Q, 1.0, 0.1),
        (windows, basis, 0, 1.0, 0.1),
        (windows, basis, Q, -1.0, 0.1),
        (windows, basis, Q, 1.0, 1.0),
        (windows[0], basis, Q, 1.0, 0.1),
        (np.full_like(windows, np.nan), basis, Q, 1.0, 0.1),
    ):
        with pytest.raises(BadInputError):
            certify_distribution_free(*arguments)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (1, 20), (0.3, 0.3)])
def test_betting_limit_covers_the_mean(alpha: float, beta: float) -> None:
    rng = np.random.default_rng(7)
    mean, repeats, delta = alpha / (alpha + beta), 2000, 0.1
    limits = np.array([betting_upper_limit(rng.beta(alpha, beta, 60), delta) for _ in range(repeats)])
    assert check_rate("coverage", int(np.sum(limits < mean)), repeats, delta).holds
    # Betting on 60 samples must beat Hoeffding's half width where the variance is small.
    if beta == 20:
        assert np.median(limits) - mean < 0.5 * np.sqrt(np.log(1 / delta) / 120)


def test_betting_limit_shrinks_and_refuses_unbounded_samples() -> None:
    rng = np.random.default_rng(8)
    x = rng.beta(2, 8, 4000)
    few, many = betting_upper_limit(x[:100], 0.05), betting_upper_limit(x, 0.05)
    assert x.mean() < many < few < 1
    assert betting_upper_limit(np.ones(5), 0.05) == 1.0
    assert betting_upper_limit(np.array([0.0]), 0.05) == 1.0
    with pytest.raises(BadInputError, match="betting"):
        betting_upper_limit(np.array([1.5]), 0.05)


def test_shortened_betting_limit_is_caught() -> None:
    """Capital need 1/delta: a limit that stops at sqrt of it undercovers, and the coverage check sees that."""
    rng = np.random.default_rng(9)
    missed = sum(betting_upper_limit(rng.beta(0.3, 0.3, 60), 0.9) < 0.5 for _ in range(2000))
    assert not check_rate("undercovered", missed, 2000, 0.05).holds
