"""What no rank-r update can beat: the adaptation-forgetting frontier, and the range of the interference ratio.

An update M of rank at most r adapts by g(M) = ‖Y‖^2 - ‖Y - M X‖^2 and forgets F(M) = tr(M S_past M^T) (per sample).
For every weight gamma >= 0 the closed form without the orthogonality constraint gives

    h(gamma) = max_M g(M) - gamma F(M) = sum_{k<=r} theta_k(gamma),    theta_k of (K^T K, S + gamma S_past),

so `g(M) <= h(gamma) + gamma F(M)` holds for every such M and every gamma, whatever the shape of the frontier, and
`best_gain(F) = min_gamma h(gamma) + gamma F` is an upper bound of g*(F) = max {g(M) : rank M <= r, F(M) <= F}.

The bound is attained everywhere, although matrices of rank r are no convex set (ours): h is a maximum over a compact
set (row spaces), so by Danskin its one-sided derivatives at gamma are minus the largest and least F among the
maximisers. Those are the row spaces that contain every eigenvector with theta > theta_r and lie within those with
theta >= theta_r: a Grassmannian, hence connected, so F takes every value in between, all on the same supporting line.
Sweeping gamma therefore gives all of the frontier, which is concave; a finite sweep brackets it between the chords
of the swept points (attainable, by concavity) and their supporting lines (not to be passed).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from seqlora.errors import BadInputError
from theory.tolerance import eigenvalue, matmul, unit_roundoff

Array = NDArray[np.float64]


class Pencil(NamedTuple):
    """Common diagonal form of two second moments: F^T S_i F = diag(share), F^T S_j F = I - diag(share).

    `basis` is F, shape (n, k), on the range of S_i + S_j; `share` ascends in [0, 1]; `condition` is that of S_i + S_j
    on its range, which the rounding errors of everything derived from the pencil are proportional to.
    """

    basis: Array
    share: Array
    condition: float


def simultaneous(S_i: Array, S_j: Array) -> Pencil:
    """Diagonalise two positive semi-definite matrices together, by whitening their sum.

    Args:
        S_i: shape (n, n).
        S_j: shape (n, n).

    Raises:
        BadInputError: both are zero.
    """
    s, U = np.linalg.eigh(S_i + S_j)
    kept = s > len(s) * 2 * unit_roundoff() * s[-1]
    if not kept.any():
        raise BadInputError("both second moments are zero: there is nothing to compare")
    whitening = U[:, kept] / np.sqrt(s[kept])
    share, V = np.linalg.eigh(whitening.T @ S_i @ whitening)
    return Pencil(whitening @ V, np.clip(share, 0.0, 1.0), float(s[-1] / s[kept][0]))


def interference_range(S_j: Array, S_i: Array) -> tuple[float, float]:
    """Least and largest `‖M X_j‖^2 / ‖M X_i‖^2` over all updates M that do anything to concept i or j.

    Both are generalised eigenvalues of (S_j, S_i): every row of M gives a Rayleigh quotient, and the ratio for M is
    their weighted mean. The largest is inf if X_j has energy where X_i has none.

    Args:
        S_j: second moment of the concept that suffers, shape (n, n).
        S_i: second moment of the concept that is adapted to, shape (n, n).
    """
    share = simultaneous(S_i, S_j).share
    with np.errstate(divide="ignore"):
        ratio = (1 - share) / share
    return float(ratio.min()), float(ratio.max())


class Point(NamedTuple):
    """Where an update stands: `gain` ‖Y‖^2 - ‖Y - M X‖^2 and `forgetting` tr(M S_past M^T), per sample."""

    gain: float
    forgetting: float


@dataclass(frozen=True)
class Frontier:
    """The adaptation-forgetting frontier of rank-r updates on one layer.

    Attributes:
        cross: K = Y X^T / N, shape (m, n).
        energy: ‖Y‖^2 / N.
        second_moment: S of the concept that is learned, shape (n, n).
        past_moment: S_past, shape (n, n).
        rank: r.
    """

    cross: Array
    energy: float
    second_moment: Array
    past_moment: Array
    rank: int

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= min(self.cross.shape):
            raise BadInputError(f"rank {self.rank} does not fit an update of shape {self.cross.shape}")

    @cached_property
    def pencil(self) -> Pencil:
        """S and S_past in common diagonal form; S + gamma S_past is then diag(share + gamma (1 - share))."""
        return simultaneous(self.second_moment, self.past_moment)

    @cached_property
    def _cross(self) -> Array:
        return self.cross @ self.pencil.basis  # K F, shape (m, k)

    def _inverse_root(self, gamma: float) -> Array:
        """(share + gamma (1 - share))^-1/2, so W^-1/2 in the pencil's basis; 0 where no data is, as K is 0 there."""
        if gamma < 0:
            raise BadInputError(f"gamma={gamma}: the weight of forgetting must not be negative")
        share = self.pencil.share
        d = share + gamma * (1 - share)
        return np.where(d > len(d) * unit_roundoff(), 1 / np.sqrt(np.maximum(d, 1e-300)), 0.0)

    def support(self, gamma: float) -> float:
        """Largest g(M) - gamma F(M) over all M of rank at most r: h(gamma), convex and decreasing in gamma."""
        # theta_k are the squared singular values of K W^-1/2: eigenvalues of its smaller Gram matrix, m x m or k x k.
        K = self._cross * self._inverse_root(gamma)
        gram = K @ K.T if K.shape[0] <= K.shape[1] else K.T @ K
        n = len(gram)
        top = scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=(max(0, n - self.rank), n - 1))
        return float(np.maximum(top, 0.0).sum())

    def optimum(self, gamma: float) -> Array:
        """An update M of shape (m, n) that attains `support(gamma)`."""
        root, m = self._inverse_root(gamma), len(self.cross)
        K = self._cross * root
        U = scipy.linalg.eigh(K @ K.T, subset_by_index=(m - self.rank, m - 1))[1]
        # M = U U^T K W^-1: the full-rank optimum K W^-1, projected onto the top outputs.
        return U @ (U.T @ K) @ (self.pencil.basis * root).T

    def place(self, M: Array) -> Point:
        """Gain 2 <M, K> - tr(M S M^T) and forgetting tr(M S_past M^T) of an update of any rank, shape (m, n)."""
        gain = 2 * float((M * self.cross).sum()) - float(((M @ self.second_moment) * M).sum())
        return Point(gain, float(((M @ self.past_moment) * M).sum()))

    def rounding(self, M: Array, gamma: float) -> float:
        """Rounding error of g(M) - gamma F(M) - h(gamma): products of length n, an eigenproblem of known condition."""
        n, size = len(self.second_moment), float(np.linalg.norm(M))
        moments = float(np.linalg.norm(self.second_moment) + gamma * np.linalg.norm(self.past_moment))
        products = matmul(2 * n, 2 * size * float(np.linalg.norm(self.cross)) + size**2 * moments)
        return products + eigenvalue(n, self.pencil.condition * self.energy)  # h(gamma) <= ‖Y‖^2

    def best_gain(self, forgetting: float) -> tuple[float, float]:
        """Largest gain at no more than this forgetting, min_gamma h(gamma) + gamma F, and the gamma that gives it.

        The minimum over gamma is of a convex function; stopping short of it only loosens the bound. gamma = 0 is the
        end of the frontier: more forgetting buys nothing there.
        """

        def line(log_gamma: float) -> float:
            gamma = float(np.exp(log_gamma))
            return self.support(gamma) + gamma * forgetting

        found = minimize_scalar(line, bounds=(-16.0, 16.0), method="bounded", options={"xatol": 1e-6})
        unconstrained = self.support(0.0)
        if unconstrained <= found.fun:
            return unconstrained, 0.0
        return float(found.fun), float(np.exp(found.x))

    def shortfall(self, point: Point) -> float:
        """Gain that the best rank-r update of equal forgetting has over this one, as a share of ‖Y‖^2."""
        return (self.best_gain(point.forgetting)[0] - point.gain) / self.energy

    def sweep(self, gammas: Iterable[float]) -> list[Point]:
        """Points of the frontier at these weights."""
        return [self.place(self.optimum(gamma)) for gamma in gammas]


