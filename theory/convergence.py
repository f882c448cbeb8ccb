"""Riemannian gradient descent on Phi, and what finitely many inner steps on B cost: a reference implementation.

Upper level: C <- QR(C - t grad Phi(C)). Let L be such that Phi(R_C(V)) <= Phi(C) + <grad Phi, V> + L/2 ‖V‖^2. Then

* fixed t = 1/L loses at least ‖grad‖^2 / (2L) of Phi a step, so min_{k<K} ‖grad_k‖^2 <= 2 L (Phi_0 - Phi*) / K
  (Boumal, Absil & Cartis 2019, thm 2.5);
* Armijo backtracking (accept t when Phi falls by t ‖grad‖^2 / 2, else t <- q t) accepts some t >= q/L, because every
  t <= 1/L passes; the constant becomes 2 L / q, not 2 L.

Lower level: gradient descent on B for fixed C has the Hessian H = C M C^T, so B_k - B* = (B_0 - B*) (I - t H)^k: the
hypergradient error is linear in it and decays like rho^k, the error of the value like rho^(2k).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError, NonFiniteError
from theory.reduced import ReducedProblem
from theory.tolerance import unit_roundoff

Array = NDArray[np.float64]

SHRINK = 0.5
"""q: factor by which Armijo backtracking shortens a step that it refuses."""


@dataclass(frozen=True)
class Descent:
    """A run of K steps: `values` and `gradient_norms2` at C_0 … C_K, the K accepted `steps`, and the last point."""

    values: Array
    gradient_norms2: Array
    steps: Array
    last: Array
    evaluations: int

    @property
    def largest_increase(self) -> float:
        """max_k Phi_{k+1} - Phi_k: not positive iff the run is monotone."""
        return float(np.diff(self.values).max(initial=-np.inf))

    @property
    def smallest_gradients(self) -> Array:
        """min_{k<K} ‖grad_k‖^2 for K = 1, 2, …, shape (K,)."""
        return np.minimum.accumulate(self.gradient_norms2)[: max(len(self.steps), 1)]

    def bound_tightness(self, smoothness: float, optimum: float) -> float:
        """max_K of min_{k<K} ‖grad_k‖^2 over its bound 2 L (Phi_0 - Phi*) / K: the bound holds iff this is <= 1."""
        K = np.arange(1, len(self.smallest_gradients) + 1)
        return float((self.smallest_gradients * K).max() / (2 * smoothness * (self.values[0] - optimum)))

    def slope(self, skip: int = 1) -> float:
        """Least-squares slope of log min_{k<K} ‖grad_k‖^2 against log K, K > skip: -1 is what the bound promises."""
        smallest = self.smallest_gradients[skip:]
        K = np.arange(skip + 1, skip + 1 + len(smallest))
        return float(np.polyfit(np.log(K), np.log(smallest), 1)[0]) if len(K) > 1 else 0.0


def retract(C: Array) -> Array:
    """QR retraction of a full-rank C onto orthonormal rows; signs make it continuous, with R_C(0) = C."""
    Q, R = np.linalg.qr(C.T)
    return (Q * np.where(np.diag(R) < 0, -1.0, 1.0)).T


def random_start(problem: ReducedProblem, rank: int, rng: np.random.Generator) -> Array:
    """A Haar-distributed point of St(r, d)."""
    return retract(rng.standard_normal((rank, problem.directions)))


def descend(
    problem: ReducedProblem,
    start: Array,
    iterations: int,
    *,
    step: float | None = None,
    first_trial: float | None = None,
    stop: float = 0.0,
) -> Descent:
    """Riemannian gradient descent on Phi.

    Args:
        problem: value, gradient and metric.
        start: C_0, shape (r, d), orthonormal rows.
        iterations: most steps to take.
        step: fixed step; None for Armijo backtracking with growth (a Barzilai-Borwein or lengthened first trial, so
            that accepted steps stay above q/L once the first trial is).
        first_trial: first step that Armijo tries; default 1/L from the a-priori bound, which always passes.
        stop: end when ‖grad‖^2 falls below it. Armijo also ends when Phi cannot fall by more than rounding.

    Raises:
        NonFiniteError: a fixed step overflowed.
    """
    C = start
    value, gradient = problem.evaluate(C)
    values, norms, steps, evaluations = [value], [float((gradient**2).sum())], [], 1
    trial = first_trial if first_trial is not None else 1 / problem.smoothness_bound()
    noise = 4 * problem.directions * unit_roundoff() * problem.energy
    for _ in range(iterations):
        if norms[-1] <= stop:
            break
        if step is None:
            accepted = _backtrack(problem, C, gradient, values[-1], trial, noise)
            if accepted is None:
                break
            taken, point, value, moved, tried = accepted
        else:
            taken, point, tried = step, retract(C - step * gradient), 1
            value, moved = problem.evaluate(point)
        evaluations += tried
        if not np.isfinite(value):
            raise NonFiniteError(f"descent with step {taken:.3g} left the finite numbers; use a shorter step")
        trial = _next_trial(point - C, moved - gradient, taken)
        C, gradient = point, moved
        values.append(value)
        norms.append(float((gradient**2).sum()))
        steps.append(taken)
    return Descent(np.array(values), np.array(norms), np.array(steps), C, evaluations)


def _backtrack(
    problem: ReducedProblem, C: Array, gradient: Array, value: float, trial: float, noise: float
) -> tuple[float, Array, float, Array, int] | None:
    """Longest of trial, q trial, q^2 trial, … with Phi(R_C(-t grad)) <= Phi(C) - t ‖grad‖^2 / 2; None in the noise."""
    norm2 = float((gradient**2).sum())
    t, tried = trial, 0
    while t * norm2 > noise:
        point = retract(C - t * gradient)
        lower, moved = problem.evaluate(point)
        tried += 1
        if lower <= value - 0.5 * t * norm2:
            return t, point, lower, moved, tried
        t *= SHRINK
    return None


def _next_trial(moved: Array, change: Array, taken: float) -> float:
    """First step to try next: Barzilai & Borwein's <s, s> / |<s, y>|, at least the accepted step lengthened by 1/q."""
    product = abs(float((moved * change).sum()))
    return max(taken / SHRINK, float((moved**2).sum()) / product if product > 0 else 0.0)


