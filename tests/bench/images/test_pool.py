"""Rows of one orthonormal pool: disjoint where they fit, r²/n shared past that, all shared for one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.personalise.pool import chosen_rows, pool
from bench.personalise.shared import Learnt, Training
from bench.personalise.tokens import ED_LORA
from seqlora import SeqLoRAConfig
from seqlora.errors import CapacityError
from seqlora.subspace import overlap


def frozen(rank: int, concepts: int) -> SeqLoRAConfig:
    return SeqLoRAConfig(
        rank=rank, target_modules=r"unet\..*attn1\.to_q", basis="frozen", orthogonal=False, start="random",
        train_on="base", start_batches=2, planned_concepts=concepts,
    )  # fmt: skip


def overlaps(learnt: list[Learnt]) -> list[float]:
    pairs = [(a, b) for i, a in enumerate(learnt) for b in learnt[:i]]
    return [overlap(a.factors[k][0], b.factors[k][0]) for a, b in pairs for k in a.factors]


def test_pool_is_orthogonal_and_the_same_for_all() -> None:
    O = pool(12, 3)
    np.testing.assert_allclose(O @ O.T, np.eye(12), atol=1e-13)
    assert not np.allclose(O, pool(12, 4))


def test_rows_are_disjoint_where_they_fit_and_share_their_expected_number_past_that() -> None:
    fitting = [chosen_rows(12, 4, j, 3, 0, "layer") for j in range(3)]
    assert sorted(np.concatenate(fitting)) == list(range(12))
    n, rank, layers = 12, 5, 300
    shared = [
        len(np.intersect1d(*(chosen_rows(n, rank, j, 3, 0, f"layer {k}") for j in range(2)))) for k in range(layers)
    ]
    law = stats.hypergeom(n, rank, rank)  # mean r²/n
    assert law.mean() == pytest.approx(rank**2 / n)
    # the sum of independent counts, by its normal limit: a right program fails once in 10^6 seeds
    assert abs(np.mean(shared) - law.mean()) < stats.norm.isf(5e-7) * law.std() / np.sqrt(layers)


def test_trained_bases_are_orthogonal_overlapping_or_equal(training: Training, load: Callable[[], Any]) -> None:
    fits = training.run(frozen(8, 3), load, style=ED_LORA, bases="pool")  # 3 x 8 of 32 directions
    assert max(overlaps(fits)) < 1e-5
    full = training.run(frozen(20, 3), load, bases="pool")  # 60 of 32: at least 8 directions of each pair are shared
    assert min(overlaps(full)) >= np.sqrt(8) - 1e-5
    same = training.run(frozen(4, 3), load, bases="same")
    np.testing.assert_allclose(np.square(overlaps(same)), 4, atol=1e-5)  # each of the four directions overlaps by 1
    with pytest.raises(CapacityError, match="larger than its width"):
        training.run(frozen(33, 3), load, bases="pool")


def test_what_is_stored_depends_on_where_bases_come_from(training: Training, load: Callable[[], Any]) -> None:
    a, b = (training.run(frozen(4, 3), load, bases=bases) for bases in ("pool", "same"))
    assert overlap(a[1].factors[(k := next(iter(a[1].factors)))][0], b[1].factors[k][0]) < np.sqrt(4) - 1e-3