def alternate(frontier: Frontier, gamma: float, start: Array, iterations: int) -> Array:
    """An update found without any eigenproblem: exact alternation over B and A on g(M) - gamma F(M).

    With W = S + gamma S_past: B = K A^T (A W A^T)^-1, then A = (B^T B)^-1 B^T K W^-1. Each half-step maximises, so the
    objective rises; it can end in a saddle but never above `support(gamma)`. Used to attack the frontier.

    Args:
        frontier: moments and rank.
        gamma: weight of forgetting, such that W is positive definite.
        start: A, shape (r, n).
        iterations: pairs of half-steps.

    Returns:
        M = B A, shape (m, n).
    """
    W = frontier.second_moment + gamma * frontier.past_moment
    K = frontier.cross
    newton = scipy.linalg.solve(W, K.T, assume_a="pos").T  # K W^-1
    A = start
    for _ in range(iterations):
        B = scipy.linalg.solve(A @ W @ A.T, A @ K.T, assume_a="pos").T
        A = scipy.linalg.solve(B.T @ B, B.T @ newton, assume_a="pos")
        A = np.linalg.qr(A.T)[0].T  # the same row space, well conditioned
    B = scipy.linalg.solve(A @ W @ A.T, A @ K.T, assume_a="pos").T
    return B @ A