def hypergradient_error(
    problem: ReducedProblem, C: Array, inner_steps: int, *, step: float | None = None
) -> tuple[Array, Array, Array]:
    """Error of the partial gradient after 0 … k steps of gradient descent on B from B = 0, at a fixed basis C.

    With E = B - B*, the partial gradient minus the gradient is B*^T E C M + E^T (E C M - R), linear in E to first
    order, and E_k = E_0 (I - t H)^k. So error_k <= (‖B*‖ ‖C M‖ + ‖R‖ + ‖E_k‖ ‖C M‖) ‖E_k‖, Frobenius norms (ours).

    Args:
        problem: the reduced problem.
        C: basis, shape (r, d).
        inner_steps: k, the largest number of steps.
        step: inner step; default 2 / (h_1 + h_r), the best for the spectrum h_1 >= … >= h_r of H.

    Returns:
        Three arrays of shape (k + 1,): error of the gradient in the Frobenius norm, its bound rho^k c_k, and the
        excess L(B_k, C) - Phi(C) of the value.

    Raises:
        BadInputError: no inner step is asked for.
    """
    if inner_steps < 1:
        raise BadInputError(f"inner_steps={inner_steps}: at least one step on B is needed")
    CM = C @ problem.metric
    H = CM @ C.T
    spectrum = np.linalg.eigvalsh(H)
    t = 2 / (spectrum[0] + spectrum[-1]) if step is None else step
    rho = float(np.abs(1 - t * spectrum).max())
    best = problem.coefficients(C)
    exact = problem.gradient(C)
    residual = np.linalg.norm(problem.cross - best @ CM)
    scale, first = np.linalg.norm(CM), np.linalg.norm(best)
    B = np.zeros_like(best)
    rows = []
    for k in range(inner_steps + 1):
        E = B - best
        distance = rho**k * first  # >= ‖E_k‖_F
        constant = first * scale + residual + distance * scale
        # L(B, C) - Phi(C) = 1/2 tr(E H E^T): the lower level is quadratic with minimiser B*.
        excess = 0.5 * float(((E @ H) * E).sum())
        rows.append((np.linalg.norm(problem.partial_gradient(C, B) - exact), constant * distance, excess))
        B = B - t * (B @ H - problem.cross @ C.T)
    error, bound, excess_values = np.array(rows).T
    return error, bound, excess_values


def inner_rate(problem: ReducedProblem, C: Array) -> float:
    """Factor rho = (cond(H) - 1) / (cond(H) + 1) by which one inner step of the best fixed length shrinks B - B*."""
    spectrum = np.linalg.eigvalsh(C @ problem.metric @ C.T)
    return float((spectrum[-1] - spectrum[0]) / (spectrum[-1] + spectrum[0]))
