"""Claim C9: rank correlations of energies and identity drops over cells, with controls that have no relation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from bench import prediction
from bench.api import Cell, MetricMatrix
from bench.prediction import Sample, judge_prediction, points_of, predict
from bench.schema import CellAxes, CellRecord
from seqlora.errors import BadInputError

T = 4


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "RESAMPLES", 120)


LATER = np.tri(T, k=-1, dtype=bool)


class Stored:
    """The part of a record that is read."""

    def __init__(self, energy: np.ndarray, identity: np.ndarray, method: str = "a", seed: int = 0) -> None:
        self.cell = CellAxes(task="portraits", method=method, n_concepts=len(energy), order=0, seed=seed)
        self.parts = {"forgetting_energy": energy, "identity": identity}

    def matrix(self, metric: str) -> MetricMatrix | None:
        if metric not in self.parts:
            return None
        R = self.parts[metric]
        nothing = np.full(len(R), np.nan)
        return MetricMatrix(metric, R, nothing, nothing)


def cells(
    methods: dict[str, float], seeds: int, related: bool, rng: np.random.Generator, moved: str = "noise"
) -> list[CellRecord]:
    """Energies around a level for each method; drops follow energies, or only the level of the method."""
    found = []
    for seed in range(seeds):
        for method, level in methods.items():
            noise = rng.random((T, T))
            energy = np.where(LATER, level + noise, 0.0)
            drop = energy**2 if related else np.where(LATER, level + rng.random((T, T)), 0.0)
            record = Stored(energy, 0.8 - drop, method, seed)
            record.parts["update_change"] = energy.copy() if moved == "energy" else rng.random((T, T))
            found.append(record)
    return found  # type: ignore[return-value]


def test_points_are_energy_and_drop_since_the_concept_was_learnt() -> None:
    energy, identity = np.array([[0.0, np.nan], [2.0, 0.0]]), np.array([[0.9, np.nan], [0.5, 0.8]])
    points = points_of(Stored(energy, identity))  # type: ignore[arg-type]
    np.testing.assert_allclose(points, [[2.0, 0.4, np.nan, np.nan]])


def test_statistics_agree_with_an_independent_implementation() -> None:
    rng = np.random.default_rng(0)
    e, d, c = rng.integers(0, 8, (3, 60)).astype(float)  # ties
    d += e
    sample = Sample(np.column_stack([e, d, c, c, c]), np.zeros(60, dtype=int))
    assert prediction.overall(sample) == pytest.approx(spearmanr(e, d).statistic)
    assert prediction.STATISTICS["rival"](sample) == pytest.approx(spearmanr(c, d).statistic)
    assert prediction.within(sample) == pytest.approx(spearmanr(e, d).statistic)  # one method
    assert prediction.STATISTICS["fisher"](sample) == pytest.approx(spearmanr(c, d).statistic)
    # partial correlation: of what is left of the ranks after a linear fit on the ranks of c
    ranks = np.array([[np.sum(x < v) + (np.sum(x == v) + 1) / 2 for v in x] for x in (e, d, c)])
    left = [np.polyval(np.polyfit(ranks[2], x, 1), ranks[2]) - x for x in ranks[:2]]
    assert prediction.partial(sample) == pytest.approx(np.corrcoef(left)[0, 1])


def test_a_relation_holds_and_shuffled_energies_have_none() -> None:
    rng = np.random.default_rng(0)
    related = cells({"a": 0.1, "b": 0.4}, 6, True, rng)
    found = predict(related, rng)
    assert found.correlation == pytest.approx(1.0)
    assert found.low == pytest.approx(1.0)
    assert found.units == "6 seeds"
    result = judge_prediction(related, rng)
    assert str(result.verdict) == "holds"
    assert result.controls_broken
    assert len(result.tables["points"]) == 12 * LATER.sum()


def test_no_relation_fails() -> None:
    rng = np.random.default_rng(1)
    found = cells({"a": 0.5, "b": 0.5}, 12, False, rng)
    assert str(judge_prediction(found, rng).verdict).startswith("fails when asked for a positive rank correlation")


def test_ranks_within_methods_are_taken_method_by_method() -> None:
    rng = np.random.default_rng(5)
    method = rng.permutation(np.repeat([0, 3, 7], [1, 9, 20]))
    numbers = rng.integers(6, size=(len(method), 3)).astype(float)  # with ties
    ranks = []
    for one in np.unique(method):
        mine = rankdata(numbers[method == one, :2], axis=0)
        ranks.append((mine - mine.mean(0)) / len(mine))
    e, d = np.concatenate(ranks).T
    assert prediction.within(prediction.Sample(numbers, method)) == pytest.approx(np.corrcoef(e, d)[0, 1], abs=1e-12)


def test_methods_that_differ_in_both_are_no_relation_within_a_method() -> None:
    rng = np.random.default_rng(2)
    verdict = judge_prediction(cells({"a": 0.0, "b": 5.0}, 12, False, rng), rng).verdict
    assert verdict.kind == "holds when"
    assert "within methods" in verdict.condition


def test_what_the_norm_says_already_is_not_counted_for_the_energies() -> None:
    rng = np.random.default_rng(3)
    verdict = judge_prediction(cells({"a": 0.1, "b": 0.4}, 6, True, rng, moved="energy"), rng).verdict
    assert verdict.kind == "holds when"
    assert "given how far the weights moved" in verdict.condition


def test_shuffling_within_methods_keeps_every_method_s_energies() -> None:
    rng = np.random.default_rng(4)
    sample = Sample(rng.random((40, 3)), rng.integers(0, 3, 40))
    for within in (True, False):
        mixed = prediction._shuffled(sample, rng, within)
        assert not np.array_equal(mixed.numbers[:, 0], sample.numbers[:, 0])
        np.testing.assert_array_equal(mixed.numbers[:, 1:], sample.numbers[:, 1:])
        for method in range(3):
            mine = sample.method == method
            same = np.array_equal(np.sort(mixed.numbers[mine, 0]), np.sort(sample.numbers[mine, 0]))
            assert same == within


def test_numbers_on_the_way_are_read_beside_the_energies_and_decide_nothing() -> None:
    rng = np.random.default_rng(7)
    found = cells({"a": 0.5, "b": 0.5}, 12, False, rng)
    before = judge_prediction(found, np.random.default_rng(0))
    assert "On the way" not in before.evidence
    for record in found[::2]:
        drop = 0.8 - record.parts["identity"]  # type: ignore[attr-defined]
        record.parts["prediction_change"] = drop**3  # type: ignore[attr-defined]
        record.parts["fisher_energy"] = rng.random((T, T))  # type: ignore[attr-defined]
    readings = predict(found, np.random.default_rng(0)).readings
    for name in ("prediction", "prediction within"):
        assert readings[name].low == pytest.approx(1.0)
    for name in ("plain", "fisher"):
        assert readings[name].low < 0 < readings[name].high
    after = judge_prediction(found, np.random.default_rng(0))
    assert "in the 12 cells that measured it" in after.evidence
    assert after.verdict == before.verdict
    assert after.checks == before.checks


def test_few_seeds_are_resampled_by_cell_and_one_cell_is_no_sample() -> None:
    rng = np.random.default_rng(5)
    assert predict(cells({"a": 0.1}, 3, True, rng), rng).units == "3 cells"
    with pytest.raises(BadInputError, match="1 cells hold"):
        predict(cells({"a": 0.1}, 1, True, rng), rng)


def test_a_cell_without_identity_or_norms_is_left_out_of_what_needs_them() -> None:
    rng = np.random.default_rng(6)
    found = cells({"a": 0.1, "b": 0.4}, 3, True, rng)
    for record in found:
        del record.parts["update_change"]  # type: ignore[attr-defined]
    assert not np.isfinite(predict(found, rng).readings["partial"].value)
    assert "not defined" in judge_prediction(found, rng).evidence
    assert len(points_of(SimpleNamespace(matrix=lambda metric: None))) == 0  # type: ignore[arg-type]
    assert isinstance(found[0].cell, CellAxes)
    assert Cell("portraits", "a", 4).task == found[0].cell.task
