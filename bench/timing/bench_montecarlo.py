"""Batched Monte Carlo of C3 against the plain loop that one would write first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.timing.pairs import compare
from theory.montecarlo import forgetting_samples, symmetric_root

WIDTH, RANK, LATER, COLUMNS, TRIALS = 64, 4, 3, 16, 20_000
LOOP_TRIALS = 200


@pytest.mark.parametrize("family", ["gaussian", "rademacher"])
def test_trials_against_a_loop(benchmark: Any, family: str) -> None:
    rng = np.random.default_rng(0)
    S = np.diag(np.arange(1, WIDTH + 1.0) ** -1)
    bases = np.linalg.qr(rng.standard_normal((WIDTH, LATER * RANK)))[0].T
    M = rng.standard_normal((WIDTH, LATER * RANK)) @ bases
    root = symmetric_root(S)

    def loop() -> None:
        for _ in range(LOOP_TRIALS):
            shape = (WIDTH, COLUMNS)
            Z = rng.standard_normal(shape) if family == "gaussian" else rng.choice([-1.0, 1.0], shape)
            np.linalg.norm(M @ (root @ Z)) ** 2 / COLUMNS

    compare(
        benchmark,
        lambda: forgetting_samples(M, S, COLUMNS, family, TRIALS, rng),
        loop,
        name=f"plain NumPy loop / batched Monte Carlo, {family}, a trial",
        goal=50,
        smaller_is_better=False,
        share=LOOP_TRIALS / TRIALS,
    )
