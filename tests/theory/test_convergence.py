from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlora.errors import BadInputError
from theory.convergence import SHRINK, descend, hypergradient_error, inner_rate, random_start, retract
from theory.reduced import ReducedProblem
from theory.tolerance import orthonormality


def problem(seed: int, n: int = 20, m: int = 8, decay: float = 1.0, used: int = 4) -> ReducedProblem:
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(rng.standard_normal((n, n)))[0]
    S = (frame * np.arange(1, n + 1.0) ** -decay) @ frame.T
    D = rng.standard_normal((m, n))
    past = np.linalg.qr(rng.standard_normal((n, used)))[0].T
    return ReducedProblem.from_moments(S, D @ S, float(((D @ S) * D).sum()), ridge=1e-2, past_bases=past)


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0, 3))
@settings(max_examples=40, deadline=None)
def test_retraction_is_orthonormal_fixes_the_manifold_and_keeps_the_row_space(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    C = np.linalg.qr(rng.standard_normal((9, 3)))[0].T
    V = size * rng.standard_normal(C.shape)
    V -= 0.5 * (V @ C.T + C @ V.T) @ C  # tangent, so that C + V has full rank
    R = retract(C + V)
    assert np.linalg.norm(R @ R.T - np.eye(3)) <= orthonormality(9)
    assert np.linalg.norm(retract(C) - C) <= orthonormality(9)
    assert np.linalg.norm((C + V) - (C + V) @ R.T @ R) <= orthonormality(9) * np.linalg.norm(C + V)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decay", [0.5, 2.0])
def test_every_start_descends_monotonically_to_the_closed_form(seed: int, decay: float) -> None:
    p = problem(seed, decay=decay)
    best, optimum = p.optimum(3)
    run = descend(p, random_start(p, 3, np.random.default_rng(seed)), 3000)
    assert run.largest_increase <= 0
    assert run.values[-1] - optimum <= 1e-8 * p.energy
    assert run.values.min() >= optimum - p.rounding(best)
    assert run.bound_tightness(p.smoothness_bound() / SHRINK, optimum) <= 1
    # Same row space as the closed form: all principal cosines are 1.
    assert np.linalg.svd(best @ run.last.T, compute_uv=False).min() == pytest.approx(1, abs=1e-6)


def test_fixed_step_keeps_the_promised_rate_and_the_bound_is_tight() -> None:
    p = problem(0)
    best, optimum = p.optimum(3)
    L, direction = p.largest_curvature(best, np.random.default_rng(0))
    run = descend(p, random_start(p, 3, np.random.default_rng(1)), 300, step=1 / p.smoothness_bound())
    assert run.largest_increase <= p.rounding(best)
    assert run.bound_tightness(p.smoothness_bound(), optimum) <= 1
    # Along the top curvature at the optimum the inequality is an equality up to third order in the displacement.
    near = descend(p, retract(best + 1e-3 * direction), 1, step=1 / L)
    assert near.bound_tightness(L, optimum) == pytest.approx(1, abs=1e-2)
    assert near.bound_tightness(L / 2, optimum) > 1.9


def test_step_beyond_twice_the_inverse_curvature_is_not_monotone() -> None:
    p = problem(2)
    L = p.largest_curvature(p.optimum(3)[0], np.random.default_rng(0))[0]
    for seed in range(5):
        run = descend(p, random_start(p, 3, np.random.default_rng(seed)), 50, step=4 / L)
        assert run.largest_increase > 1e3 * p.rounding(p.optimum(3)[0])


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(3)
    start = random_start(p, 3, np.random.default_rng(0))
    right = ReducedProblem.evaluate
    monkeypatch.setattr(ReducedProblem, "evaluate", lambda self, C: (right(self, C)[0], -right(self, C)[1]))
    assert len(descend(p, start, 100).steps) == 0  # Armijo accepts no uphill step
    assert descend(p, start, 20, step=1 / p.smoothness_bound()).largest_increase > 0


def test_a_start_on_a_saddle_stays_there() -> None:
    p = problem(4)
    saddle = np.linalg.qr(p.generalised_eigenvalues[1][:, [0, 1, 5]])[0].T
    run = descend(p, saddle, 50, stop=1e-20)
    assert run.values[-1] - p.optimum(3)[1] > 1e-3 * p.energy


@given(seed=st.integers(0, 2**32 - 1), decay=st.floats(0, 2), rank=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_hypergradient_error_stays_below_its_geometric_bound(seed: int, decay: float, rank: int) -> None:
    p = problem(seed % 1000, decay=decay)
    C = random_start(p, rank, np.random.default_rng(seed))
    error, bound, excess = hypergradient_error(p, C, 30)
    spectrum = np.linalg.eigvalsh(C @ p.metric @ C.T)
    floor = orthonormality(40) * (error[0] + np.linalg.norm(p.cross) ** 2 / spectrum[0])
    assert (error <= bound + floor).all()
    # The value is quadratic in B - B*: it shrinks at least by rho^2 a step.
    rho = inner_rate(p, C)
    assert (excess[1:] <= rho**2 * excess[:-1] + floor).all()


def test_inner_error_decays_at_the_predicted_rate_and_not_with_a_long_step() -> None:
    p = problem(5)
    C = random_start(p, 4, np.random.default_rng(5))
    rho = inner_rate(p, C)
    steps = int(np.log(1e-8) / np.log(rho))
    error, bound, _ = hypergradient_error(p, C, steps)
    # Per step between two late points; the leading mode alone is left there.
    measured = (error[-1] / error[steps // 2]) ** (1 / (steps - steps // 2))
    assert measured == pytest.approx(rho, abs=0.02)
    assert bound[-1] < 1e-6 * bound[0]
    longest = 2.5 / np.linalg.eigvalsh(C @ p.metric @ C.T)[-1]
    assert hypergradient_error(p, C, steps, step=longest)[0][-1] > 10 * error[0]


def test_slope_and_tightness_of_a_known_sequence() -> None:
    p = problem(6)
    run = descend(p, random_start(p, 2, np.random.default_rng(0)), 5)
    K = np.arange(1, 101)
    known = type(run)(np.linspace(1, 0, 101), np.append(3.0 / K, 0.0), np.ones(100), run.last, 0)
    assert known.slope() == pytest.approx(-1)
    assert known.bound_tightness(1.5, 0.0) == pytest.approx(1)


def test_no_inner_step_is_refused() -> None:
    p = problem(7)
    with pytest.raises(BadInputError, match="inner_steps=0"):
        hypergradient_error(p, random_start(p, 2, np.random.default_rng(0)), 0)
