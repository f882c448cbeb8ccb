"""Planted regressions, in the code that runs: each turns the comparison red, on the same machine and on another one.

On the same machine any changed number is a failure, so that half of the proof is easy. The other half relabels the
base as coming from elsewhere, where only the paired tests may decide, with the committed margins and half the seeds
of the gate suite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.api import Array, Cell
from bench.methods.linear import api, plain, sequential
from bench.methods.trained import METHODS as TRAINED
from bench.methods.trained import sequential as trained
from bench.regression.comparison import Comparison, compare
from bench.regression.margins import load_margins
from bench.regression.snapshot import Snapshot
from bench.store import Store
from bench.suites import SUITES

CELLS = [cell for cell in SUITES["gate"].cells() if cell.task.startswith("linear-") and cell.seed < 8]
Plant = Callable[[pytest.MonkeyPatch], None]


def reused_basis(patch: pytest.MonkeyPatch) -> None:
    """Every concept is fitted in the basis of the first one."""

    def fit(S: Array, K: Array, rank: int, ridge: float, *_: Any, past_bases: Array | None, **__: Any) -> api.LowRank:
        if past_bases is None:
            return api.best_update(S, K, rank, ridge)
        A = past_bases[:rank]
        return api.LowRank(api.coefficients(A, S, K, ridge), A)

    patch.setattr(sequential, "best_update", fit)


def dropped_projection(patch: pytest.MonkeyPatch) -> None:
    """The closed form forgets the earlier bases."""

    def fit(*arguments: Any, past_bases: Array | None, **named: Any) -> api.LowRank:
        return api.best_update(*arguments, past_bases=None, **named)

    patch.setattr(sequential, "best_update", fit)


def dropped_projection_in_training(patch: pytest.MonkeyPatch) -> None:
    """The Riemannian step forgets the earlier bases."""
    patch.setattr(trained.SeqLoRA, "orthogonal", False)


def wrong_merge_weight(patch: pytest.MonkeyPatch) -> None:
    """Plain updates are merged with weight 1.1."""
    patch.setattr(plain.PlainSum, "weight", lambda method, updates: 1.1)


def averaged_instead_of_summed(patch: pytest.MonkeyPatch) -> None:
    """Every share counts 1/t in the merged model, also of methods that trained in sequence.

    Where nothing holds interference down (SeqLoRA's closed form without the penalty) a smaller merge is a better one
    on these layers; with the penalty it is worse. So only the latter can be caught as worse, both as changed.
    """

    def merged(stage: api.Stage) -> api.LowRank:
        B, A = api.stack(stage.shares)
        return api.LowRank(B / len(stage.shares), A)

    patch.setattr(api.Stage, "merged", property(merged))


def halved_inner_steps(patch: pytest.MonkeyPatch) -> None:
    """B gets half of its steps before A moves."""
    full = TRAINED["seqlora"]
    assert isinstance(full, trained.SeqLoRA)
    half = trained.SeqLoRA(inner_steps=full.inner_steps // 2)
    patch.setattr(TRAINED, "_entries", {**TRAINED._entries, "seqlora": half})


PLANTS: dict[Plant, set[str]] = {  # -> methods that must be called worse
    reused_basis: {"seqlora", "seqlora-penalty"},
    dropped_projection: {"seqlora", "seqlora-penalty"},
    dropped_projection_in_training: {"seqlora"},
    wrong_merge_weight: {"plain-sum"},
    averaged_instead_of_summed: {"seqlora-penalty"},
    halved_inner_steps: {"seqlora"},
}


class Bench:
    """The base, computed once for all plants, and what the planted code makes of the same cells."""

    def __init__(self, make: SimpleNamespace, folder: Path) -> None:
        self.make, self.store = make, Store(folder)

    @cached_property
    def base(self) -> Snapshot:
        found: Snapshot = self.make.measured(CELLS, self.store)
        return found

    def affected(self, plant: Plant) -> list[Cell]:
        """The cells that a plant can reach: the rest would be computed for nothing."""
        task = "linear-trained" if plant in (dropped_projection_in_training, halved_inner_steps) else "linear-synthetic"
        return [cell for cell in CELLS if cell.task == task and cell.method in PLANTS[plant]]

    def with_plant(self, plant: Plant, patch: pytest.MonkeyPatch) -> Snapshot:
        with patch.context() as planted:
            plant(planted)
            changed = self.make.measured(self.affected(plant), self.store).by_cell()
        cells = [changed.get(entry.cell, entry) for entry in self.base.cells]
        return self.base.model_copy(update={"cells": cells})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from .conftest import elsewhere, measured

    return Bench(SimpleNamespace(measured=measured, elsewhere=elsewhere), tmp_path_factory.mktemp("planted"))


def worse(found: Comparison) -> set[str]:
    return {gate.group[1] for gate in found.regressions}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_regression_is_caught(plant: Plant, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = bench.with_plant(plant, monkeypatch)
    here = compare(bench.base, candidate, load_margins())
    assert here.exit_code == 1
    assert {difference.cell.method for difference in here.different} >= PLANTS[plant]
    there = compare(bench.make.elsewhere(bench.base), candidate, load_margins())
    assert not there.different
    assert there.exit_code == 1
    assert worse(there) >= PLANTS[plant]


def test_the_same_code_is_equal_here_and_unchanged_there(bench: Bench) -> None:
    """The control: nothing planted, nothing found."""
    again = bench.make.measured(CELLS, bench.store)
    assert {gate.verdict for gate in compare(bench.base, again, load_margins()).gates} == {"equal"}
    there = compare(bench.make.elsewhere(bench.base), again, load_margins())
    assert {gate.verdict for gate in there.gates} == {"unchanged"}
    assert there.exit_code == 0


def test_lost_orthogonality_alone_breaks_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = bench.with_plant(dropped_projection, monkeypatch)
    there = compare(bench.make.elsewhere(bench.base), candidate, load_margins())
    broken = {gate.group[1] for gate in there.regressions if gate.number.name == "bound_violations"}
    assert broken == {"seqlora", "seqlora-penalty"}
    assert np.isfinite(there.gates[0].base)
