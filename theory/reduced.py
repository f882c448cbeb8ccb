"""The upper-level objective on a linear layer, with the lower level eliminated: value, gradient, curvature, optimum.

    Phi(C) = min_B L(B, C) = 1/2 ‖Y‖^2 / N - 1/2 tr[(C M C^T)^-1 C K^T K C^T],        A = C Q^T,  C C^T = I_r,

with Q an orthonormal basis of the complement of the earlier bases, M = Q^T (S + ridge I + gamma S_past) Q and
K = Y X^T Q / N. Phi depends on the row space of C only, which has two consequences that the claims use:

* the Euclidean gradient of its extension to all full-rank C is already tangent and horizontal (G C^T = 0);
* a QR retraction costs nothing: Phi(R_C(V)) = Phi(C + V), so smoothness along retractions is plain smoothness of
  the extension on C + T_C. There (C + V)(C + V)^T = I + V V^T, which gives the constant in `smoothness_bound` (ours).

NumPy and SciPy only, and on purpose not built on `seqlora.linear`: the tests hold one against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from seqlora.errors import BadInputError, CapacityError
from seqlora.subspace import complement
from theory.tolerance import matmul, unit_roundoff

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ReducedProblem:
    """Phi on the Stiefel manifold St(r, d) of the complement, d = n - p.

    Attributes:
        metric: M, shape (d, d), positive definite.
        cross: K, shape (m, d).
        energy: ‖Y‖^2 / N.
        complement: Q, shape (n, d).
    """

    metric: Array
    cross: Array
    energy: float
    complement: Array

    @classmethod
    def from_moments(
        cls,
        second_moment: Array,
        cross_moment: Array,
        energy: float,
        *,
        ridge: float = 0.0,
        forgetting_weight: float = 0.0,
        past_moment: Array | None = None,
        past_bases: Array | None = None,
    ) -> ReducedProblem:
        """Restrict the moments of one concept to what earlier concepts left free.

        Args:
            second_moment: S = X X^T / N, shape (n, n).
            cross_moment: Y X^T / N, shape (m, n).
            energy: ‖Y‖^2 / N.
            ridge: weight of ‖B‖^2 / 2.
            forgetting_weight: gamma, weight of tr(B A S_past A^T B^T) / 2.
            past_moment: S_past, shape (n, n).
            past_bases: earlier bases stacked, shape (p, n); None drops the constraint (Q = I).

        Raises:
            BadInputError: M is not positive definite: a direction carries no data and no ridge.
        """
        n = len(second_moment)
        S = second_moment + ridge * np.eye(n)
        if past_moment is not None:
            S = S + forgetting_weight * past_moment
        Q = np.eye(n) if past_bases is None else complement(past_bases)
        problem = cls(Q.T @ S @ Q, cross_moment @ Q, float(energy), Q)
        least, largest = problem.metric_spectrum[[0, -1]]
        if least <= n * unit_roundoff() * largest:
            raise BadInputError(f"second moment of width {n} is singular (eigenvalue {least:.2g}); give a ridge > 0")
        return problem

    @property
    def directions(self) -> int:
        """Directions left, d = n - p."""
        return len(self.metric)

    @cached_property
    def metric_spectrum(self) -> Array:
        """Eigenvalues of M, ascending."""
        return np.linalg.eigvalsh(self.metric).astype(np.float64)

    @cached_property
    def _metric_and_gram(self) -> Array:
        return np.hstack([self.metric, self.cross.T @ self.cross])

    def basis(self, C: Array) -> Array:
        """The basis in the layer's coordinates, A = C Q^T, shape (r, n)."""
        return C @ self.complement.T

    def coefficients(self, C: Array) -> Array:
        """Lower-level solution B*(C) = K C^T (C M C^T)^-1, shape (m, r)."""
        return scipy.linalg.solve(C @ self.metric @ C.T, C @ self.cross.T, assume_a="pos").T

    def evaluate(self, C: Array) -> tuple[float, Array]:
        """Phi(C) and its Riemannian gradient, shape (r, d), in two products of size r x d x d.

        With N = K^T K and H = C M C^T:  Phi = 1/2 ‖Y‖^2 / N - 1/2 tr(H^-1 C N C^T),
        grad = -B*^T (K - B* C M) = -H^-1 (C N - C N C^T H^-1 C M). It needs no projection, because grad C^T = 0.
        """
        CM, CN = np.split(C @ self._metric_and_gram, 2, axis=1)
        H, W = CM @ C.T, CN @ C.T
        inverse = np.linalg.inv(H)
        gradient = -inverse @ (CN - W @ inverse @ CM)
        return 0.5 * (self.energy - float((inverse * W).sum())), gradient

    def value(self, C: Array) -> float:
        """Phi(C)."""
        return self.evaluate(C)[0]

    def gradient(self, C: Array) -> Array:
        """Riemannian gradient of Phi at C, shape (r, d)."""
        return self.evaluate(C)[1]

    def partial_gradient(self, C: Array, B: Array) -> Array:
        """dL/dC at fixed B: -B^T (K - B C M), shape (r, d). At B = B*(C) it is the gradient of Phi (envelope theorem).

        The ridge on B enters through M because ‖B‖ = ‖B C‖ on orthonormal C.
        """
        return -B.T @ (self.cross - B @ (C @ self.metric))

    def curvature(self, C: Array) -> LinearOperator:
        """Second derivative of V -> Phi(R_C(V)) at V = 0 as an operator on vec(V), V of shape (r, d).

        dB = Z H^-1 with H = C M C^T and Z = R V^T - B V M C^T (differentiate B H = K C^T and use R = K - B C M);
        dG = -dB^T R + B^T (dB C M + B V M). Directions inside the row space of C have curvature 0.
        """
        r, d = C.shape
        M, B = self.metric, self.coefficients(C)
        R = self.cross - B @ (C @ M)
        inverse = np.linalg.inv(C @ M @ C.T)

        def apply(vector: Array) -> Array:
            V = vector.reshape(r, d)
            V = V - (V @ C.T) @ C  # horizontal part
            dB = (R @ V.T - B @ (V @ M @ C.T)) @ inverse
            dG = -dB.T @ R + B.T @ ((dB @ C + B @ V) @ M)
            return (dG - (dG @ C.T) @ C).ravel()

        return LinearOperator((r * d, r * d), matvec=apply, dtype=np.float64)

    def largest_curvature(self, C: Array, rng: np.random.Generator) -> tuple[float, Array]:
        """Largest eigenvalue of `curvature(C)` and its direction V of unit norm (Lanczos)."""
        operator = self.curvature(C)
        values, vectors = eigsh(operator, k=1, which="LA", v0=rng.standard_normal(C.size), tol=1e-4)
        return float(values[0]), vectors[:, 0].reshape(C.shape)

    @cached_property
    def generalised_eigenvalues(self) -> tuple[Array, Array]:
        """theta_k, descending, and vectors u_k (columns) with K^T K u = theta M u and U^T M U = I."""
        theta, U = scipy.linalg.eigh(self.cross.T @ self.cross, self.metric)
        return np.maximum(theta[::-1], 0.0), U[:, ::-1]

    def optimum(self, rank: int) -> tuple[Array, float]:
        """Global optimum in closed form: C* spans the top-r u_k, and Phi* = 1/2 ‖Y‖^2 / N - 1/2 sum_{k<=r} theta_k.

        Raises:
            CapacityError: rank exceeds the directions left.
        """
        if not 1 <= rank <= self.directions:
            raise CapacityError(f"rank {rank} does not fit into {self.directions} directions; lower the rank")
        theta, U = self.generalised_eigenvalues
        return np.linalg.qr(U[:, :rank])[0].T, 0.5 * (self.energy - float(theta[:rank].sum()))

    def certified_gap(self, C: Array) -> float:
        """Upper bound of Phi(C) - Phi* from the residual at C alone; inf where C is not yet in the right basin (ours).

        In coordinates where M = I and C C^T = I, split K^T K into blocks A_1 (on the rows of C), A_2 (on the rest) and
        R between them. For a rank-r projector with block s = tr P_22 <= r, tr(P K^T K) <= tr A_1 - eta s
        + 2 sqrt(s) ‖R‖_F with eta = lambda_min(A_1) - lambda_max(A_2), so the gap is at most ‖R‖_F^2 / (2 eta).
        """
        r = len(C)
        L = np.linalg.cholesky(self.metric)
        # Rows of C L are C in whitened coordinates; QR completes them to an orthonormal basis.
        basis = np.linalg.qr((C @ L).T, mode="complete")[0]
        K = scipy.linalg.solve_triangular(L, self.cross.T, lower=True).T @ basis
        own, rest = K[:, :r], K[:, r:]
        eta = np.linalg.svd(own, compute_uv=False)[-1] ** 2 - np.linalg.norm(rest, 2) ** 2
        return float(np.linalg.norm(own.T @ rest) ** 2 / (2 * eta)) if eta > 0 else np.inf

    def rounding(self, C: Array) -> float:
        """Rounding error of `evaluate(C)`: gamma_d cond(C M C^T) ‖Y‖^2 / N (products of length d, then an inverse)."""
        spectrum = np.linalg.eigvalsh(C @ self.metric @ C.T)
        return matmul(self.directions, self.energy * float(spectrum[-1] / spectrum[0]))

    def smoothness_bound(self) -> float:
        """A-priori L = theta_1 cond(M) with Phi(R_C(V)) <= Phi(C) + <grad, V> + L/2 ‖V‖^2 for all C and V (ours).

        At any E = C + V with E E^T >= I the second derivative along V is ‖B V M^1/2‖^2 - ‖Z H^-1/2‖^2 at B = B*(E),
        hence at most ‖B‖_op^2 ‖M‖_op ‖V‖^2; and ‖B‖_op <= ‖K M^-1/2‖_op ‖(E M E^T)^-1/2‖_op, which is at most
        (theta_1 / lambda_min(M))^1/2.
        """
        spectrum = self.metric_spectrum
        return float(self.generalised_eigenvalues[0][0] * spectrum[-1] / spectrum[0])
