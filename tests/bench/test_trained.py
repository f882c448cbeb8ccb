"""The trained layers: the optimiser comes to the closed-form answer if it is given the steps, and not otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from bench.api import Cell
from bench.methods import methods
from bench.methods.trained.sequential import SeqLoRA, equivalent_batch
from bench.metrics.forgetting import summary
from bench.runner import Job, compute
from bench.schema import CellRecord
from bench.store import Store
from bench.tasks import load_task
from bench.tasks.trained import TrainedTask
from theory.tolerance import eigenvalue

TASK = "linear-trained:width=16,samples=100,rank=2"


def record(method: str, store: Store, seed: int = 0, concepts: int = 2) -> CellRecord:
    done = compute(Cell(TASK, method, concepts, 0, seed), store, Job(store.folder))
    assert done.status == "done", done.traceback
    return done


def final_error(found: CellRecord) -> float:
    matrix = found.matrix("relative_error")
    assert matrix is not None
    return summary(matrix)["final"]


@pytest.mark.parametrize("rank_deficient", [False, True])
def test_the_batch_has_the_moments_it_stands_for(rank_deficient: bool) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((6, 4 if rank_deficient else 40))
    D = rng.standard_normal((5, 6))
    S, K = X @ X.T / X.shape[1], D @ X @ X.T / X.shape[1]
    inputs, targets = (part.numpy() for part in equivalent_batch(S, K, 2.0))
    # U Λ Uᵀ from computed eigenpairs, divided by Λ^{1/2} once more for K: a multiple of the eigenvalue's tolerance
    bound = 10 * eigenvalue(6, float(np.linalg.norm(S))) * max(1.0, float(np.linalg.norm(D)))
    np.testing.assert_allclose(inputs.T @ inputs / 6, S / 2, rtol=0, atol=bound)
    np.testing.assert_allclose(targets.T @ inputs / 6, K / 2, rtol=0, atol=bound * np.sqrt(np.linalg.cond(X.T @ X)))


def test_one_concept_comes_to_its_closed_form_optimum(store: Store) -> None:
    found = record("seqlora:cycles=120,rate=0.03", store, concepts=1)
    matrix = found.matrix("fit_error")
    assert matrix is not None
    # S is the exact optimum of the regularised objective, whose fit no update of this rank beats by more than the ridge
    assert matrix.values[0, 0] == pytest.approx(matrix.single[0], abs=5e-3)
    short = record("seqlora:cycles=2", store, concepts=1).matrix("fit_error")
    assert short is not None
    assert short.values[0, 0] > matrix.single[0] + 0.1


def test_bases_are_orthogonal_and_those_of_the_control_are_not(store: Store) -> None:
    overlaps = {
        method: max(value.value for value in record(method, store).values if value.metric == "overlap")
        for method in methods("trained")
    }
    assert overlaps["seqlora"] < 1e-6 < overlaps["plain-sequence"]


def test_half_the_inner_steps_leave_more_of_the_error(store: Store) -> None:
    assert SeqLoRA().inner_steps == 4
    for seed in range(3):
        assert final_error(record("seqlora:inner_steps=2", store, seed)) > final_error(record("seqlora", store, seed))


def test_the_data_are_those_of_the_synthetic_layers_under_another_name() -> None:
    task = load_task("linear-trained:decay=2.0")
    assert isinstance(task, TrainedTask)
    assert task.name == "linear-trained:decay=2.0"
    assert task.family == "trained"
