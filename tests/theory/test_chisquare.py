from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from seqlora.errors import BadInputError
from theory.chisquare import RELATIVE_ERROR, gaussian_quantile, gaussian_tail


def imhof(weights: np.ndarray, x: float) -> float:
    """Imhof (1961), eq. 3.2, by adaptive quadrature: an independent reference with absolute error about 1e-9."""

    def integrand(u: float) -> float:
        theta = 0.5 * (np.arctan(weights * u).sum() - x * u)
        return float(np.sin(theta) / (u * np.prod((1 + (weights * u) ** 2) ** 0.25)))

    value = sum(
        integrate.quad(integrand, low, high, limit=500, epsabs=1e-12)[0]
        for low, high in ((1e-12, 1.0), (1.0, 10.0), (10.0, 100.0), (100.0, 2000.0))
    )
    return 0.5 + value / np.pi


def hypoexponential_tail(weights: np.ndarray, x: float) -> float:
    """Closed form for two degrees of freedom each: sum of exponentials with distinct means 2 w_i."""
    factors = [np.prod([w / (w - v) for v in weights if v != w]) for w in weights]
    return float(sum(f * np.exp(-x / (2 * w)) for f, w in zip(factors, weights, strict=True)))


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 200])
@pytest.mark.parametrize("probability", [0.999, 0.5, 0.1, 1e-3, 1e-10, 1e-100])
def test_one_weight_is_the_chi_square(degrees: int, probability: float) -> None:
    x = stats.chi2.isf(probability, degrees)
    assert gaussian_tail([3.0], 3 * x, degrees) == pytest.approx(probability, rel=RELATIVE_ERROR)
    assert gaussian_quantile([3.0], probability, degrees) == pytest.approx(3 * x, rel=1e-9)


@pytest.mark.parametrize("x", [0.5, 5.0, 30.0, 200.0])
def test_pairs_of_degrees_have_a_closed_form(x: float) -> None:
    weights = np.arange(1, 7) ** -1.5
    # The closed form cancels: its own relative error is about the sum of its terms times the unit roundoff.
    assert gaussian_tail(weights, x, 2) == pytest.approx(hypoexponential_tail(weights, x), rel=1e-9)


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_agrees_with_imhof(decay: float) -> None:
    weights = np.arange(1, 13) ** -decay
    for multiple in (0.5, 1.0, 2.0, 3.0):
        x = multiple * weights.sum()
        assert gaussian_tail(weights, x) == pytest.approx(imhof(weights, x), abs=1e-7)


@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12),
    delta=st.floats(1e-6, 0.9),
    scale=st.floats(1e-6, 1e6),
)
@settings(max_examples=40, deadline=None)
def test_quantile_inverts_the_tail_and_scales(weights: list[float], delta: float, scale: float) -> None:
    w = np.array(weights)
    x = gaussian_quantile(w, delta)
    assert gaussian_tail(w, x) == pytest.approx(delta, rel=1e-8)
    assert gaussian_quantile(scale * w, delta) == pytest.approx(scale * x, rel=1e-8)
    assert gaussian_tail(w, 1.1 * x) < delta < gaussian_tail(w, 0.9 * x)


def test_degenerate_weights() -> None:
    assert gaussian_tail([0.0, 0.0], 1.0) == 0.0
    assert gaussian_quantile([0.0], 0.1) == 0.0
    assert gaussian_tail([1.0], 0.0) == 1.0
    assert gaussian_tail([1.0, 1.0], 4.0) == pytest.approx(gaussian_tail([1.0], 4.0, 2), rel=1e-12)
    assert gaussian_tail([1.0, 0.0], 4.0) == pytest.approx(stats.chi2.sf(4.0, 1), rel=1e-12)


@pytest.mark.parametrize("weights", [[-1.0], [np.nan], [np.inf]])
def test_bad_weights_get_one_line(weights: list[float]) -> None:
    with pytest.raises(BadInputError, match="weights"):
        gaussian_tail(weights, 1.0)
    with pytest.raises(BadInputError, match="delta"):
        gaussian_quantile([1.0], 1.5)
