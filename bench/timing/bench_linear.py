"""The closed form against manifold optimisers, each run until its value is within 1e-8 of the optimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import geoopt
import numpy as np
import pymanopt
import pytest
import torch
from numpy.typing import NDArray

from bench.timing.pairs import compare
from seqlora import solve_linear

Array = NDArray[np.float64]
WIDTH, RANK, COLUMNS, RIDGE, GAP = 128, 4, 512, 1e-3, 1e-8


class Reached(Exception):
    """Raised by the objective as soon as the gap is closed."""


class Problem:
    """min over C in St(r, n) of Phi(C) = -1/2 tr[(C M C^T)^-1 C K^T K C^T], a spectrum of decay 1."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((WIDTH, COLUMNS)) * np.arange(1, WIDTH + 1)[:, None] ** -0.5
        self.Y = rng.standard_normal((WIDTH, WIDTH)) @ self.X
        self.M = self.X @ self.X.T / COLUMNS + RIDGE * np.eye(WIDTH)
        cross = self.Y @ self.X.T / COLUMNS
        self.H = cross.T @ cross
        self.start = np.linalg.qr(rng.standard_normal((WIDTH, RANK)))[0]  # transposed: rows of C are columns here
        optimum = float(solve_linear(self.X, self.Y, RANK, RIDGE).value) - 0.5 * float((self.Y**2).sum()) / COLUMNS
        self.target = optimum + GAP * (self.value_and_gradient(self.start)[0] - optimum)

    def value_and_gradient(self, V: Array) -> tuple[float, Array]:
        """Phi and its Euclidean gradient at C = V^T, shape (n, r)."""
        # With P = (V^T M V)^-1: dPhi = -(H V P - M V P V^T H V P)
        HV, MV = self.H @ V, self.M @ V
        P = np.linalg.inv(V.T @ MV)
        return -0.5 * float(np.trace(P @ (V.T @ HV))), -(HV @ P - MV @ (P @ (V.T @ HV) @ P))


def with_pymanopt(problem: Problem) -> Callable[[], object]:
    manifold = pymanopt.manifolds.Grassmann(WIDTH, RANK)

    @pymanopt.function.numpy(manifold)
    def cost(V: Array) -> float:
        value = problem.value_and_gradient(V)[0]
        if value <= problem.target:
            raise Reached
        return value

    @pymanopt.function.numpy(manifold)
    def gradient(V: Array) -> Array:
        return problem.value_and_gradient(V)[1]

    task = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    optimizer = pymanopt.optimizers.ConjugateGradient(
        max_iterations=100_000, min_gradient_norm=0, min_step_size=0, max_time=120, verbosity=0
    )

    def run() -> None:
        try:
            optimizer.run(task, initial_point=problem.start)
        except Reached:
            return
        raise AssertionError("pymanopt stopped before the gap was closed")

    return run


def with_geoopt(problem: Problem) -> Callable[[], object]:
    M, H = torch.from_numpy(problem.M), torch.from_numpy(problem.H)

    scale = abs(problem.target)  # so that the step is in units of the objective

    def run() -> None:
        V = geoopt.ManifoldParameter(torch.from_numpy(problem.start.copy()), manifold=geoopt.EuclideanStiefel())
        # The fastest of the settings tried: SGD with Nesterov momentum .9 and steps .03 to 1 (1 is best), Adam at .02.
        optimizer = geoopt.optim.RiemannianSGD([V], lr=1.0, momentum=0.9, nesterov=True)
        for _ in range(100_000):
            optimizer.zero_grad()
            value = -0.5 * torch.trace(torch.linalg.solve(V.T @ M @ V, V.T @ H @ V))
            if value.item() <= problem.target:
                return
            (value / scale).backward()
            optimizer.step()
        raise AssertionError("geoopt stopped before the gap was closed")

    return run


@pytest.mark.parametrize(
    ("rival", "name"),
    [(with_pymanopt, "pymanopt conjugate gradient"), (with_geoopt, "geoopt Riemannian SGD")],
    ids=["pymanopt", "geoopt"],
)
def test_against_a_manifold_optimiser(
    benchmark: Any, rival: Callable[[Problem], Callable[[], object]], name: str
) -> None:
    problem = Problem()
    compare(
        benchmark,
        lambda: solve_linear(problem.X, problem.Y, RANK, RIDGE),
        rival(problem),
        name=f"{name} to a 1e-8 gap / solve_linear",
        goal=20,
        smaller_is_better=False,
        rounds=5,
    )
